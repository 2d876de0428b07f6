"""launch/pretrain.py, but rank 1 sleeps for ever in one of its reads; for test_hang.py."""

import os
import sys
import time
from typing import Any

from neurochorus.data_shards.corpus import Corpus
from neurochorus.launch import pretrain

READS_BEFORE = 8

read = Corpus.read_block
reads = 0


def read_until_the_disk_hangs(*arguments: Any, **options: Any) -> Any:
    global reads
    reads += 1
    if os.environ["RANK"] == "1" and reads > READS_BEFORE:
        time.sleep(3600)
    return read(*arguments, **options)


if __name__ == "__main__":
    Corpus.read_block = read_until_the_disk_hangs
    sys.exit(pretrain.main())
