"""Options that several commands have in common."""

import re
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from neurochorus.models import SAMPLING_SETTINGS


def add_sampling(parser: ArgumentParser) -> None:
    """Add --sampling, whose values are for models.set_sampling."""
    parser.add_argument(
        "--sampling",
        nargs="*",
        default=[],
        metavar="SETTING=VALUE",
        help=f"settings to sample with, in place of those of the training: {', '.join(SAMPLING_SETTINGS)}",
    )


def add_comparing(parser: ArgumentParser) -> None:
    """Add --compare and what it takes (launch/comparing.py)."""
    parser.add_argument("--compare", choices=["scratch"], default=None, help="train every arm, and compare them")
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], help="with --compare: shares of the data"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1], help="with --compare: of training, and of which data is used"
    )
    parser.add_argument(
        "--arms", nargs="+", default=["rows", "lora", "full"], help="with --compare: rows, lora, unfreeze, full"
    )
    parser.add_argument(
        "--scratch-config",
        default=None,
        help="with --compare: run whose steps and rates are used from nothing; default: config.yaml beside the model",
    )
    parser.add_argument(
        "--small",
        nargs="+",
        default=None,
        metavar="WIDTH:BLOCKS:LATENTS",
        help="with --compare: sizes, of which the best on the valid split is the small model; default: three",
    )
    parser.add_argument("--jobs", type=int, default=1, help="with --compare: trainings side by side")
    parser.add_argument("--ranks", type=int, default=1, help="with --compare: processes of each training")


def overrides_last(arguments: Sequence[str]) -> list[str]:
    """The words of a command with section.key=value behind all others: argparse takes them in one stretch only."""
    return sorted(arguments, key=lambda word: re.match(r"\w+(\.\w+)+=", word) is not None)
