"""Continuous signals whose samples come faster than bins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurochorus.data_shards.importers import import_recordings, scratch
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import parse_settings

BASE: dict[str, Any] = {
    "name": "lab",
    "importer": "npz",
    "bin_s": 0.02,
    "sample_bins": 50,
    "subject_id": "{stem}",
    "modality": "continuous",
    "signal": {"layout": "continuous", "key": "lfp", "sampling": {"rate": 1000}},
    "split": {"method": "blocks", "block_bins": 10},
}
LFP = np.random.default_rng(2).normal(size=(1010, 3)).astype(np.float32)


def make(directory: Path, changes: dict[str, Any], arrays: dict[str, Any], **recipe: Any) -> Recording:
    held: dict[str, Any] = {"lfp": LFP} | arrays
    np.savez(directory / "s01.npz", **held)
    values = BASE | {"signal": BASE["signal"] | changes} | recipe
    (recording,) = import_recordings(parse_settings(Recipe, values, "recipe.yaml"), directory)
    return recording


@pytest.mark.parametrize(("how", "reduce"), [("mean", np.mean), ("sum", np.sum), ("last", lambda x, axis: x[:, -1])])
def test_samples_are_reduced_into_bins(tmp_path: Path, how: str, reduce: Any) -> None:
    expected = reduce(LFP[:1000].astype(np.float64).reshape(50, 20, 3), axis=1)
    recording = make(tmp_path, {"reduce": how}, {})
    np.testing.assert_allclose(recording.signal_TC, expected, rtol=1e-6)
    turned = make(tmp_path, {"reduce": how, "axes": ["unit", "bin"]}, {"lfp": LFP.T})
    np.testing.assert_array_equal(turned.signal_TC, recording.signal_TC)


def test_spike_counts_are_summed(tmp_path: Path) -> None:
    raster = np.random.default_rng(3).integers(0, 2, (1000, 3))
    recording = make(tmp_path, {}, {"lfp": raster}, modality="spikes", units={"min_rate": 1.0})
    np.testing.assert_array_equal(recording.signal_TC, raster.reshape(50, 20, 3).sum(axis=1))
    assert recording.signal_TC.dtype == np.uint8


def test_a_gap_between_samples_ends_a_segment(tmp_path: Path) -> None:
    times = 5 + np.arange(1010) / 1000
    times[500:] += 2.0
    recording = make(tmp_path, {"sampling": {"times": "at"}}, {"at": times})
    assert len(recording.signal_TC) == 50  # 25 bins before and 25 after
    np.testing.assert_allclose(recording.signal_TC[25], LFP[500:520].mean(axis=0), rtol=1e-5)
    assert (20, 25) in [(s.start, s.stop) for s in recording.segments]
    assert recording.provenance["gaps"] == 1
    assert recording.provenance["notes"] == ["1 gaps between samples end segments, the longest 2.001 s (at)"]
    joined = make(tmp_path, {"sampling": {"times": "at", "max_gap_s": 3}}, {"at": times})
    assert joined.provenance["dropped"]["bins"] == {"no sample": 100}


@pytest.mark.parametrize("jitter_s", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("bin_s", [1 / 30, 0.033333])
def test_a_bin_a_frame_holds_that_frame_in_spite_of_jitter(tmp_path: Path, jitter_s: float, bin_s: float) -> None:
    frames = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    times = 12.5 + np.arange(2000) / 30 + jitter_s * np.random.default_rng(1).uniform(-1, 1, 2000)
    recording = make(tmp_path, {"sampling": {"times": "at"}}, {"at": times, "lfp": frames}, bin_s=bin_s)
    assert "dropped" not in recording.provenance
    assert len(recording.signal_TC) >= 1999
    np.testing.assert_array_equal(recording.signal_TC[:1000], frames[:1000])


def test_trials_that_begin_with_a_frame_hold_their_frames_in_spite_of_jitter(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    times = 12.5 + np.arange(2000) / 30 + 1e-4 * np.random.default_rng(1).uniform(-1, 1, 2000)
    arrays = {"at": times, "lfp": frames, "on": 12.5 + np.arange(1, 20) * 3.0, "off": 12.5 + np.arange(1, 20) * 3.0 + 1}
    trials = {"trials": {"start": "on", "stop": "off"}, "split": {"method": "random"}}
    recording = make(tmp_path, {"sampling": {"times": "at"}}, arrays, bin_s=1 / 30, **trials)
    assert len(recording.segments) == 19
    expected = np.concatenate([frames[90 * trial : 90 * trial + 30] for trial in range(1, 20)])
    np.testing.assert_array_equal(recording.signal_TC, expected)


def test_trials_of_a_sampled_signal_start_where_they_start(tmp_path: Path) -> None:
    trials = {"align": "cue", "window_s": [-0.1, 0.1]}
    recording = make(
        tmp_path, {}, {"cue": [0.203, 0.5]}, trials=trials, split={"method": "random", "fractions": [1, 0, 0]}
    )
    np.testing.assert_allclose(recording.signal_TC[0], LFP[103:123].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(recording.signal_TC[10], LFP[400:420].mean(axis=0), rtol=1e-5)


def test_trials_of_a_signal_in_bins(tmp_path: Path) -> None:
    centers = 1.01 + 0.02 * np.arange(1010)
    trials = {"start": "on", "stop": "off", "overlap": "refuse"}
    recording = make(
        tmp_path,
        {"sampling": None, "bin_centers": "c"},
        {"c": centers, "on": [2.0, 9.0], "off": [3.0, 9.2], "from": [0.0], "to": [9.1]},
        trials=trials,
        observed={"start": "from", "stop": "to"},
        split={"method": "random", "fractions": [1, 0, 0]},
    )
    assert [(s.start, s.stop) for s in recording.segments] == [(50, 100), (400, 405)]


@pytest.mark.parametrize(
    ("sampling", "arrays", "message"),
    [
        ({"rate": 10}, {}, r"'lfp': samples come every 0.1 s, slower than bin_s \(0.02 s\)"),
        ({"rate": {"key": "r"}}, {"r": 0.0}, "signal.sampling.rate is 0"),
        ({"times": "at"}, {"at": np.arange(9.0)}, "'at': has 9 times but the signal has 1010 samples"),
        ({"times": "at"}, {"at": np.arange(1010)[::-1] / 1000}, "'at': the median step .* expected times that rise"),
        (
            {"times": "at"},
            {"at": np.where(np.arange(1010) == 900, 0, np.arange(1010) / 1e3)},
            "goes back to 0 s at 900",
        ),
        ({"rate": 1000}, {"lfp": np.full((1010, 3), np.nan)}, "reduced into bins .* not a finite float32"),
    ],
)
def test_samples_that_cannot_be_reduced_say_why(
    tmp_path: Path, sampling: dict[str, Any], arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(tmp_path, {"sampling": sampling}, arrays)
    assert "s01.npz" in str(caught.value)


@given(st.integers(1, 300), st.sampled_from(["mean", "sum", "last"]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_reducing_in_pieces_is_reducing_at_once(
    tmp_path_factory: pytest.TempPathFactory, rows: int, how: str, by_times: bool
) -> None:
    path = tmp_path_factory.mktemp("samples")
    times = np.cumsum(np.random.default_rng(rows).uniform(0.0005, 0.0014, 1010))
    changes = {"reduce": how, "sampling": {"times": "at"} if by_times else {"rate": 930.0}}
    whole = make(path, changes, {"at": times})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "BLOCK", rows * 24)
        pieces = make(path, changes, {"at": times})
    np.testing.assert_array_equal(whole.signal_TC, pieces.signal_TC)
    assert whole.segments == pieces.segments
