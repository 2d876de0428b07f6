"""Adapt a model to sessions that it never saw, of known or new animals: rows alone, or the trunk too; export again.

python launch/finetune.py --model EXPORT --data DIR --sessions 'subject:otter' --out RUN_DIR [section.key=value ...]
python launch/finetune.py ... --adapt lora lora.rank=4 --dry-run           what would be trained, on what
python launch/finetune.py ... --compare scratch --fractions 0.1 0.5 1      against training from nothing
deepspeed --num_gpus 2 launch/finetune.py ...
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from neurochorus.data_shards.settings import apply_overrides, parse_settings, read_values
from neurochorus.launch.options import add_comparing, command_parser, overrides_last
from neurochorus.launch.training import run_training
from neurochorus.pretrain.adaptation.preview import Preview, preview
from neurochorus.pretrain.finetuning import FinetuneConfig, finetune


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = options_of(sys.argv[1:] if arguments is None else arguments)
    if options.compare is not None:
        from neurochorus.launch.comparing import compare  # what it needs takes seconds to import

        for given, name, instead in (
            (options.dry_run, "--dry-run", "leave it out"),
            (options.adapt, "--adapt", "name what is compared with --arms"),
        ):
            if given:
                print(f"error: {name} says nothing of --compare: {instead}", file=sys.stderr)
                return 1
        return compare(options, lambda: values_of(options))

    def configure() -> FinetuneConfig:
        return parse_settings(FinetuneConfig, values_of(options), options.config or "command line")

    if not options.dry_run:
        return run_training(configure, finetune)
    try:
        config = configure()
        show(preview(config), config, Console(width=120, highlight=False, soft_wrap=True))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show(found: Preview, config: FinetuneConfig, console: Console) -> None:
    """Print what would be trained."""
    console.print(f"adapt: {config.adapt}; base model: {config.model}")
    for stage, groups in found.groups.items():
        section = getattr(config, stage)
        moving = sum(group.parameters for group in groups)
        console.print(
            f"{stage}: {found.steps[stage]:,} steps; {moving:,} parameters move, {found.frozen[stage]:,} stay as they "
            "are"
        )
        for group in sorted(groups, key=lambda group: group.begins):
            late = f", from step {group.begins * found.steps[stage]:.0f} on" if group.begins else ""
            rate = section.learning_rate * group.factor
            console.print(f"  {group.name}: {group.parameters:,}, learning rate {rate:.3g}{late}")
    for one in found.sessions:
        console.print(
            f"session {one.session_id} of {one.subject_id}: {one.units} units, {one.train_windows} train windows "
            f"({one.train_minutes:.1f} minutes), {one.valid_windows} valid windows"
        )
    if found.replayed:
        assert config.replay is not None
        console.print(f"replay: {config.replay.share:.0%} of each batch from {', '.join(found.replayed)}")
    for line in found.warnings:
        console.print(f"little data: {line}")


def options_of(words: Sequence[str]) -> Any:
    """The words of the command; what --set says is among the `overrides`."""
    options = _parser().parse_args(overrides_last(words, list(FinetuneConfig.__dataclass_fields__)))
    options.overrides = [*options.set, *options.overrides]
    return options


def values_of(options: Any) -> dict[str, Any]:
    """Settings of the adaptation: those of the file, and over them those of the command."""
    values = read_values(options.config) if options.config else {}
    given = {"model": options.model, "run": {"dir": options.out}, "data": {"path": options.data}}
    if options.sessions:
        given["data"]["sessions"] = options.sessions
    for name, value in given.items():
        section = values.get(name, {})
        if isinstance(value, dict):  # a section of another type stays, to be reported
            value = {**section, **value} if isinstance(section, dict) else section
        values[name] = value
    if options.adapt is not None:
        values["adapt"] = options.adapt
    return apply_overrides(values, options.overrides)


def _parser() -> ArgumentParser:
    parser = command_parser("finetune.py", __doc__)
    parser.add_argument("--model", required=True, help="model directory to start from")
    parser.add_argument("--data", nargs="+", required=True, help="data set directories or URLs with the new sessions")
    parser.add_argument(
        "--sessions", nargs="+", default=None, help="ids or patterns, such as 'subject:otter'; default: all"
    )
    parser.add_argument(
        "--adapt",
        choices=["rows", "lora", "unfreeze", "full"],
        default=None,
        help="what moves besides rows of the new sessions: nothing (the default), low-rank updates, the trunk from its "
        "output downwards, or all of it",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained, and start nothing")
    parser.add_argument("--out", required=True, help="run directory; the model goes to OUT/export")
    parser.add_argument("--config", default=None, help="YAML with further settings")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as overrides; also of no section")
    add_comparing(parser)
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; not used")
    parser.add_argument("overrides", nargs="*", default=[], help="section.key=value, put over the rest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
