"""A small data set on disk that the tests of data_shards read: three sessions of two animals, unequal in every way."""

from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset

SAMPLE_BINS = 12


def small_recording(
    session_id: str, subject_id: str, units: int, trials: int, seed: int, modality: str = "spikes", **changes
) -> Recording:
    """Random counts (or a random signal) in trials of 12 bins, every fifth one of 7, with gaps between some of them."""
    generator = np.random.default_rng(seed)
    segments, start = [], 0
    for trial in range(trials):
        length = 7 if trial % 5 == 4 else SAMPLE_BINS
        split = "valid" if trial % 6 == 1 else "test" if trial % 6 == 4 else "train"
        segments.append(Segment(start, start + length, split, {"trial": float(trial), "side": "left"}))
        start += length + trial % 3
    shape = (start, units)
    signal = generator.poisson(0.7, shape).astype(np.uint8)
    values = {
        "session_id": session_id,
        "subject_id": subject_id,
        "modality": modality,
        "bin_s": 0.02,
        "signal_TC": signal if modality == "spikes" else generator.normal(size=shape).astype(np.float32),
        "units": [Unit(f"{session_id}-u{unit}", "CA1") for unit in range(units)],
        "segments": segments,
        "provenance": {"source": "random"},
    }
    return Recording(**(values | changes))


def small_recordings() -> list[Recording]:
    """a1 and a2 of one animal, b1 of another; a2 has counts above 255 and b1 no covariates."""
    a1 = small_recording("a1", "anna", 5, 30, 1)
    bins = len(a1.signal_TC)
    generator = np.random.default_rng(9)
    position = generator.normal(size=(bins, 2)).astype(np.float32)
    speed = generator.normal(size=(bins, 1)).astype(np.float32)
    speed[generator.random(bins) < 0.3] = np.nan
    a1.covariates.update(position=position, speed=speed)
    a2 = small_recording("a2", "anna", 9, 21, 2)
    a2 = small_recording(
        "a2",
        "anna",
        9,
        21,
        2,
        signal_TC=a2.signal_TC.astype(np.uint16) * 300,
        covariates={"speed": np.ones((len(a2.signal_TC), 1), dtype=np.float32)},
    )
    return [a1, a2, small_recording("b1", "bert", 3, 16, 3)]


@pytest.fixture(scope="session")
def recordings() -> list[Recording]:
    return small_recordings()


@pytest.fixture(scope="session")
def data_path(tmp_path_factory: pytest.TempPathFactory, recordings: list[Recording]) -> Path:
    """The recordings as a data set of several shards; do not change it (copy it first)."""
    path = tmp_path_factory.mktemp("shards") / "small"
    write_dataset(recordings, path, name="small", sample_bins=SAMPLE_BINS, shard_bytes=60_000)
    return path


@pytest.fixture
def corpus(data_path: Path) -> Corpus:
    return Corpus(data_path)


@pytest.fixture(scope="session")
def whole_corpus(data_path: Path) -> Corpus:
    """The same for tests that read it many times; do not change it."""
    return Corpus(data_path)


@pytest.fixture
def registry(corpus: Corpus) -> UnitRegistry:
    return UnitRegistry.from_sessions(corpus.sessions)


@pytest.fixture(scope="session")
def make_recording():
    """`small_recording` for tests that need other sessions."""
    return small_recording


@pytest.fixture(scope="module")
def two_sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of sessions a1 (5 units) and b1 (4) of two animals, for tests that only read it."""
    folder = tmp_path_factory.mktemp("two_sessions") / "data"
    recordings = [small_recording("a1", "anna", 5, 40, 1), small_recording("b1", "ben", 4, 30, 2)]
    write_dataset(recordings, folder, name="small", sample_bins=SAMPLE_BINS)
    return folder
