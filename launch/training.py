"""What the training commands share: from settings to an exit status, on any number of ranks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from neurochorus.pretrain.distributed import LostRanks, Ranks, one_voice, process_group
from neurochorus.pretrain.loop import StoppedEarly

Config = TypeVar("Config")


def run_training(configure: Callable[[], Config], train: Callable[[Config, Ranks], Path]) -> int:
    """Read the settings, join the ranks, train; returns the exit status. A stop that was asked for is no error."""
    try:
        with one_voice():
            config = configure()
        with process_group() as ranks:
            export = train(config, ranks)
            if ranks.first:
                print(f"model: {export}")
    except StoppedEarly as stopped:
        if stopped.first_rank:
            print(f"{stopped}; run the same command to continue", file=sys.stderr)
    except (ValueError, OSError, FloatingPointError, LostRanks) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
