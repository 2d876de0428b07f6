from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.importers import count_recordings, import_recordings
from neurochorus.data_shards.importers.covariates import interpolate
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.splits import random_splits

RECIPES = Path(__file__).parents[2] / "launch" / "configs" / "recipes"
GENERATOR = np.random.default_rng(0)
COUNTS = GENERATOR.poisson(0.5, (10, 6, 3)).astype(np.uint8)
TRIALS: dict[str, Any] = {
    "name": "lab",
    "importer": "npz",
    "bin_s": {"key": "width"},
    "sample_bins": 6,
    "subject_id": {"key": "mouse"},
    "signal": {"layout": "trials", "key": "spikes"},
}
ARRAYS: dict[str, Any] = {"spikes": COUNTS, "width": 0.01, "mouse": "Cori"}
BLOCKS = {"method": "blocks", "block_bins": 10}
TIMES: dict[str, Any] = {
    "name": "lab",
    "importer": "npz",
    "bin_s": 0.1,
    "sample_bins": 10,
    "subject_id": "{stem}",
    "signal": {"layout": "spike_times", "times": "t", "unit_index": "u"},
    "split": BLOCKS,
}


def make(directory: Path, recipe: dict[str, Any], arrays: dict[str, Any], name: str = "s01") -> Recording:
    """Save arrays as a file, import it and return the one recording."""
    np.savez(directory / f"{name}.npz", **arrays)
    (recording,) = import_recordings(parse_settings(Recipe, recipe, "recipe.yaml"), directory)
    return recording


def test_counts_by_trial(tmp_path: Path) -> None:
    recipe = TRIALS | {
        "session_id": "{mouse}_{stem}",
        "units": {"id": {"key": "ids"}, "region": {"key": "area"}, "columns": {"depth": {"key": "depth"}}},
        "labels": {"choice": {"key": "choice"}, "side": {"key": "side"}},
    }
    choice = np.arange(10.0)
    choice[4] = np.nan
    unit_columns = {"ids": [7, 3, 5], "area": ["CA1", "CA3", "DG"], "depth": [1.5, np.nan, 2.0]}
    recording = make(tmp_path, recipe, ARRAYS | unit_columns | {"choice": choice, "side": ["left"] * 10})
    assert (recording.session_id, recording.subject_id, recording.bin_s) == ("Cori_s01", "Cori", 0.01)
    np.testing.assert_array_equal(recording.signal_TC, COUNTS.reshape(60, 3))
    assert [(unit.unit_id, unit.region, unit.columns) for unit in recording.units] == [
        ("7", "CA1", {"depth": 1.5}),
        ("3", "CA3", {}),
        ("5", "DG", {"depth": 2.0}),
    ]
    assert [(segment.start, segment.stop) for segment in recording.segments] == [(6 * i, 6 * i + 6) for i in range(10)]
    assert recording.segments[3].labels == {"choice": 3.0, "side": "left"}
    assert recording.segments[4].labels == {"side": "left"}
    assert [segment.split for segment in recording.segments].count("train") == 7
    assert recording.provenance["file"] == "s01.npz"
    assert len(recording.provenance["sha256"]) == 64


def test_units_are_numbered_where_the_file_names_none(tmp_path: Path) -> None:
    recording = make(tmp_path, TRIALS | {"units": {"region": "CA1"}}, ARRAYS)
    assert [(unit.unit_id, unit.region) for unit in recording.units] == [(f"u000{i}", "CA1") for i in range(3)]


def test_axes_in_another_order(tmp_path: Path) -> None:
    recipe = TRIALS | {"signal": {"layout": "trials", "key": "spikes", "axes": ["unit", "trial", "bin"]}}
    recording = make(tmp_path, recipe, ARRAYS | {"spikes": COUNTS.transpose(2, 0, 1)})
    np.testing.assert_array_equal(recording.signal_TC, COUNTS.reshape(60, 3))


def test_splits_given_by_the_file(tmp_path: Path) -> None:
    given = ["train"] * 6 + ["test"] * 3 + ["valid"]
    recipe = TRIALS | {"split": {"method": "given", "key": "split"}}
    recording = make(tmp_path, recipe, ARRAYS | {"split": given})
    assert [segment.split for segment in recording.segments] == given
    with pytest.raises(ValueError, match=r"'split': holds \['dev'\]; expected train, valid, test"):
        make(tmp_path, recipe, ARRAYS | {"split": ["dev"] * 10})


