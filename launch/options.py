"""What several commands have in common: how their help looks, and options."""

import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from neurochorus.models import SAMPLING_SETTINGS


class _ExamplesAsWritten(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of a description as they are."""


def command_parser(prog: str, description: str | None) -> ArgumentParser:
    """A parser whose help shows the description, with its examples, as it is written."""
    return ArgumentParser(prog=prog, description=description, formatter_class=_ExamplesAsWritten)


def add_device(parser: ArgumentParser) -> None:
    """Add --device, whose value is for models.load."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1; auto: the accelerator when there is one"
    )


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
        "--scratch-config",
        default=None,
        help="with --compare: run whose steps and rates are used from nothing; default: config.yaml beside the model",
    )
    add_comparing_arms(parser, "with --compare: ")


UNIT_IDS = "text file with the unit id of each column of an .npy, one a line; default: all of the model, in its order"


def add_comparing_arms(parser: ArgumentParser, when: str = "") -> None:
    """Add what a comparison trains, and how; `when` begins the help of each option."""
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], help=f"{when}shares of the data"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1], help=f"{when}of training, and of which data is used"
    )
    parser.add_argument("--arms", nargs="+", default=["rows", "lora", "full"], help=f"{when}rows, lora, unfreeze, full")
    parser.add_argument(
        "--tuned",
        nargs="+",
        default=None,
        metavar="WIDTH:BLOCKS:LATENTS[:SHARE-OF-STEPS]",
        help=f"{when}sizes and steps, of which the best on the valid split is the tuned model; default: three",
    )
    parser.add_argument(
        "--measure",
        default="forecast",
        metavar="forecast|decoding:COVARIATE",
        help=f"{when}what is scored on the test split: rollouts, or a covariate decoded from latents and from counts",
    )
    parser.add_argument("--jobs", type=int, default=1, help=f"{when}trainings side by side")
    parser.add_argument("--ranks", type=int, default=1, help=f"{when}processes of each training")


def overrides_last(arguments: Sequence[str], loose: Sequence[str] = ()) -> list[str]:
    """The words of a command with section.key=value behind all others: argparse takes them in one stretch only.

    A `--` before them keeps them from an option that takes several values. `loose`: settings of no section.
    """
    pattern = "|".join([r"\w+(\.\w+)+", *map(re.escape, loose)])
    overrides = [word for word in arguments if re.match(f"({pattern})=", word)]
    others = [word for word in arguments if word not in overrides]
    return [*others, "--", *overrides] if overrides else others
