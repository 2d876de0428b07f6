"""Output that nobody reads any more ends nothing."""

import os
import subprocess
import sys

import pytest

TALK = """
import sys
from rich.console import Console
from neurochorus.pretrain.console import lasting
console = Console(file=lasting(sys.stderr))
sys.stdin.readline()
for _ in range(3):
    console.print("a line")
sys.exit(7)
"""


@pytest.mark.parametrize("bare", [False, True])
def test_a_process_outlives_the_reader_of_its_output(bare: bool) -> None:
    """In a bare environment too, where Python keeps what it could not write and ends with 120 for it."""
    environment = {"HOME": os.environ.get("HOME", "/")} if bare else None
    talker = subprocess.Popen(
        [sys.executable, "-c", TALK], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert talker.stderr is not None
    talker.stderr.close()
    assert talker.stdin is not None
    talker.stdin.write("go on\n")
    talker.stdin.close()
    assert talker.wait(300) == 7
