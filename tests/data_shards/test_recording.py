from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.recording import Recording, Segment, Unit, as_counts, as_signal, unit_hash


def make_recording(**changes: Any) -> Recording:
    values: dict[str, Any] = {
        "session_id": "fox_s1",
        "subject_id": "fox",
        "modality": "spikes",
        "bin_s": 0.01,
        "signal_TC": np.zeros((10, 2), np.uint8),
        "units": [Unit("a"), Unit("b")],
        "segments": [Segment(0, 5, "train"), Segment(5, 10, "test")],
    }
    return Recording(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"session_id": "ses-1.5"}, r"session id 'ses-1\.5'.*a dot would split"),
        ({"session_id": "x" * 65}, "1-64 letters"),
        ({"subject_id": "my fox"}, "'fox_s1': subject id 'my fox'"),
        ({"modality": "lfp"}, "modality is 'lfp'"),
        ({"bin_s": 0.0}, "bin_s is 0.0"),
        ({"bin_s": float("nan")}, "bin_s is nan"),
        ({"signal_TC": np.zeros((10, 2))}, "is float64; expected uint8 or uint16"),
        ({"signal_TC": np.zeros((10, 2), np.float32)}, "is float32; expected uint8 or uint16"),
        ({"signal_TC": np.zeros((10, 2, 1), np.uint8)}, r"shape \(10, 2, 1\)"),
        ({"signal_TC": np.zeros((0, 2), np.uint8)}, r"shape \(0, 2\)"),
        ({"modality": "continuous", "signal_TC": np.full((10, 2), np.nan, np.float32)}, "nan at bin 0, unit 0"),
        ({"units": [Unit("a")]}, "1 units are described but the signal has 2 columns"),
        ({"units": [Unit("a"), Unit("a")]}, "'fox_s1': the unit id 'a' stands at columns 0 and 1"),
        ({"segments": []}, "no segment"),
        ({"segments": [Segment(0, 6, "train"), Segment(5, 10, "test")]}, "must not overlap"),
        ({"segments": [Segment(5, 10, "train"), Segment(0, 5, "test")]}, "sorted"),
        ({"segments": [Segment(0, 11, "train")]}, "ends at bin 11 but the recording has 10"),
        ({"covariates": {"x": np.zeros((9, 1), np.float32)}}, "'x' has 9 bins but the signal has 10"),
        ({"covariates": {"x": np.zeros((10, 1))}}, "'x' is float64"),
        ({"covariates": {"x": np.full((10, 1), np.inf, np.float32)}}, "'x' holds an infinite value"),
        ({"covariates": {"a.b": np.zeros((10, 1), np.float32)}}, r"covariate 'a\.b'"),
    ],
)
def test_a_bad_recording_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_recording(**changes)


def test_a_good_recording_keeps_nan_covariates() -> None:
    covariates = {"x": np.full((10, 1), np.nan, np.float32)}
    assert np.isnan(make_recording(covariates=covariates).covariates["x"]).all()


@pytest.mark.parametrize(("start", "stop", "split"), [(0, 5, "dev"), (5, 5, "train"), (-1, 3, "train")])
def test_a_bad_segment_is_refused(start: int, stop: int, split: str) -> None:
    with pytest.raises(ValueError, match=rf"segment \[{start}, {stop}\)"):
        Segment(start, stop, split)


def test_labels_and_columns_become_plain_values() -> None:
    unit = Unit("a", columns={"depth": np.float32(1.5), "kind": np.str_("pyr"), "rank": 3})  # type: ignore[dict-item]
    assert unit.columns == {"depth": 1.5, "kind": "pyr", "rank": 3.0}
    assert [type(value) for value in unit.columns.values()] == [float, str, float]
    with pytest.raises(ValueError, match="label 'rt' is nan"):
        Segment(0, 5, "train", {"rt": float("nan")})
    with pytest.raises(ValueError, match="column name 'region' is taken"):
        Unit("a", columns={"region": "CA1"})


def test_unit_hash_depends_on_the_ids_and_not_on_their_order() -> None:
    assert unit_hash(["a", "b"]) == unit_hash(["b", "a"])
    assert len({unit_hash(ids) for ids in (["a", "b"], ["a", "c"], ["a"], ["ab"])}) == 4


def test_counts_take_the_smallest_type_that_holds_them() -> None:
    assert as_counts(np.array([[0.0, 255.0]]), "x").dtype == np.uint8
    assert as_counts(np.array([[0, 256]]), "x").dtype == np.uint16
    assert as_counts(np.array([[True, False]]), "x").tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, np.nan]], r"file 'spikes': 1 of 2 values are not finite, the first nan at \(0, 1\)"),
        ([[0, -1]], r"negative, the first -1 at \(0, 1\)"),
        ([[0.5, 2]], r"not a whole number, the first 0\.5 at \(0, 0\)"),
        ([[0, 70000]], "a count is 70000"),
        ([["a"]], "of type <U1"),
    ],
)
def test_what_cannot_be_a_count_is_refused_with_its_place(values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_counts(np.array(values), "file 'spikes'")


def test_a_continuous_signal_must_fit_float32() -> None:
    assert as_signal(np.array([[1, 2]]), "x").dtype == np.float32
    with pytest.raises(ValueError, match=r"x: 1 of 2 values are not a finite float32, the first 1e\+300 at \(0, 1\)"):
        as_signal(np.array([[0.0, 1e300]]), "x")
