"""Compare training runs in one picture.

python launch/plot.py runs/a runs/b --out compared.png
python launch/plot.py runs/sweep/* --against hours --smooth 50 --stages dynamics --out sweep.png
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from jsonargparse import ArgumentParser

from neurochorus.launch.options import command_parser
from neurochorus.pretrain.evaluation.picture_style import DOTS_PER_INCH
from neurochorus.pretrain.evaluation.run_comparison import compare_runs
from neurochorus.pretrain.evaluation.run_history import Columns, read_run_history


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        histories = {path: _chosen(Path(path), options.stages) for path in options.runs}
        figure = compare_runs(histories, options.against, options.smooth)
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.out, dpi=DOTS_PER_INCH)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


def _chosen(run_dir: Path, stages: list[str] | None) -> dict[str, Columns]:
    history = read_run_history(run_dir)
    chosen = {stage: columns for stage, columns in history.items() if stages is None or stage in stages}
    if not chosen:
        raise ValueError(f"{run_dir}: has no stage {', '.join(stages or [])}; it has {', '.join(history)}")
    return chosen


def _parser() -> ArgumentParser:
    parser = command_parser("plot.py", __doc__)
    parser.add_argument("runs", nargs="+", help="run directories; they may still be running")
    parser.add_argument("--out", required=True, help="picture: png, pdf or svg")
    parser.add_argument("--against", choices=["steps", "samples", "hours"], default="steps")
    parser.add_argument("--smooth", type=float, default=10.0, help="lines to average over, exponentially; 0: none")
    parser.add_argument("--stages", nargs="*", default=None, help="stages to show; all unless told otherwise")
    return parser


if __name__ == "__main__":
    sys.exit(main())
