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


def overrides_last(arguments: Sequence[str]) -> list[str]:
    """The words of a command with section.key=value behind all others: argparse takes them in one stretch only."""
    return sorted(arguments, key=lambda word: re.match(r"\w+(\.\w+)+=", word) is not None)
