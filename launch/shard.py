"""Make a data set directory from recordings, look at what would become of them, or start a recipe for unknown files.

python launch/shard.py --suggest FILE > RECIPE
python launch/shard.py --recipe RECIPE --source SOURCE --dry-run
python launch/shard.py --recipe RECIPE --source SOURCE --out DIR --jobs 4
python launch/shard.py --recipe RECIPE --source SOURCE --out DIR --extend
python launch/shard.py --recipe launch/configs/recipes/demo.yaml --out DIR
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import signal
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentParser
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from neurochorus.data_shards.importing import ImportReport, import_dataset
from neurochorus.data_shards.inspection import inspect_source
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.remote import is_url
from neurochorus.data_shards.staging import leftovers, working_directory
from neurochorus.data_shards.suggesting import suggest_recipe
from neurochorus.data_shards.writer import SHARD_BYTES
from neurochorus.launch.options import command_parser
from neurochorus.launch.shard_tables import import_tables, inspection_tables

WIDE = 200  # piped output is as wide as the tables: nothing is folded or cut off


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 when all sessions were imported or looked at, 1 when one was not."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.suggest is not None:
            print(suggest_recipe(Path(options.suggest)), end="")
            return 0
        if options.recipe is None:
            raise ValueError("name a recipe (--recipe FILE), or start one with --suggest FILE")
        recipe = read_recipe(options.recipe, options.overrides)
        return _inspect(recipe, options) if options.dry_run else _write(recipe, options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say_interrupted(options)
        return 130


def _write(recipe: Recipe, options: Namespace) -> int:
    if options.out is None:
        raise ValueError("name the data set directory to make (--out DIR), or add --dry-run")
    if is_url(options.out):
        raise ValueError(
            f"{options.out}: a data set is written to a directory: choose one, then copy it whole to there"
        )
    out, started = Path(options.out), time.monotonic()
    with _progress_bar(recipe.name) as advance:
        report = import_dataset(
            recipe,
            _source(options),
            out,
            jobs=options.jobs,
            strict=options.strict,
            extend=options.extend,
            shard_bytes=options.shard_bytes,
            progress=advance,
        )
    _show(import_tables(report))
    print(f"{out}: {_totals(report)} in {time.monotonic() - started:.1f} s")
    for path in leftovers(out):
        print(f"note: {path} is left from an interrupted run: remove it unless another run is writing there")
    return 1 if report.failures else 0


def _totals(report: ImportReport) -> str:
    manifest = report.manifest
    samples = sum(total["samples"] for total in manifest.splits.values())
    size = sum(shard.bytes for shard in manifest.shards)
    return f"{len(manifest.sessions)} sessions, {samples} samples, {len(manifest.shards)} shards, {size / 1e6:.1f} MB"


def _inspect(recipe: Recipe, options: Namespace) -> int:
    extend = Path(options.out) if options.extend and options.out is not None else None
    with _progress_bar(recipe.name) as advance:
        found = inspect_source(recipe, _source(options), jobs=options.jobs, extend=extend, progress=advance)
    _show(inspection_tables(found))
    return 1 if found.failures else 0


def _show(tables: list[RenderableType]) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for table in tables:
        console.print(table)


def _source(options: Namespace) -> Path | None:
    return None if options.source is None else Path(options.source)


@contextmanager
def _progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show sessions done on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


def _say_interrupted(options: Namespace) -> None:
    place = None if options.out is None else working_directory(Path(options.out))
    if place is not None and place.exists():
        kept = f"what is imported so far is kept in {place}: the same command goes on from there"
    else:
        kept = "nothing was written"
    print(f"interrupted: {kept}", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = command_parser("shard.py", __doc__)
    parser.add_argument("--recipe", default=None, help="YAML that maps names in the files to ours")
    parser.add_argument("--source", default=None, help="directory of the recordings; none for synthetic ones")
    parser.add_argument("--out", default=None, help="data set directory to make; must not exist, but with --extend")
    parser.add_argument("--suggest", default=None, metavar="FILE", help="print a recipe to start from, and why")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and what looks wrong")
    parser.add_argument("--extend", action="store_true", help="add the sessions that are new to the data set --out")
    parser.add_argument("--jobs", type=int, default=1, help="sessions to import at once, each in a process")
    parser.add_argument("--strict", action="store_true", help="stop at the first file that cannot be imported")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="size at which a shard is closed")
    parser.add_argument("overrides", nargs="*", default=[], help="section.key=value, put over the recipe")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way of asking also cleans up
    sys.exit(main())
