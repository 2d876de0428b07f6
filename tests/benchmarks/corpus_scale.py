"""A made-up corpus of many sessions goes through everything: written, described, verified, and trained on.

    python tests/benchmarks/corpus_scale.py [--sessions 1000] [--animals 4] [--units 20 2000] [--steps 100] [--ranks 2]

Sessions have between the two numbers of units (log-uniform), each 12 trials of 100 bins of independent Poisson counts.
`--steps` are split between the two stages. Prints the wall time and the peak memory of each part; parts run as the
commands that a person would type, the writing as `write_dataset` on recordings that are made one at a time.
"""

import argparse
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.writer import write_dataset
from neurochorus.launch.commands import deepspeed, python

TRIALS, BINS, BIN_S = 12, 100, 0.01
SPLITS = ("train",) * 8 + ("valid",) * 2 + ("test",) * 2
PORT = 29561
SMALL_MODEL = [
    "model.autoencoder.latents=16",
    "model.autoencoder.encoder={width: 64, blocks: 2, heads: 4, dropout: 0.0}",
    "model.dynamics.transformer={width: 64, blocks: 2, heads: 4, dropout: 0.0}",
    "model.heads.energy={width: 64, blocks: 2}",
    "train={global_batch: 16, micro_batch: 8, precision: bf16}",
    "forecast={context_bins: 40, horizon_bins: 20, samples: 4}",
    "wandb={mode: disabled}",
]


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        data, run_dir = Path(folder) / "data", Path(folder) / "run"
        begun = time.perf_counter()
        manifest = write_dataset(_recordings(arguments), data, name="corpus-scale", sample_bins=BINS)
        size = sum(shard.bytes for shard in manifest.shards)
        units = sum(len(entry.unit_mean) for entry in manifest.sessions)
        print(
            f"{len(manifest.sessions)} sessions, {units:,} units, {size / 1e6:,.0f} MB in {len(manifest.shards)} shards"
        )
        _say("written", time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        _run("described", python("describe.py", str(data)))
        _run("described and verified", python("describe.py", str(data), "--verify"))
        half = arguments.steps // 2
        settings = [f"run.dir={run_dir}", f"data.path={data}", f"autoencoder.steps={half}", *SMALL_MODEL]
        settings += [f"dynamics.steps={arguments.steps - half}", "checkpoint.every=1000"]
        config = Path(folder) / "config.yaml"
        config.write_text("run: {}\n")
        _run(
            f"{arguments.steps} training steps on {arguments.ranks} ranks, and the export",
            deepspeed(arguments.ranks, PORT, "pretrain.py", "--config", str(config), *settings),
        )


def _recordings(arguments: argparse.Namespace) -> Iterator[Recording]:
    generator = np.random.default_rng(0)
    low, high = np.log(arguments.units)
    segments = [Segment(trial * BINS, (trial + 1) * BINS, split) for trial, split in enumerate(SPLITS)]
    for number in range(arguments.sessions):
        units = round(float(np.exp(generator.uniform(low, high))))
        rates = generator.gamma(1.0, 0.05, units)  # 5 spikes/s on average
        yield Recording(
            session_id=f"session-{number:05d}",
            subject_id=f"animal-{number % arguments.animals}",
            modality="spikes",
            bin_s=BIN_S,
            signal_TC=generator.poisson(rates, (TRIALS * BINS, units)).astype(np.uint8),
            units=[Unit(f"u{unit:04d}", f"area-{unit % 7}") for unit in range(units)],
            segments=segments,
        )


def _run(title: str, command: Sequence[str]) -> None:
    """Run a command; its peak memory is that of the largest of all processes so far."""
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{title} failed with exit code {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        )
    _say(title, time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _say(title: str, seconds: float, peak_kib: int) -> None:
    print(f"{title + ':':60}{seconds:8.1f} s   peak of a process {peak_kib / 2**20:.2f} GiB", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("sessions", 1000), ("animals", 4), ("steps", 100), ("ranks", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--units", type=int, nargs=2, default=[20, 2000], help="fewest and most of a session")
    parser.add_argument("--folder", default=None, help="where the data go meanwhile (about 0.7 GB)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