def test_one_stretch_of_a_continuous_signal(tmp_path: Path) -> None:
    signal = GENERATOR.normal(size=(95, 4))
    recipe = TRIALS | {
        "modality": "continuous",
        "signal": {"layout": "continuous", "key": "lfp"},
        "split": BLOCKS,
        "covariates": {"speed": {"key": "speed", "per": "bin", "missing": -1}},
    }
    speed = np.arange(95)
    recording = make(tmp_path, recipe, ARRAYS | {"lfp": signal, "speed": np.where(speed == 2, -1, speed)})
    np.testing.assert_array_equal(recording.signal_TC, signal.astype(np.float32))
    assert [(segment.start, segment.stop) for segment in recording.segments][-2:] == [(80, 90), (90, 95)]
    assert [segment.split for segment in recording.segments].count("train") == 7
    assert recording.covariates["speed"][[1, 3], 0].tolist() == [1.0, 3.0]
    assert np.isnan(recording.covariates["speed"][2, 0])


def test_covariates_by_trial_and_by_bin(tmp_path: Path) -> None:
    contrast, running = np.arange(10.0), GENERATOR.normal(size=(10, 6, 2))
    recipe = TRIALS | {
        "covariates": {
            "contrast": {"key": "contrast", "per": "trial"},
            "mixed": {"key": ["running", "pupil"], "per": "bin"},
        }
    }
    recording = make(tmp_path, recipe, ARRAYS | {"contrast": contrast, "running": running, "pupil": running[..., 0]})
    np.testing.assert_array_equal(recording.covariates["contrast"][:, 0], np.repeat(contrast, 6))
    expected = np.concatenate([running, running[..., :1]], axis=2).reshape(60, 3).astype(np.float32)
    np.testing.assert_array_equal(recording.covariates["mixed"], expected)


def test_covariates_sampled_at_times_of_their_own(tmp_path: Path) -> None:
    centers = 5.0 + 3 * np.arange(10)[:, None] + 0.01 * np.arange(6)
    times = np.linspace(0, 40, 8001)
    recipe = TRIALS | {
        "signal": {"layout": "trials", "key": "spikes", "bin_centers": "centers"},
        "covariates": {"x": {"key": "x", "per": "time", "time": "at"}},
    }
    recording = make(tmp_path, recipe, ARRAYS | {"centers": centers, "at": times, "x": np.sin(times)})
    np.testing.assert_allclose(recording.covariates["x"][:, 0], np.sin(centers).reshape(-1), atol=1e-5)
    assert recording.segments[2].labels["first_bin_s"] == pytest.approx(11.0)


def test_trials_that_share_bins_share_their_split(tmp_path: Path) -> None:
    """Windows around events that follow one another closely: their bins are the same, and an event is in both."""
    starts = np.array([0.0, 1.0, 1.02, 3.0, 1.05, 5.0, 7.0, 9.0, 11.0, 9.03])
    centers = starts[:, None] + 0.01 * (np.arange(6) + 0.5)
    recipe = TRIALS | {
        "signal": {"layout": "trials", "key": "spikes", "bin_centers": "centers"},
        "covariates": {"lick": {"key": "lick", "per": "event"}},
    }
    recording = make(tmp_path, recipe, ARRAYS | {"centers": centers, "lick": [1.035, 3.0, 9.055]})
    splits = [segment.split for segment in recording.segments]
    assert splits[1] == splits[2] == splits[4]
    assert splits[7] == splits[9]
    assert "3 trials begin before another has ended: those that overlap have one split" in recording.provenance["notes"]
    assert np.argwhere(recording.covariates["lick"].reshape(10, 6)).tolist() == [[1, 3], [2, 1], [3, 0], [7, 5], [9, 2]]
    (tmp_path / "apart").mkdir()
    apart = make(tmp_path / "apart", recipe, ARRAYS | {"centers": centers + 20 * np.arange(10)[:, None], "lick": [1.0]})
    assert [segment.split for segment in apart.segments] == random_splits(10, parse_settings(Recipe, recipe, "r").split)
    with pytest.raises(ValueError, match="is the same in all 10 trials, so it does not tell when they were"):
        make(tmp_path, recipe, ARRAYS | {"centers": np.tile(centers[0], (10, 1)), "lick": [1.0]})


