"""Make a data set directory from recordings.

python launch/shard.py --recipe launch/configs/recipes/demo.yaml --out DIR
python launch/shard.py --recipe launch/configs/recipes/steinmetz2019.yaml --source SOURCE --out DIR
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import signal
import time

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from neurochorus.data_shards.importers import count_recordings, import_recordings
from neurochorus.data_shards.manifest import Manifest
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.data_shards.staging import leftovers
from neurochorus.data_shards.writer import write_dataset

SHARD_BYTES = 64 * 2**20
"Size at which a shard is closed."


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    started = time.monotonic()
    try:
        recipe = read_recipe(options.recipe, options.overrides)
        manifest = write(recipe, options.source, out, options.shard_bytes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    samples = sum(total["samples"] for total in manifest.splits.values())
    size = sum(shard.bytes for shard in manifest.shards)
    print(
        f"{out}: {len(manifest.sessions)} sessions, {samples} samples, {len(manifest.shards)} shards, "
        f"{size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s"
    )
    for path in leftovers(out):
        print(f"note: {path} is left from an interrupted run: remove it unless another run is writing there")
    return 0


def write(recipe: Recipe, source: str | None, out: Path, shard_bytes: int) -> Manifest:
    """Import and write everything that the recipe names, with a progress bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(recipe.name, total=count_recordings(recipe, source))

        def advance(recording: Recording, samples: int) -> None:
            bar.update(task, advance=1, description=recording.session_id)

        return write_dataset(
            import_recordings(recipe, source),
            out,
            name=recipe.name,
            sample_bins=recipe.sample_bins,
            provenance={"recipe": settings_to_dict(recipe)},
            shard_bytes=shard_bytes,
            progress=advance,
        )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="shard.py", description="Make a data set directory from recordings.")
    parser.add_argument("--recipe", required=True, help="YAML that maps names in the files to ours")
    parser.add_argument("--source", default=None, help="directory of the recordings; none for synthetic ones")
    parser.add_argument("--out", required=True, help="data set directory to make; must not exist")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="size at which a shard is closed")
    parser.add_argument("overrides", nargs="*", default=[], help="section.key=value, put over the recipe")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way of asking also cleans up
    sys.exit(main())
