"""Measure a model on a data set: reconstruction and rollout forecasts beside plain baselines, into metrics.json.

python launch/evaluate.py --model EXPORT --data DIR --split test --out DIR/metrics.json
python launch/evaluate.py --model EXPORT --data DIR --suite all --suite-set held_out_share=0.25 psth_smoothing_s=0.04
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

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.manifest import select_sessions
from neurochorus.data_shards.settings import apply_overrides, parse_settings
from neurochorus.launch.evaluation_tables import result_tables
from neurochorus.launch.options import add_device, add_sampling, command_parser
from neurochorus.models import load, read_training, set_sampling
from neurochorus.models.missing_units import accept_missing_units, missing_units_notes
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.evaluate import evaluate
from neurochorus.pretrain.evaluation.example_forecasts import write_example_forecasts
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole
from neurochorus.pretrain.evaluation.suite.run import ALL
from neurochorus.pretrain.evaluation.suite.settings import SUITES, SuiteSettings

SETTINGS = tuple(SuiteSettings.__dataclass_fields__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        read_training(options.model)  # without a model there, no directory for its metrics is made
        out = check_output(Path(options.out or Path(options.model) / "metrics.json"), ".json")
        examples = None if options.examples is None else check_output(Path(options.examples), ".npz")
        results = run(options, console, examples)
        write_whole(out, lambda file: file.write(json.dumps(results, indent=1).encode()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = Console()
    for table in result_tables(results):
        shown.print(table)
    print(f"metrics: {out}")
    return 0


def run(options: Any, console: Console, examples: Path | None = None) -> dict[str, Any]:
    """Results as plain values; raises ValueError for a model and data that do not fit."""
    model = load(options.model, options.device)
    set_sampling(model, options.sampling)
    corpus = Corpus(list(options.data), model.registry.bin_s)
    in_both = model.registry.known_among(corpus.sessions)
    if not in_both:
        found = ", ".join(entry.session_id for entry in corpus.sessions[:5])
        raise ValueError(
            f"{options.model}: knows none of the sessions in {', '.join(options.data)} ({found}, ...): "
            "add them with launch/finetune.py, or choose the data set the model was trained on"
        )
    sessions = select_sessions(corpus.sessions if options.sessions else in_both, options.sessions)
    forecast = _forecast(options)
    suite_settings = parse_settings(SuiteSettings, apply_overrides({}, options.suite_set), "--suite-set")
    beside = dict(_named(text, options.device) for text in options.beside)
    missing = accept_missing_units(model, [corpus.session(session_id) for session_id in sessions])
    for other in beside.values():
        accept_missing_units(other, [])
    for line in missing_units_notes(model, missing):
        console.print(line)
    finer = [session_id for session_id in sessions if corpus.factor_of(session_id) > 1]
    if finer:
        console.print(
            f"{len(finer)} sessions have finer bins; they are read in bins of {corpus.bin_s:g} s, the model's"
        )
    with console.status("evaluating") as status:
        results = evaluate(
            model,
            corpus,
            sessions,
            options.split,
            forecast,
            options.seed,
            beside,
            options.recalibrate,
            progress=lambda session: status.update(f"evaluating {session}"),
            suite=options.suite,
            suite_settings=suite_settings,
        )
        if examples is not None:
            write_example_forecasts(
                examples, model, corpus, list(results["sessions"]), options.split, forecast, options.seed
            )
    for session_id, why in results.get("sessions_left_out", {}).items():
        console.print(f"left out: session {session_id}: {why}")
    results |= {"missing_units": missing} if missing else {}
    return {"model": str(options.model), "data": list(options.data), "command": sys.argv, **results}


def _forecast(options: Any) -> ForecastSection:
    values = dict(read_training(options.model).get("forecast", {}))
    for name in ("context_bins", "horizon_bins", "stride_bins", "samples"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    return parse_settings(ForecastSection, values, "forecast settings")


def _named(text: str, device: str) -> tuple[str, Any]:
    name, separator, path = text.partition("=")
    if not separator:
        raise ValueError(f"--beside {text!r}: expected NAME=MODEL_DIRECTORY, such as gaussian=runs/gaussian/export")
    return name, load(path, device)


def _parser() -> ArgumentParser:
    parser = command_parser("evaluate.py", __doc__)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", nargs="+", required=True, help="data set directories or URLs")
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"])
    parser.add_argument(
        "--sessions", nargs="+", default=None, help="ids or patterns; default: all that the model knows"
    )
    parser.add_argument("--beside", nargs="+", default=[], help="NAME=MODEL_DIRECTORY: more models in the same table")
    parser.add_argument("--context-bins", type=int, default=None, help="default: as the model was trained for")
    parser.add_argument("--horizon-bins", type=int, default=None, help="default: as the model was trained for")
    parser.add_argument(
        "--stride-bins", type=int, default=None, help="from a forecast to the next in a sample; default: as trained for"
    )
    parser.add_argument("--samples", type=int, default=None, help="samples a forecast; default: as trained for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--recalibrate", action="store_true", help="also rows with the spread of latents fitted on the valid split"
    )
    parser.add_argument(
        "--suite",
        nargs="*",
        default=[],
        choices=[*SUITES, ALL],
        metavar="PART",
        help=f"more to measure, which takes longer: {', '.join(SUITES)}, or {ALL}",
    )
    parser.add_argument(
        "--suite-set",
        nargs="*",
        default=[],
        metavar="SETTING=VALUE",
        help=f"settings of these parts (pretrain/evaluation/suite/settings.py): {', '.join(SETTINGS)}",
    )
    parser.add_argument(
        "--examples", default=None, help=".npz: also keep a few forecasts of each session, for report.py"
    )
    add_sampling(parser)
    add_device(parser)
    parser.add_argument("--out", default=None, help="default: metrics.json in the model directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