def test_two_keys_may_share_times_of_which_one_is_odd(tmp_path: Path) -> None:
    at = np.linspace(0, 40, 401)
    at[7] = -1e12
    recipe = TRIALS | {
        "signal": {"layout": "trials", "key": "spikes", "bin_centers": "centers"},
        "covariates": {"p": {"key": ["x", "y"], "per": "time", "time": "at", "implausible": "drop"}},
    }
    arrays = {"centers": 5.0 + 3 * np.arange(10)[:, None] + 0.01 * np.arange(6), "at": at, "x": at, "y": 2 * at}
    found = make(tmp_path, recipe, ARRAYS | arrays).covariates["p"]
    np.testing.assert_allclose(found, arrays["centers"].reshape(-1, 1) * [1, 2], atol=1e-4)


def test_a_value_that_stands_for_missing_is_met_in_the_precision_of_the_file(tmp_path: Path) -> None:
    speed = np.full((10, 6), 0.1, dtype=np.float32)
    speed[3, 2] = -999.9
    recipe = TRIALS | {"covariates": {"speed": {"key": "speed", "per": "bin", "missing": -999.9}}}
    found = make(tmp_path, recipe, ARRAYS | {"speed": speed}).covariates["speed"].reshape(10, 6)
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 2]]


def test_interpolation_leaves_gaps_and_ends_missing() -> None:
    times, samples = np.array([1.0, 2.0, 5.0, 6.0]), np.array([[10.0], [20.0], [50.0], [60.0]])
    at = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 5.5, 6.0, 6.5])
    got = interpolate(at, times, samples, max_gap_s=1.5)[:, 0]
    np.testing.assert_array_equal(got, [np.nan, 10, 15, 20, np.nan, 50, 55, 60, np.nan])
    assert np.isnan(interpolate(at, times[:0], samples[:0], 1.5)).all()


def test_spike_times_are_counted_in_bins(tmp_path: Path) -> None:
    times = np.array([2.31, 2.3, 2.35, 2.69, 3.0, 3.0])
    index = np.array([1, 0, 0, 0, 2, 2])
    recording = make(tmp_path, TIMES, {"t": times, "u": index})
    # bin 0 starts at 2.3, the first spike rounded down to a whole number of bins; 3.0 opens the last bin
    expected = np.zeros((8, 3), int)
    expected[0], expected[3, 0], expected[7, 2] = [2, 1, 0], 1, 2
    np.testing.assert_array_equal(recording.signal_TC, expected)
    assert recording.provenance["start_s"] == pytest.approx(2.3)


@pytest.mark.parametrize("bin_s", [0.1, 0.02, 0.005, 0.001])
def test_a_spike_on_a_border_belongs_to_the_bin_that_it_opens(tmp_path: Path, bin_s: float) -> None:
    times = bin_s * np.arange(1000)  # products that rounding puts on either side of the border
    recording = make(tmp_path, TIMES | {"bin_s": bin_s}, {"t": times, "u": np.zeros(1000, int)})
    assert recording.signal_TC[:, 0].tolist() == [1] * 1000


def test_spikes_outside_the_span_are_refused_or_dropped(tmp_path: Path) -> None:
    arrays = {"t": np.array([-1.0, 0.5, 1.5, 9.0]), "u": np.zeros(4, int), "ids": ["a", "b"], "end": 2.05}
    signal = TIMES["signal"] | {"start_s": 0, "stop_s": {"key": "end"}}
    recipe = TIMES | {"signal": signal, "units": {"id": {"key": "ids"}}}
    with pytest.raises(ValueError, match=r"s01.npz: 't': 2 spikes lie outside the 20 whole bins from 0 to 2 s"):
        make(tmp_path, recipe, arrays)
    recording = make(tmp_path, recipe | {"signal": signal | {"outside": "drop"}}, arrays)
    assert recording.signal_TC.shape == (20, 2)  # a unit without spikes is a unit
    assert np.argwhere(recording.signal_TC).tolist() == [[5, 0], [15, 0]]
    assert recording.provenance["spikes_dropped"] == 2


def test_a_template_may_format_numbers(tmp_path: Path) -> None:
    recipe = TRIALS | {"session_id": "{mouse}-{day:03d}"}
    assert make(tmp_path, recipe, ARRAYS | {"day": 7}).session_id == "Cori-007"
    with pytest.raises(ValueError, match=r"s01\.npz: the template .* does not fit"):
        make(tmp_path, recipe, ARRAYS | {"day": "seven"})


