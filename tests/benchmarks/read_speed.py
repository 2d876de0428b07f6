"""How fast shards are read: our checked, collated batches against webdataset's own decoding, on the same shards.

    python tests/benchmarks/read_speed.py [--samples 2048] [--bins 256] [--units 192] [--batch 32] [--rounds 5]

All run in this one process, in turns, on files that are in the page cache; each gets its best round, and opening is
not timed. Prints samples per second of this process's own time (the machine may be shared) and ratios, which are the
figures to compare between machines: ours in the first epoch, when every checksum is compared, and in later ones.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        recordings = generated_recordings(arguments.samples, arguments.bins, arguments.units)
        manifest = write_dataset(recordings, path, name="read-speed", sample_bins=arguments.bins)
        urls = [str(path / shard.file) for shard in manifest.shards]
        rates: dict[str, list[float]] = {"webdataset": [], "first epoch": [], "later epochs": []}
        for _ in range(arguments.rounds):
            batches = _neurochorus(path, arguments.batch)
            rates["webdataset"].append(_samples_per_second(_webdataset(urls, arguments.batch), arguments))
            rates["first epoch"].append(_samples_per_second(batches, arguments))
            rates["later epochs"].append(_samples_per_second(batches, arguments))
    best = {name: max(values) for name, values in rates.items()}
    size = f"{arguments.bins} x {arguments.units} uint8 ({arguments.bins * arguments.units / 1024:.0f} KiB)"
    print(f"{arguments.samples} samples of {size}, one process")
    print(f"{'webdataset .decode() + collate, in order:':70}{best['webdataset']:10,.0f} samples/s")
    for name, checks in (("first epoch", "checksums, dtypes, shapes"), ("later epochs", "dtypes, shapes")):
        what = f"neurochorus, random order, {name} ({checks}):"
        print(f"{what:70}{best[name]:10,.0f} samples/s   ratio {best[name] / best['webdataset']:.1f}")


def generated_recordings(samples: int, bins: int, units: int) -> Iterator[Recording]:
    """Four sessions with `samples` trials in all, of Poisson counts."""
    generator = np.random.default_rng(0)
    sessions = 4
    trials = samples // sessions
    for number in range(sessions):
        yield Recording(
            session_id=f"session-{number}",
            subject_id=f"animal-{number}",
            modality="spikes",
            bin_s=0.01,
            signal_TC=generator.poisson(0.2, (trials * bins, units)).astype(np.uint8),
            units=[Unit(f"unit-{unit}") for unit in range(units)],
            segments=[Segment(i * bins, (i + 1) * bins, "train") for i in range(trials)],
        )


def _webdataset(urls: list[str], batch: int) -> Iterator[tuple[torch.Tensor, list[str]]]:
    samples = iter(wds.WebDataset(urls, shardshuffle=False).decode())  # pyright: ignore[reportAttributeAccessIssue]
    while chunk := list(itertools.islice(samples, batch)):
        yield torch.from_numpy(np.stack([sample["signal.npy"] for sample in chunk])), [s["__key__"] for s in chunk]


def _neurochorus(path: Path, batch: int) -> Iterator[Any]:
    corpus = Corpus(path)
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=batch)
    return training_batches(corpus, plan, UnitRegistry.from_sessions(corpus.sessions), micro_batch=batch)


def _samples_per_second(batches: Iterator[Any], arguments: argparse.Namespace) -> float:
    count = arguments.samples // arguments.batch
    start = time.process_time()
    for _ in itertools.islice(batches, count):
        pass
    return count * arguments.batch / (time.process_time() - start)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("samples", 2048), ("bins", 256), ("units", 192), ("batch", 32), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
