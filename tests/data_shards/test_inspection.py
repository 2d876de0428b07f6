from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.clocks import clock_suspicions
from neurochorus.data_shards.importers.archive import Archive
from neurochorus.data_shards.importing import import_dataset
from neurochorus.data_shards.inspection import inspect_recording, inspect_source
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.suspicions import suspicions
from neurochorus.data_shards.writer import write_dataset

RECIPES = Path(__file__).parents[2] / "launch" / "configs" / "recipes"


def recording(signal_TC: np.ndarray, **changes: Any) -> Recording:
    values: dict[str, Any] = {
        "session_id": "s1",
        "subject_id": "fox",
        "modality": "spikes",
        "bin_s": 0.01,
        "signal_TC": signal_TC,
        "units": [Unit(f"u{unit}") for unit in range(signal_TC.shape[1])],
        "segments": [Segment(0, len(signal_TC), "train")],
    }
    return Recording(**(values | changes))


@pytest.fixture
def counts_TC() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.2, (4000, 8)).astype(np.uint8)


def test_nothing_is_odd_about_independent_units(counts_TC: np.ndarray) -> None:
    assert suspicions(recording(counts_TC)) == []


def test_units_found_twice_are_named(counts_TC: np.ndarray) -> None:
    counts_TC[:, 5] = counts_TC[:, 2]
    counts_TC[:, 7] = counts_TC[:, 3]
    counts_TC[::100, 7] += 1  # nearly the same
    (found,) = suspicions(recording(counts_TC))
    assert "2 pairs of units have nearly the same counts: u2 and u5 (correlation 1.000), u3 and u7" in found


def test_fast_and_silent_units_are_named(counts_TC: np.ndarray) -> None:
    counts_TC[:, 1] = 0
    counts_TC[:, 4] = np.random.default_rng(1).poisson(3.05, 4000)
    fast, silent = suspicions(recording(counts_TC))
    assert fast.startswith("1 units fire more than 200 spikes/s, up to 30")
    assert "u4" in fast
    assert silent.startswith("1 units never fire: u1")


def test_a_hole_in_the_recording_is_found_but_not_across_segments(counts_TC: np.ndarray) -> None:
    counts_TC[1000:1300] = 0
    (found,) = suspicions(recording(counts_TC))
    assert found.startswith("no unit fires for 3.0 s in a row (30")
    around = [Segment(0, 1000, "train"), Segment(1300, 4000, "train")]
    assert suspicions(recording(counts_TC, segments=around)) == []
    split = [Segment(0, 1000, "train"), *(Segment(s, s + 50, "test") for s in range(1000, 1300, 50))]
    assert suspicions(recording(counts_TC, segments=split)) == []


def test_covariates_that_tell_nothing_are_named(counts_TC: np.ndarray) -> None:
    speed = np.full((4000, 1), np.nan, np.float32)
    speed[:1000, 0] = np.arange(1000)
    covariates = {"speed": speed, "arm": np.full((4000, 2), 3, np.float32)}
    missing, constant = suspicions(recording(counts_TC, covariates=covariates))
    assert missing.startswith("covariate 'speed' is missing in 75 % of the bins")
    assert constant == "covariate 'arm' never changes (it is [3.0, 3.0])"


def test_channels_of_a_continuous_signal_are_compared() -> None:
    signal_TC = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    signal_TC[:, 1] = 2
    signal_TC[:, 3] = 2 * signal_TC[:, 0] + 1
    constant, same = suspicions(recording(signal_TC, modality="continuous"))
    assert constant == "1 channels never change: u1"
    assert "the first u0 and u3" in same


def test_clocks_that_jump_are_named(tmp_path: Path) -> None:
    values = {
        "name": "made",
        "importer": "npz",
        "bin_s": 0.01,
        "sample_bins": 10,
        "subject_id": "fox",
        "signal": {"layout": "spike_times", "times": "spikes", "unit_index": "unit"},
        "covariates": {
            "x": {"key": "x", "per": "time", "time": "good"},
            "y": {"key": "y", "per": "time", "time": "bad"},
        },
        "split": {"method": "blocks", "block_bins": 100},
    }
    good = np.arange(1000) / 60
    bad = good + 5.0 * (np.arange(1000) > 300) - 10.0 * (np.arange(1000) > 700)
    np.savez(tmp_path / "a.npz", good=good, bad=bad)
    with Archive(tmp_path / "a.npz") as archive:
        back, gap = clock_suspicions(archive, parse_settings(Recipe, values, "recipe"))
    assert back.startswith("'bad' steps backwards 1 times, first from 16.6")
    assert gap.startswith("'bad' has 1 gaps, the longest of 5.0 s at 5 s")


def test_what_is_expected_is_what_is_written(tmp_path: Path, counts_TC: np.ndarray) -> None:
    generator = np.random.default_rng(2)
    segments = [Segment(0, 1005, "train"), Segment(1010, 1500, "valid"), Segment(1500, 3900, "test")]
    made = recording(
        counts_TC,
        segments=segments,
        covariates={"x": generator.normal(size=(4000, 3)).astype(np.float32)},
        provenance={"dropped": {"units": {"noise": 2}}, "notes": ["a note"]},
    )
    found = inspect_recording("a.npz", made, 100, [])
    assert (found.bins, found.gaps, found.gap_bins) == (3895, 2, 105)
    assert found.samples == {"train": 11, "valid": 5, "test": 24}
    assert found.dropped == {"units": {"noise": 2}}
    assert found.notes == ["a note"]
    manifest = write_dataset([made], tmp_path / "data", name="made", sample_bins=100)
    assert {split: total["samples"] for split, total in manifest.splits.items()} == found.samples
    assert 0 <= manifest.shards[0].bytes - found.bytes <= 10240


def save(path: Path, rate: float, seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(rate, (30, 20, 5)).astype(np.uint8)
    np.savez(path, counts=counts, animal=np.array("fox"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_sessions_are_compared_with_their_sisters(tmp_path: Path, jobs: int) -> None:
    for number, rate in enumerate((0.5, 0.5, 5.0)):
        save(tmp_path / f"s{number}.npz", rate, number)
    (tmp_path / "s9.npz").write_bytes(b"nothing")
    values = {"name": "made", "importer": "npz", "bin_s": 0.1, "sample_bins": 20, "subject_id": {"key": "animal"}}
    recipe = parse_settings(Recipe, values | {"signal": {"layout": "trials", "key": "counts"}}, "recipe")
    found = inspect_source(recipe, tmp_path, jobs=jobs)
    assert [session.session_id for session in found.sessions] == ["s0", "s1", "s2"]
    assert list(found.failures) == ["s9.npz"]
    (odd,) = found.suspicions
    assert odd.startswith("s2: its units fire 4")
    (tmp_path / "s9.npz").unlink()
    import_dataset(recipe, tmp_path, tmp_path / "data")
    save(tmp_path / "s3.npz", 0.5, 7)
    again = inspect_source(recipe, tmp_path, extend=tmp_path / "data")
    assert (len(again.skipped), [session.session_id for session in again.sessions]) == (3, ["s3"])


def test_real_recordings_are_inspected(real_data: Callable[[str], Path]) -> None:
    recipe = read_recipe(RECIPES / "hippocampus.yaml", ["files=linear_track.npz"])
    (session,) = inspect_source(recipe, real_data("hippocampus")).sessions
    assert session.units == 31
    assert session.coverage["position"][0] == 2
    assert session.coverage["position"][1] > 0.9