BAD_TRIALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"signal": {"layout": "trials", "key": "spike"}}, {}, r"has no array 'spike'; did you mean 'spikes'\?"),
    ({}, {"spikes": COUNTS[0]}, r"'spikes': has shape \(6, 3\); expected 3 dimensions"),
    ({}, {"spikes": COUNTS[:0]}, "'spikes': is empty"),
    ({}, {"spikes": np.where(COUNTS == 2, np.nan, COUNTS)}, r"'spikes' \(trial, bin, unit\): .* are not finite"),
    ({}, {"spikes": COUNTS.astype(int) - 1}, r"'spikes' .* are negative"),
    ({}, {"spikes": COUNTS / 2}, r"'spikes' .* are not a whole number"),
    ({}, {"spikes": np.array([{}], dtype=object)}, "'spikes': holds Python objects"),
    ({}, {"mouse": np.array("Co.ri")}, "subject id 'Co.ri'"),
    ({}, {"mouse": np.array(["a", "b"])}, "'mouse': is <U1 of shape .* expected one text or number"),
    ({}, {"width": -0.01}, "bin_s is -0.01"),
    ({}, {"width": "fast"}, "'width': is 'fast'; expected a finite number"),
    ({"session_id": "{stem}.x"}, {}, r"session id 's01\.x'.*a dot would split"),
    ({"session_id": "{dtae}"}, {}, "has no array 'dtae'"),
    ({"units": {"id": {"key": "ids"}}}, {"ids": ["a", "b", "a"]}, "'s01': the unit id 'a' stands at columns 0 and 2"),
    ({"units": {"id": {"key": "ids"}}}, {"ids": ["a", "b"]}, "2 values of 'id' describe units but the signal has 3"),
    ({"units": {"id": {"key": "ids"}}}, {"ids": [1.0, 2.0, 3.0]}, "unit ids are of type float64"),
    (
        {"units": {"id": {"key": "ids"}, "region": {"key": "area"}}},
        {"ids": ["a", "b", "c"], "area": ["x"]},
        "differ in length: {'ids': 3, 'area': 1}",
    ),
    (
        {"covariates": {"v": {"key": "v", "per": "trial"}}},
        {"v": np.zeros(9)},
        r"'v': has shape \(9,\).* expected \(10,\)",
    ),
    ({"covariates": {"v": {"key": "v", "per": "bin"}}}, {"v": np.zeros((10, 5))}, r"'v': .* expected \(10, 6\)"),
    ({"covariates": {"v": {"key": "v", "per": "trial"}}}, {"v": ["a"] * 10}, "'v': is of type <U1"),
    ({"covariates": {"v": {"key": "v", "per": "trial"}}}, {"v": [np.inf] * 10}, "'v' holds infinite values"),
    ({"labels": {"v": {"key": "v"}}}, {"v": np.zeros(9)}, "'v': is float64 of length 9; .* for 10 trials"),
    (
        {"signal": {"layout": "trials", "key": "spikes", "bin_centers": "c"}},
        {"c": np.zeros((10, 1)) + 0.02 * np.arange(6)},
        "'c': bins are 0.02 to 0.02 s apart but bin_s is 0.01",
    ),
    ({"split": {"fractions": [0.5, 0.4, 0.2]}}, {}, "split.fractions"),
]


