"""What the training commands share: from settings to an exit status, on any number of ranks."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from neurochorus.pretrain.console import lasting
from neurochorus.pretrain.distributed import LostRanks, Ranks, one_voice, process_group
from neurochorus.pretrain.launcher import join_launcher
from neurochorus.pretrain.loop import StoppedEarly

Config = TypeVar("Config")


def run_training(configure: Callable[[], Config], train: Callable[[Config, Ranks], Path | None]) -> int:
    """Read the settings, join the ranks, train (or what `train` does); returns the exit status.

    0 when done, and after a stop that was asked for; 1 after an error; 75 ("temporary failure" of sysexits.h) when
    another rank was lost, so that the same command would continue.
    """
    try:
        with one_voice():
            join_launcher()
            config = configure()
        with process_group() as ranks:
            export = train(config, ranks)
            if ranks.first and export is not None:
                print(f"model: {export}", file=lasting(sys.stdout))
    except StoppedEarly as stopped:
        if stopped.first_rank:
            print(f"{stopped}; run the same command to continue", file=lasting(sys.stderr))
    except (ValueError, OSError, FloatingPointError, LostRanks) as error:
        print(f"error: {error}", file=lasting(sys.stderr))
        return os.EX_TEMPFAIL if isinstance(error, LostRanks) else 1
    return 0
