"""The Lorenz protocol of LDNS (Kapoor et al. 2024): each head, the masked EAG and latent diffusion on the same latents.

python launch/results_lorenz.py --out runs/lorenz --seeds 0 1 2 --jobs 2

Each seed trains one autoencoder, the rows of the table on its latents, and generates as many trials from nothing as
are held out. Finished parts are kept, so an interrupted call is continued by the same command. Everything that is
computed runs with the same number of threads; output of the parts is in OUT/logs.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from neurochorus.data_shards.settings import read_values
from neurochorus.launch.commands import HERE, CommandFailed, Part, python, run, run_all
from neurochorus.launch.lorenz_rows import ABLATION_ROWS, FIRST, ROWS, SLOWEST, Row

CONFIGS = HERE / "configs" / "lorenz"
RECIPE = HERE / "configs" / "recipes" / "lorenz_ldns.yaml"
SESSION = "lorenz_s1"
HORIZON = 256
RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Table:
    """A table that is made: NAME.md, NAME.json and pictures."""

    name: str
    rows: tuple[Row, ...]
    seeds: Sequence[int]

    def slowest_first(self) -> list[Row]:
        """The rows, in an order that keeps all processors busy to the end."""
        return sorted(self.rows, key=lambda row: row.title != SLOWEST)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(options.threads or max(1, (os.cpu_count() or 1) // options.jobs))
    try:
        data = options.data or _data(out)
        tables = [Table("table", ROWS, options.seeds)]
        if options.ablations:
            tables.append(Table("ablations", ABLATION_ROWS, options.seeds[:1]))
        for table in tables:
            for stage in stages(out, data, table, options.trials, options.set):
                run_all([part for part in stage if not part.product.exists()], options.jobs)
            report(out, data, table)
    except (CommandFailed, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def stages(out: Path, data: str, table: Table, trials: int, overrides: Sequence[str] = ()) -> Iterator[list[Part]]:
    """Commands that may run side by side, stage after stage: autoencoders, other models, trials."""
    seeds = table.seeds
    yield [_training(out, data, seed, FIRST, overrides) for seed in seeds]
    others = sorted({row.run for row in table.rows} - {FIRST}, key=[row.run for row in table.rows].index)
    yield [_training(out, data, seed, name, overrides) for seed in seeds for name in others]
    rows = [_generation(out, data, seed, row, trials) for row in table.slowest_first() for seed in seeds]
    yield rows + [_reconstruction(out, data, seed, trials) for seed in seeds]


def settings_over_base(name: str) -> list[str]:
    """What the file of a run changes in base.yaml, as `section.key=value`; nothing for the first run."""
    file = CONFIGS / f"{name}.yaml"
    return [f"{key}={json.dumps(value)}" for key, value in _flat(read_values(file))] if name != FIRST else []


def report(out: Path, data: str, table: Table) -> None:
    """Measure all trials of a table and write its numbers and pictures."""
    from neurochorus.launch.lorenz_table import markdown, measure, pictures

    def trials(file: str) -> list[Path]:
        return [out / f"seed{seed}" / "trials" / f"{file}.npz" for seed in table.seeds]

    files = {row.title: trials(row.file) for row in table.rows}
    results = measure(data, SESSION, {"autoencoder, observed anew": trials(RECONSTRUCTION), **files})
    (out / f"{table.name}.json").write_text(json.dumps(_finite(results), indent=1, allow_nan=False) + "\n")
    text = markdown(results)
    (out / f"{table.name}.md").write_text(text)
    for path in pictures(out, table.name, data, SESSION, {title: paths[0] for title, paths in files.items()}):
        print(f"picture: {path}")
    print(f"\n{text}\ntable: {out / table.name}.md")


def _data(out: Path) -> str:
    data = out / "data"
    if not data.exists():
        run(python("shard.py", "--recipe", str(RECIPE), "--out", str(data)), "simulated recordings to shards")
    return str(data)


def _training(out: Path, data: str, seed: int, name: str, overrides: Sequence[str]) -> Part:
    folder = out / f"seed{seed}"
    arguments = ["--config", str(CONFIGS / "base.yaml"), *settings_over_base(name)]
    arguments += [f"run.dir={folder / name}", f"run.seed={seed}", f"data.path={data}", *overrides]
    if name != FIRST:
        arguments.append(f"autoencoder.init={folder / FIRST}/autoencoder")
    log = out / "logs" / f"seed{seed}-{name}.txt"
    return Part(f"seed {seed}: training, {name}", python("pretrain.py", *arguments), folder / name / "export", log)


def _generation(out: Path, data: str, seed: int, row: Row, trials: int) -> Part:
    folder, product = out / f"seed{seed}", out / f"seed{seed}" / "trials" / f"{row.file}.npz"
    arguments = ["--model", f"{folder / row.run}/export", "--session", SESSION, "--horizon", str(HORIZON)]
    arguments += ["--trials", str(trials), "--seed", str(seed), "--out", str(product)]
    arguments += ["--sampling", *row.sampling] if row.sampling else []
    log = out / "logs" / f"seed{seed}-trials-{row.file}.txt"
    return Part(f"seed {seed}: trials, {row.title}", python("timed_trials.py", *arguments), product, log)


def _reconstruction(out: Path, data: str, seed: int, trials: int) -> Part:
    folder, product = out / f"seed{seed}", out / f"seed{seed}" / "trials" / f"{RECONSTRUCTION}.npz"
    arguments = ["--model", f"{folder / FIRST}/export", "--session", SESSION, "--horizon", str(HORIZON)]
    arguments += ["--recorded", data, "--trials", str(trials), "--seed", str(seed), "--out", str(product)]
    log = out / "logs" / f"seed{seed}-trials-{RECONSTRUCTION}.txt"
    return Part(f"seed {seed}: held-out trials observed anew", python("timed_trials.py", *arguments), product, log)


def _flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _finite(values: Any) -> Any:
    """The same with null for what JSON has no number for, such as an infinite divergence."""
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="results_lorenz.py", description=__doc__)
    parser.add_argument("--out", default="runs/lorenz")
    parser.add_argument("--data", default=None, help="the data set, if it is there already; default: OUT/data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--ablations", action="store_true", help="also the table of what each choice is worth (one seed)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="commands that run side by side")
    parser.add_argument("--threads", type=int, default=None, help="of each command; default: processors / jobs")
    parser.add_argument("--trials", type=int, default=1000, help="trials to generate; as many as are held out")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for all trainings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