@pytest.mark.parametrize(("recipe", "arrays", "message"), BAD_TRIALS)
def test_bad_trials_name_file_and_key(
    tmp_path: Path, recipe: dict[str, Any], arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(tmp_path, TRIALS | recipe, ARRAYS | arrays)
    assert "s01.npz" in str(caught.value) or "recipe.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"t": [0.2, 0.1], "u": [0, 0]}, "'t': unit 0 goes back to 0.1 s at spike 1"),
        ({"t": [-0.2, 0.1], "u": [0, 0]}, "'t': the earliest spike is at -0.2 s"),
        ({"t": [0.1, np.nan], "u": [0, 0]}, "'t': the time at 1 is nan"),
        ({"t": [0.1, 0.2], "u": [0]}, "'t' has 2 spikes but 'u' has 1"),
        ({"t": [0.1, 0.2], "u": [0, -1]}, "'u': runs from -1 to 0"),
        ({"t": [0.1, 0.2], "u": [0.0, 1.0]}, "'u': is of type float64"),
        ({"t": [0.1, 0.2], "u": [0, 5], "ids": ["a", "b"]}, "'u': runs from 0 to 5 and the file describes 2 units"),
        ({"t": np.zeros(0), "u": np.zeros(0, int)}, "'t': holds no spike"),
        ({"t": [0.1, 0.2], "u": [0, 0], "at": [0.0, 2.0, 1.0], "x": [1.0, 2, 3]}, "'at': goes back to 1 s at 2"),
        ({"t": [0.1, 0.2], "u": [0, 0], "at": [0.0, 2.0], "x": [1.0, 2, 3]}, r"'x': has shape \(3,\) but 'at' has 2"),
    ],
)
def test_bad_spike_times_name_file_and_key(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    recipe = dict(TIMES)
    if "ids" in arrays:
        recipe["units"] = {"id": {"key": "ids"}}
    if "x" in arrays:
        recipe["covariates"] = {"x": {"key": "x", "per": "time", "time": "at"}}
    with pytest.raises(ValueError, match=message) as caught:
        make(tmp_path, recipe, arrays)
    assert "s01.npz" in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    recipe = parse_settings(Recipe, TRIALS, "recipe.yaml")
    with pytest.raises(ValueError, match="--source DIR"):
        list(import_recordings(recipe))
    with pytest.raises(ValueError, match="no such directory"):
        list(import_recordings(recipe, tmp_path / "nowhere"))
    (tmp_path / "other.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match=r"other.h5: is a file: name its directory \(--source\), and set `files"):
        list(import_recordings(recipe, tmp_path / "other.h5"))
    hdf5 = parse_settings(Recipe, {**TRIALS, "files": "*.h5"}, "recipe.yaml")
    with pytest.raises(ValueError, match=r"other.h5: is no .npz file: is it whole\? `launch/shard.py --suggest FILE`"):
        list(import_recordings(hdf5, tmp_path))
    with pytest.raises(ValueError, match=r"no file matches '\*.npz'"):
        count_recordings(recipe, tmp_path)
    path = tmp_path / "s01.npz"
    np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"s01\.npz: cannot be read as an \.npz file"):
        list(import_recordings(recipe, tmp_path))
    with path.open("wb") as file:
        np.save(file, COUNTS)
    with pytest.raises(ValueError, match=r"s01\.npz: holds a single array"):
        list(import_recordings(recipe, tmp_path))


def test_flipped_bits_in_a_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s01.npz"
    np.savez(path, **ARRAYS)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"s01\.npz: '?\w+'?: damaged"):
        list(import_recordings(parse_settings(Recipe, TRIALS, "recipe.yaml"), tmp_path))


def test_steinmetz_sessions(real_data: Callable[[str], Path]) -> None:
    source = real_data("steinmetz2019")
    recordings = {}
    for recording in import_recordings(read_recipe(RECIPES / "steinmetz2019.yaml"), source):
        recordings[recording.session_id] = recording
    assert len(recordings) == 18
    subjects = [recording.subject_id for recording in recordings.values()]
    assert subjects == ["Cori"] * 3 + ["Forssmann"] * 4 + ["Hench"] * 4 + ["Lederberg"] * 7
    recording = recordings["steinmetz_s05"]
    with np.load(source / "steinmetz_s05.npz") as arrays:
        trials = arrays["spikes"].shape[0]
        np.testing.assert_array_equal(recording.signal_TC.reshape(arrays["spikes"].shape), arrays["spikes"])
        assert [unit.region for unit in recording.units] == arrays["brain_area"].tolist()
        left = recording.covariates["contrast_left"].reshape(trials, 40)
        np.testing.assert_array_equal(left, np.repeat(arrays["contrast_left"][:, None], 40, axis=1))
        feedback = [segment.labels["feedback_type"] for segment in recording.segments]
        assert feedback == arrays["feedback_type"].tolist()
    order = np.random.default_rng(0).permutation(trials)
    assert recording.segments[order[0]].split == "train"
    assert [segment.split for segment in recording.segments] == random_splits(
        trials, read_recipe(RECIPES / "steinmetz2019.yaml").split
    )


def test_hippocampus_sessions(real_data: Callable[[str], Path]) -> None:
    source = real_data("hippocampus")
    recordings = {r.session_id: r for r in import_recordings(read_recipe(RECIPES / "hippocampus.yaml"), source)}
    assert {name: len(recording.units) for name, recording in recordings.items()} == {"linear_track": 31, "w_maze": 25}
    for name, recording in recordings.items():
        with np.load(source / f"{name}.npz") as arrays:
            spikes = np.bincount(arrays["spike_unit"])
            np.testing.assert_array_equal(recording.signal_TC.sum(axis=0), spikes)
            position = recording.covariates["position"]
            known = np.isfinite(position).all(axis=1)
            assert known.mean() > 0.9
            assert position[known, 0].min() >= arrays["position_x"].min()
            assert position[known, 1].max() <= arrays["position_y"].max()
            row = 1000
            center = recording.provenance["start_s"] + (row + 0.5) * recording.bin_s
            nearest = int(np.argmin(np.abs(arrays["position_time"] - center)))
            assert position[row, 0] == pytest.approx(arrays["position_x"][nearest], abs=3)
