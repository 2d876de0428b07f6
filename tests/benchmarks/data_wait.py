"""The share of a training step that is spent waiting for data, for the `small` preset on this machine.

    python -m tests.benchmarks.data_wait [--steps 4] [--workers 1] [--global-batch 16] [section.key=value ...]

Trains both stages for a few steps on generated shards of 192 units and samples of 2,048 bins, windows of 256, with the
preset's model, and prints `data_wait` of metrics.jsonl without the first step, in which readers start. Both a faster
device and a smaller model make it larger; what a reader process delivers is printed beside it.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset
from tests.benchmarks.read_speed import generated_recordings

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "launch" / "configs" / "presets" / "small.yaml"
BINS, UNITS, WINDOW_BINS, MICRO_BATCH = 2048, 192, 256, 16


def main() -> None:
    options, settings = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        write_dataset(generated_recordings(256, BINS, UNITS), data, name="data-wait", sample_bins=BINS)
        print(f"one reader process delivers {_samples_per_second(data):,.0f} windows/s")
        words = [f"data.path={data}", f"run.dir={run}", f"data.workers={options.workers}", "wandb.mode=disabled"]
        words += [f"{stage}.steps={options.steps}" for stage in ("autoencoder", "dynamics")]
        words += [f"train.global_batch={options.global_batch}", f"train.micro_batch={MICRO_BATCH}", "train.log_every=1"]
        command = [sys.executable, str(ROOT / "launch" / "pretrain.py"), "--config", str(PRESET), *words, *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for stage, group in itertools.groupby(lines, key=lambda line: line["stage"]):
        steps = [line for line in group if line["step"] > 1]
        seconds = sum(line["elapsed_s"] for line in steps)
        waited = sum(line["data_wait"] * line["elapsed_s"] for line in steps)
        print(f"{stage}: {seconds / len(steps):.2f} s a step, waiting for data {100 * waited / seconds:.2f} %")


def _samples_per_second(data: Path) -> float:
    corpus = Corpus(data)
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=MICRO_BATCH, window_bins=WINDOW_BINS)
    batches = training_batches(corpus, plan, UnitRegistry.from_sessions(corpus.sessions), micro_batch=MICRO_BATCH)
    begun = time.perf_counter()
    count = sum(len(batch) for batch in itertools.islice(batches, 200))
    return count / (time.perf_counter() - begun)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("steps", 4), ("workers", 1), ("global-batch", MICRO_BATCH)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
