"""Hide units, and bins, of held-out recordings on purpose, and score what a model fills in beside plain baselines.

python launch/score_imputation.py --model EXPORT --data DIR --split test --gap-bins 20 --out DIR/imputation.json
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import json
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.manifest import select_sessions
from neurochorus.data_shards.settings import parse_settings
from neurochorus.launch.options import add_device, command_parser
from neurochorus.models import load, read_training
from neurochorus.models.missing_units import accept_missing_units, missing_units_notes
from neurochorus.pretrain.evaluation.imputation import HidingSettings, score_imputation
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole

IMPUTATION = ("look_ahead_bins", "particles", "least_share", "head")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        read_training(options.model)  # without a model there, no directory for its scores is made
        out = check_output(Path(options.out or Path(options.model) / "imputation.json"), ".json")
        results = run(options, console)
        write_whole(out, lambda file: file.write(json.dumps(results, indent=1).encode()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in ("hidden_units", "hidden_bins"):
        Console().print(_shown(name, results))
    print(f"scores: {out}")
    return 0


def run(options: Any, console: Console) -> dict[str, Any]:
    """Results as plain values; raises ValueError for a model and data that do not fit."""
    model = load(options.model, options.device)
    corpus = Corpus(list(options.data), model.registry.bin_s)
    in_both = model.registry.known_among(corpus.sessions)
    if not (in_both or options.sessions):
        raise ValueError(
            f"{options.model}: knows none of the sessions in {', '.join(options.data)}: add them with "
            "launch/finetune.py, or choose the data set the model was trained on"
        )
    sessions = select_sessions(corpus.sessions if options.sessions else in_both, options.sessions)
    missing = accept_missing_units(model, [corpus.session(session_id) for session_id in sessions])
    for line in missing_units_notes(model, missing):
        console.print(line)
    settings = {name: getattr(options, name) for name in IMPUTATION if getattr(options, name) is not None}
    with console.status("imputing") as status:
        results = score_imputation(
            model,
            corpus,
            sessions,
            options.split,
            _hiding(options),
            options.seed,
            progress=lambda session: status.update(f"imputing {session}"),
            **settings,
        )
    return {"model": str(options.model), "data": list(options.data), "command": sys.argv, **results}


def _hiding(options: Any) -> HidingSettings:
    trained = read_training(options.model).get("forecast", {})
    values = {name: getattr(options, name) for name in ("unit_folds", "windows", "samples")}
    values["window_bins"] = options.window_bins or trained.get("context_bins", 0) + trained.get("horizon_bins", 0)
    values["gap_bins"] = options.gap_bins or max(1, values["window_bins"] // 5)
    return parse_settings(HidingSettings, values, "what to hide")


def _shown(name: str, results: dict[str, Any]) -> Table:
    part, (start, stop) = results[name], results["gap"]
    what = f"bins {start}:{stop} of {results['window_bins']}"
    if name == "hidden_units":
        what = f"1 / {results['unit_folds']} of the units at a time"
    table = Table(
        title=f"{name.replace('_', ' ')}: {part['metric']}, {what}, {results['split']} split, "
        f"{len(results['sessions'])} sessions",
        caption=f"{part['coverage']['mean']:.1%} of the hidden entries lie in the central "
        f"{part['coverage']['level']:.0%} of the samples",
    )
    for column in ("row", "mean", "s.e. over sessions", "worst", "best"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row, values in part["rows"].items():
        numbers = values["sessions"].values()
        sem = "" if values["sem"] is None else f"{values['sem']:.4f}"
        table.add_row(row, f"{values['mean']:.4f}", sem, f"{min(numbers):.4f}", f"{max(numbers):.4f}")
    return table


def _parser() -> ArgumentParser:
    parser = command_parser("score_imputation.py", __doc__)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", nargs="+", required=True, help="data set directories or URLs")
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"])
    parser.add_argument(
        "--sessions", nargs="+", default=None, help="ids or patterns; default: all that the model knows"
    )
    parser.add_argument(
        "--window-bins", type=int, default=None, help="default: context and horizon that the model was trained for"
    )
    parser.add_argument("--gap-bins", type=int, default=None, help="hidden in the middle; default: a fifth of a window")
    parser.add_argument("--unit-folds", type=int, default=5, help="parts of the units that are hidden in turn")
    parser.add_argument("--windows", type=int, default=None, help="windows of a session at most")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--look-ahead-bins", type=int, default=None, help="after a gap, that weigh particles (10)")
    parser.add_argument("--particles", type=int, default=None, help="to cross a gap with (256)")
    parser.add_argument(
        "--least-share", type=float, default=None, help="bins with less of their power observed are gaps too (0)"
    )
    parser.add_argument("--head", default=None, help="'gaussian' uses the companion head of the same model")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)
    parser.add_argument("--out", default=None, help="default: imputation.json in the model directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
