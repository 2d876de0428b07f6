"""Options that several commands have in common."""

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
