"""Make one self-contained HTML page of what was evaluated, generated and trained.

python launch/report.py --metrics A/metrics.json B/metrics.json --generated A.npz B.npz --runs RUNDIR --out report.html
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import shlex

from jsonargparse import ArgumentParser

from neurochorus.pretrain.evaluation.evaluation_file import read_evaluation
from neurochorus.pretrain.evaluation.generated_trials import read_generated_trials
from neurochorus.pretrain.evaluation.report import build_report, write_report
from neurochorus.pretrain.evaluation.run_history import read_run_history


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    try:
        report = build_report(
            [read_evaluation(Path(path)) for path in options.metrics],
            [read_generated_trials(Path(path)) for path in options.generated],
            {path: read_run_history(Path(path)) for path in options.runs},
            command=shlex.join(["python", "launch/report.py", *given]),
            title=options.title,
        )
        paths = write_report(report, Path(options.out))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="report.py", description="Make one HTML page of results; needs no network to read.")
    parser.add_argument("--metrics", nargs="*", default=[], help="metrics.json files of launch/evaluate.py")
    parser.add_argument("--generated", nargs="*", default=[], help="npz files of launch/generate.py: a picture each")
    parser.add_argument("--runs", nargs="*", default=[], help="run directories with metrics.jsonl: training curves")
    parser.add_argument("--title", default="neurochorus: report", help="title of the page")
    parser.add_argument("--out", required=True, help="the page; an older one is replaced; pictures go beside it as PNG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
