"""What a plan of many windows costs: time and memory to build it, what a worker is sent, how fast it starts anywhere.

    python -m tests.benchmarks.plan_scale [--sessions 10000] [--samples 100] [--windows 10]

Sessions of `samples` stored samples of `windows` windows each, 10 million windows by default, from an index in memory:
no signal is written. Memory is what the process grew by. The index itself, which any reader needs, is stated apart.
"""

import argparse
import pickle
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from neurochorus.data_shards.batch import Collate
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.recording import unit_hash
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.unit_columns import UnitColumns
from neurochorus.data_shards.windows import WindowTable, window_starts

GROUP = 32
WINDOW_BINS = 256


class IndexedCorpus:
    """What a plan asks of a corpus, without the files."""

    def __init__(self, sessions: int, samples: int, windows: int, units: int):
        generator = np.random.default_rng(0)
        self.bins = (windows * WINDOW_BINS + generator.integers(0, 200, sessions * samples)).astype(np.int32)
        self.sessions = [_entry(f"s{number:05d}", f"m{number % 400:03d}", units) for number in range(sessions)]
        self._first = {entry.session_id: place * samples for place, entry in enumerate(self.sessions)}
        self._by_id = {entry.session_id: entry for entry in self.sessions}
        self._samples = samples

    def session(self, session_id: str) -> SessionEntry:
        return self._by_id[session_id]

    def dataset_of(self, session_id: str) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(name=f"set-{session_id[1]}"))

    def rows_of(self, session_id: str, split: str) -> np.ndarray:
        first = self._first[session_id]
        return np.arange(first, first + self._samples)

    def bins_of(self, session_id: str, split: str) -> np.ndarray:
        first = self._first[session_id]
        return self.bins[first : first + self._samples].astype(np.int64)


def main() -> None:
    arguments = _arguments()
    corpus: Any = IndexedCorpus(arguments.sessions, arguments.samples, arguments.windows, arguments.units)
    print(f"index of {len(corpus.bins):,} stored samples: {85 * len(corpus.bins) / 2**20:.0f} MiB of columns")
    with _measured("plan built"):
        plan = SamplePlan.from_corpus(
            corpus, "train", seed=0, group=GROUP, window_bins=WINDOW_BINS, alpha=0.5, mixture="subject"
        )
    print(f"  {sum(plan.windows.values()):,} windows in {len(plan.windows):,} sessions")
    with _measured("registry and collation of all sessions"):
        collate = Collate(corpus.sessions, UnitRegistry.from_sessions(corpus.sessions))
    for name, sent in (("plan", plan), ("collation", collate)):
        print(f"{name} pickled: {len(pickle.dumps(sent)) / 2**20:.2f} MiB")
    data = pickle.dumps(plan)
    for position in (0, 10**6, 10**9, 10**12):
        with _measured(f"new process starts at sample {position:,}"):
            again = pickle.loads(data)
            _batch_places(again, WindowTable(corpus, "train", WINDOW_BINS), position)
    table = WindowTable(corpus, "train", WINDOW_BINS)
    with _measured("places of the next 1,000 batches of 32"):
        for number in range(1000):
            _batch_places(plan, table, 10**9 + GROUP * number)
    with _measured("epochs of all sessions"):
        plan.epochs(10**9)
    with _measured("fingerprint"):
        plan.fingerprint()


def _batch_places(plan: SamplePlan, table: WindowTable, first_sample: int) -> None:
    session_id, numbers = plan.group_windows(first_sample // GROUP)
    _, bins, slots = table.find(session_id, numbers)
    window_starts(plan.seed, first_sample, bins, slots, WINDOW_BINS)


def _entry(session_id: str, subject_id: str, units: int) -> SessionEntry:
    ids = [f"u{unit}" for unit in range(units)]
    return SessionEntry(
        session_id=session_id,
        subject_id=subject_id,
        modality="spikes",
        bin_s=0.01,
        unit_hash=unit_hash(ids),
        units=UnitColumns({"unit_id": ids, "region": [""] * units}),
        covariates={},
        unit_mean=np.full(units, 0.1),
        unit_sd=np.full(units, 0.3),
        train_bins=1,
        provenance={},
    )


@contextmanager
def _measured(what: str) -> Iterator[None]:
    before, begun = _peak_mib(), time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - begun:.3f} s, peak memory + {_peak_mib() - before:.0f} MiB")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("sessions", 10_000), ("samples", 100), ("windows", 10), ("units", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
