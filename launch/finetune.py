"""Add sessions that a model never saw, of known or new animals: fit their rows, freeze the rest, export again.

python launch/finetune.py --model EXPORT --data DIR --sessions 'subject:otter' --out RUN_DIR [--set KEY=VALUE ...]
deepspeed --num_gpus 2 launch/finetune.py ...
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from typing import Any

from jsonargparse import ArgumentParser

from neurochorus.data_shards.settings import apply_overrides, parse_settings, read_values
from neurochorus.launch.training import run_training
from neurochorus.pretrain.finetuning import FinetuneConfig, finetune


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    where = options.config or "command line"
    return run_training(lambda: parse_settings(FinetuneConfig, _values(options), where), finetune)


def _values(options: Any) -> dict[str, Any]:
    values = read_values(options.config) if options.config else {}
    given = {"model": options.model, "run": {"dir": options.out}, "data": {"path": options.data}}
    if options.sessions:
        given["data"]["sessions"] = options.sessions
    for name, value in given.items():
        section = values.get(name, {})
        if isinstance(value, dict):  # a section of another type stays, to be reported
            value = {**section, **value} if isinstance(section, dict) else section
        values[name] = value
    return apply_overrides(values, options.overrides)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="finetune.py", description=__doc__)
    parser.add_argument("--model", required=True, help="model directory to start from")
    parser.add_argument("--data", nargs="+", required=True, help="data set directories or URLs with the new sessions")
    parser.add_argument(
        "--sessions", nargs="+", default=None, help="ids or patterns, such as 'subject:otter'; default: all"
    )
    parser.add_argument("--out", required=True, help="run directory; the model goes to OUT/export")
    parser.add_argument("--config", default=None, help="YAML with further settings")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="section.key=value, put over the rest")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; not used")
    return parser


if __name__ == "__main__":
    sys.exit(main())
