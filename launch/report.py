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

from neurochorus.launch.options import command_parser
from neurochorus.pretrain.evaluation.evaluation_file import read_evaluation
from neurochorus.pretrain.evaluation.example_forecasts import read_example_forecasts
from neurochorus.pretrain.evaluation.generated_trials import read_generated_trials
from neurochorus.pretrain.evaluation.output_file import write_whole
from neurochorus.pretrain.evaluation.run_history import read_run_history
from neurochorus.pretrain.evaluation.transfer_file import read_transfer
from neurochorus.pretrain.reporting.report import build_report
from neurochorus.pretrain.reporting.report_pictures import report_pictures


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    out = Path(options.out)
    try:
        evaluations = [read_evaluation(Path(path)) for path in options.metrics]
        generated = [read_generated_trials(Path(path)) for path in options.generated]
        histories = {path: read_run_history(Path(path)) for path in options.runs}
        html = build_report(
            evaluations,
            generated,
            histories,
            command=shlex.join(["python", "launch/report.py", *given]),
            title=options.title,
            transfers=[read_transfer(Path(path)) for path in options.transfer],
            examples=[trials for path in options.examples for trials in read_example_forecasts(Path(path))],
        )
        files = {out: html.encode("utf-8")}
        if options.pictures is not None:
            for name, png in report_pictures(evaluations, generated, histories).items():
                files[Path(options.pictures) / f"{out.stem}_{name}.png"] = png
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file, content=content: file.write(content))
            print(path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> ArgumentParser:
    parser = command_parser("report.py", __doc__)
    parser.add_argument("--metrics", nargs="*", default=[], help="metrics.json files of launch/evaluate.py")
    parser.add_argument("--examples", nargs="*", default=[], help="npz files of launch/evaluate.py --examples")
    parser.add_argument("--generated", nargs="*", default=[], help="npz files of launch/generate.py: one session each")
    parser.add_argument("--transfer", nargs="*", default=[], help="transfer.json of launch/finetune.py --compare")
    parser.add_argument("--runs", nargs="*", default=[], help="run directories with metrics.jsonl: training curves")
    parser.add_argument("--title", default="neurochorus: report", help="title of the page")
    parser.add_argument("--out", required=True, help="the page; an older one is replaced")
    parser.add_argument("--pictures", default=None, help="directory for the main pictures as PNG files, PAGE_NAME.png")
    return parser


if __name__ == "__main__":
    sys.exit(main())
