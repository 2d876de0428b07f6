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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from neurochorus.data_shards.settings import read_values
from neurochorus.launch.commands import HERE, CommandFailed, python, run

CONFIGS = HERE / "configs" / "lorenz"
RECIPE = HERE / "configs" / "recipes" / "lorenz_ldns.yaml"
SESSION = "lorenz_s1"
FIRST = "energy"
"The run that trains the autoencoder; the others take it over."
RUNS = (FIRST, "flow", "gaussian", "masked", "diffusion")
HORIZON = 256


@dataclass(frozen=True)
class Row:
    """A row of the table: the run whose model generates, and how it samples."""

    file: str
    title: str
    run: str
    sampling: tuple[str, ...] = ()


ROWS = (
    # the slowest first, so that the others run beside it
    Row("ddpm", "diffusion, DDPM 1000 steps", "diffusion", ("diffusion.sampler=ddpm", "diffusion.sampling_steps=1000")),
    Row("ddim", "diffusion, DDIM 50 steps", "diffusion", ("diffusion.sampler=ddim", "diffusion.sampling_steps=50")),
    Row("masked", "energy, masked order, K = 32 (EAG)", "masked"),
    Row("energy", "energy", "energy"),
    Row("flow", "flow", "flow"),
    Row("gaussian", "gaussian", "gaussian"),
)
RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Part:
    """One command, what it makes, and where its output goes."""

    title: str
    command: list[str]
    product: Path
    log: Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(options.threads or max(1, (os.cpu_count() or 1) // options.jobs))
    try:
        data = options.data or _data(out)
        for stage in stages(out, data, options.seeds, options.trials, options.set):
            _run_all([part for part in stage if not part.product.exists()], options.jobs)
        report(out, data, options.seeds)
    except (CommandFailed, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def stages(
    out: Path, data: str, seeds: Sequence[int], trials: int, overrides: Sequence[str] = ()
) -> Iterator[list[Part]]:
    """Commands that may run side by side, stage after stage: autoencoders, other models, trials."""
    yield [_training(out, data, seed, FIRST, overrides) for seed in seeds]
    yield [_training(out, data, seed, name, overrides) for seed in seeds for name in RUNS[1:]]
    rows = [_generation(out, data, seed, row, trials) for row in ROWS for seed in seeds]
    yield rows + [_reconstruction(out, data, seed, trials) for seed in seeds]


def settings_over_base(name: str) -> list[str]:
    """What the file of a run changes in base.yaml, as `section.key=value`; nothing for the first run."""
    file = CONFIGS / f"{name}.yaml"
    return [f"{key}={json.dumps(value)}" for key, value in _flat(read_values(file))] if name != FIRST else []


def report(out: Path, data: str, seeds: Sequence[int]) -> None:
    """Measure all trials and write metrics.json, table.md and the pictures."""
    from neurochorus.launch.lorenz_table import markdown, measure, pictures

    files = {
        row.title: [out / f"seed{seed}" / "trials" / f"{row.file}.npz" for seed in seeds]
        for row in sorted(ROWS, key=lambda row: RUNS.index(row.run))
    }
    anew = [out / f"seed{seed}" / "trials" / f"{RECONSTRUCTION}.npz" for seed in seeds]
    results = measure(data, SESSION, {"autoencoder, observed anew": anew, **files})
    (out / "metrics.json").write_text(json.dumps(_finite(results), indent=1, allow_nan=False) + "\n")
    table = markdown(results)
    (out / "table.md").write_text(table)
    for path in pictures(out, data, SESSION, {title: paths[0] for title, paths in files.items()}):
        print(f"picture: {path}")
    print(f"\n{table}\ntable: {out / 'table.md'}")


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
    arguments += ["--trials", str(trials), "--seed", str(seed), "--out", str(product), *row.sampling]
    log = out / "logs" / f"seed{seed}-trials-{row.file}.txt"
    return Part(f"seed {seed}: trials, {row.title}", python("timed_trials.py", *arguments), product, log)


def _reconstruction(out: Path, data: str, seed: int, trials: int) -> Part:
    folder, product = out / f"seed{seed}", out / f"seed{seed}" / "trials" / f"{RECONSTRUCTION}.npz"
    arguments = ["--model", f"{folder / FIRST}/export", "--session", SESSION, "--horizon", str(HORIZON)]
    arguments += ["--recorded", data, "--trials", str(trials), "--seed", str(seed), "--out", str(product)]
    log = out / "logs" / f"seed{seed}-trials-{RECONSTRUCTION}.txt"
    return Part(f"seed {seed}: held-out trials observed anew", python("timed_trials.py", *arguments), product, log)


def _run_all(parts: Sequence[Part], jobs: int) -> None:
    """Run the commands, `jobs` at once; after a failure no further one is started. Raises CommandFailed."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run, part, part.log if jobs > 1 else None) for part in parts]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(part: Part, log: Path | None) -> None:
    run(part.command, part.title, log)
    if not part.product.exists():  # a training that is asked to stop saves and ends without an error
        raise CommandFailed(f"'{part.title}' was stopped before its end; run the same command to continue")


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
    parser.add_argument("--jobs", type=int, default=2, help="commands that run side by side")
    parser.add_argument("--threads", type=int, default=None, help="of each command; default: processors / jobs")
    parser.add_argument("--trials", type=int, default=1000, help="trials to generate; as many as are held out")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for all trainings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
