"""Measure a model on a data set: reconstruction and rollout forecasts beside plain baselines, into metrics.json.

python launch/evaluate.py --model EXPORT --data DIR --split test --out DIR/metrics.json
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
from neurochorus.launch.options import add_sampling
from neurochorus.models import load, read_training, set_sampling
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.evaluate import evaluate
from neurochorus.pretrain.evaluation.example_forecasts import write_example_forecasts
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        read_training(options.model)  # without a model there, no directory for its metrics is made
        out = check_output(Path(options.out or Path(options.model) / "metrics.json"), ".json")
        results = run(options, console)
        write_whole(out, lambda file: file.write(json.dumps(results, indent=1).encode()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in ("forecast", "reconstruction"):
        Console().print(_shown(name, results))
    Console().print(_calibration(results))
    print(f"metrics: {out}")
    return 0


def run(options: Any, console: Console) -> dict[str, Any]:
    """Results as plain values; raises ValueError for a model and data that do not fit."""
    model = load(options.model, options.device)
    set_sampling(model, options.sampling)
    corpus = Corpus(list(options.data), model.registry.bin_s)
    known = {session.session_id for session in model.registry.sessions}
    in_both = [entry for entry in corpus.sessions if entry.session_id in known]
    if not in_both:
        found = ", ".join(entry.session_id for entry in corpus.sessions[:5])
        raise ValueError(
            f"{options.model}: knows none of the sessions in {', '.join(options.data)} ({found}, ...): "
            "add them with launch/finetune.py, or choose the data set the model was trained on"
        )
    sessions = select_sessions(corpus.sessions if options.sessions else in_both, options.sessions)
    forecast = _forecast(options)
    beside = dict(_named(text, options.device) for text in options.beside)
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
        )
        if options.examples is not None:
            path = check_output(Path(options.examples), ".npz")
            write_example_forecasts(path, model, corpus, sessions, options.split, forecast, options.seed)
    return {"model": str(options.model), "data": list(options.data), "command": sys.argv, **results}


def _forecast(options: Any) -> ForecastSection:
    values = dict(read_training(options.model).get("forecast", {}))
    for name in ("context_bins", "horizon_bins", "samples"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    return parse_settings(ForecastSection, values, "forecast settings")


def _named(text: str, device: str) -> tuple[str, Any]:
    name, separator, path = text.partition("=")
    if not separator:
        raise ValueError(f"--beside {text!r}: expected NAME=MODEL_DIRECTORY, such as gaussian=runs/gaussian/export")
    return name, load(path, device)


def _shown(name: str, results: dict[str, Any]) -> Table:
    part = results[name]
    spans = f"{results['horizon_bins']} bins from {results['context_bins']}" if name == "forecast" else "all bins"
    table = Table(
        title=f"{name}: {part['metric']}, {spans}, {results['split']} split, {len(results['sessions'])} sessions"
    )
    for column in ("row", "mean", "s.e. over sessions", "worst", "best"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row, values in part["rows"].items():
        numbers = values["sessions"].values()
        sem = "" if values["sem"] is None else f"{values['sem']:.4f}"
        table.add_row(row, f"{values['mean']:.4f}", sem, f"{min(numbers):.4f}", f"{max(numbers):.4f}")
    return table


def _calibration(results: dict[str, Any]) -> Table:
    """Coverage, spread and CRPS over all leads; by lead they are in the file."""
    part = results["calibration"]
    leads = f"leads of 1 to {results['horizon_bins']} bins, {results['samples']} samples"
    table = Table(title=f"calibration: {leads}\ncalibrated: coverage = level, spread / error = 1")
    for column in ("row", *(f"{100 * level:g} %" for level in part["levels"]), "spread", "CRPS"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for what in ("latents", "units", "population"):
        table.add_section()
        table.add_row(f"[bold]{what}[/bold]")
        for row, whats in part["rows"].items():
            if what in whats:
                figures = whats[what]["stretch"]
                values = [*figures["coverage"]["mean"], figures["spread_skill"]["mean"], figures["crps"]["mean"]]
                table.add_row(row, *("–" if value is None else f"{value:.3f}" for value in values))
    return table


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--data", nargs="+", required=True, help="data set directories or URLs")
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"])
    parser.add_argument(
        "--sessions", nargs="+", default=None, help="ids or patterns; default: all that the model knows"
    )
    parser.add_argument("--beside", nargs="+", default=[], help="NAME=MODEL_DIRECTORY: more models in the same table")
    parser.add_argument("--context-bins", type=int, default=None, help="default: as the model was trained for")
    parser.add_argument("--horizon-bins", type=int, default=None, help="default: as the model was trained for")
    parser.add_argument("--samples", type=int, default=None, help="samples a forecast; default: as trained for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--recalibrate", action="store_true", help="also rows with the spread of latents fitted on the valid split"
    )
    parser.add_argument(
        "--examples", default=None, help=".npz: also keep a few forecasts of each session, for report.py"
    )
    add_sampling(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default=None, help="default: metrics.json in the model directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
