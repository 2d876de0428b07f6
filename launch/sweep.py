"""Train every point of a grid of settings, each in a run directory of its own, and print one table.

python launch/sweep.py --config C --grid dynamics.learning_rate=1e-3,2e-3 run.seed=0,1 --out runs/sweep [--jobs 2]

The same command goes on where it was: finished points are skipped, interrupted ones continued. Random and Bayesian
searches: `wandb sweep launch/configs/sweeps/learning_rate.yaml`.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import csv
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from neurochorus.data_shards.settings import read_settings
from neurochorus.launch.commands import CommandFailed, free_ports, on_ranks, run
from neurochorus.launch.options import command_parser
from neurochorus.launch.sweep_points import Point, Score, grid_points, score_of
from neurochorus.pretrain.config import RunConfig

FIRST_PORT = 29900
"Beside the ports of a comparison (comparing_parts.py), which may run on the same machine."


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.jobs < 1 or options.ranks < 1:
            raise ValueError("--jobs and --ranks: expected 1 or more")
        points = grid_points(options.grid, Path(options.out))
        for point in points:  # a point that cannot be is said before any is trained
            read_settings(RunConfig, options.config, [*options.overrides, *point.overrides])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    waiting = [point for point in points if not point.finished]
    if options.dry_run:
        for point in waiting:
            print(shlex.join(_command(options, point, FIRST_PORT)))
        print(f"{len(waiting)} of {len(points)} points to train")
        return 0
    Path(options.out).mkdir(parents=True, exist_ok=True)
    ports = free_ports(len(waiting), FIRST_PORT)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda point, port: _train(options, point, port), waiting, ports))
    _show(points, Path(options.out))
    return 0 if all(results) else 1


def _train(options: Namespace, point: Point, port: int) -> bool:
    point.folder.mkdir(parents=True, exist_ok=True)
    try:
        run(_command(options, point, port), point.name, log=point.folder / "output.txt")
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def _command(options: Namespace, point: Point, port: int) -> list[str]:
    settings = ["--config", options.config, *options.overrides, *point.overrides]
    return on_ranks(options.ranks, port, "pretrain.py", *settings)


def _show(points: Sequence[Point], out: Path) -> None:
    """Print the table, best first, and write it to table.csv."""
    scored = sorted(((score_of(point), point) for point in points), key=lambda pair: pair[0].order)
    names = list(points[0].settings)
    header, text = [*names, *Score.HEADER, "run"], StringIO()
    rows = [[*point.settings.values(), *score.cells(), str(point.folder)] for score, point in scored]
    csv.writer(text).writerows([header, *rows])
    (out / "table.csv").write_text(text.getvalue())
    table = Table(*header, box=None)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _parser() -> ArgumentParser:
    parser = command_parser("sweep.py", __doc__)
    parser.add_argument("--config", required=True, help="YAML of the runs")
    parser.add_argument("--grid", nargs="+", required=True, help="section.key=value,value,... one or more")
    parser.add_argument("--out", required=True, help="folder of the run directories and of table.csv")
    parser.add_argument("--jobs", type=int, default=1, help="points trained at the same time")
    parser.add_argument("--ranks", type=int, default=1, help="ranks of each; more than one start under deepspeed")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("overrides", nargs="*", default=[], help="section.key=value of all points, before --grid")
    return parser


if __name__ == "__main__":
    sys.exit(main())
