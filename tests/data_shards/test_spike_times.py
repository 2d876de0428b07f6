"""Spike times of every form, with conditions over units, trials, and stretches that were not observed."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurochorus.data_shards.importers import import_recordings, scratch
from neurochorus.data_shards.importers.grid import Grid
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.spikes import Spikes, count_spikes, tally
from neurochorus.data_shards.importers.units import UnitTable
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recipe_units import UnitsRecipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import parse_settings

BASE: dict[str, Any] = {
    "name": "lab",
    "importer": "npz",
    "bin_s": 0.1,
    "sample_bins": 50,
    "subject_id": "{stem}",
    "signal": {"layout": "spike_times", "times": "t", "unit_index": "u", "start_s": 0, "stop_s": 10},
    "split": {"method": "blocks", "block_bins": 20},
}
GENERATOR = np.random.default_rng(1)
TIMES = np.sort(GENERATOR.uniform(0, 10, 400))
UNITS = GENERATOR.choice(4, 400, p=[0.5, 0.3, 0.19, 0.01])
ARRAYS: dict[str, Any] = {
    "t": TIMES,
    "u": UNITS,
    "quality": ["good", "mua", "good", "good"],
    "depth": [1.0, 2.0, 3.0, 4.0],
    "ids": ["a", "b", "c", "d"],
}
TRIALS = {"trials": {"start": "on", "stop": "off"}, "split": {"method": "random"}}
ON = np.array([1.03, 3.0, 3.5, 5.0, 9.5, np.nan, 7.0])
OFF = np.array([2.03, 4.0, 4.5, 5.05, 10.5, 8.0, 8.0])


def make(directory: Path, recipe: dict[str, Any], arrays: dict[str, Any]) -> Recording:
    np.savez(directory / "s01.npz", **(ARRAYS | arrays))
    (recording,) = import_recordings(parse_settings(Recipe, BASE | recipe, "recipe.yaml"), directory)
    return recording


def with_signal(**changes: Any) -> dict[str, Any]:
    return {"signal": {name: value for name, value in (BASE["signal"] | changes).items() if value is not None}}


def test_times_joined_unit_by_unit_are_counted_as_with_an_index(tmp_path: Path) -> None:
    by_index = make(tmp_path, {}, {})
    order = np.argsort(UNITS, kind="stable")
    joined = {"t": TIMES[order] * 1000, "n": np.bincount(UNITS, minlength=4)}
    by_counts = make(tmp_path, with_signal(unit_index=None, unit_counts="n", time_scale=0.001), joined)
    np.testing.assert_array_equal(by_counts.signal_TC, by_index.signal_TC)
    assert by_index.signal_TC.sum() == 400
    with pytest.raises(ValueError, match=r"'t' has 400 spikes but the units have 399 in all"):
        make(tmp_path, with_signal(unit_index=None, unit_counts="n"), {"n": [399, 0, 0, 0]})
    with pytest.raises(ValueError, match="'t': is no ragged column"):
        make(tmp_path, with_signal(unit_index=None), {})


def test_units_are_kept_by_a_condition_and_by_their_rate(tmp_path: Path) -> None:
    units = {"id": {"key": "ids"}, "where": "quality == 'good' and depth < 9", "min_rate": 1.0}
    recording = make(tmp_path, {"units": units}, {})
    everything = make(tmp_path, {}, {})
    assert recording.unit_ids == ["a", "c"]
    np.testing.assert_array_equal(recording.signal_TC, everything.signal_TC[:, [0, 2]])
    dropped = recording.provenance["dropped"]
    assert dropped["units"] == {
        "where quality == 'good' and depth < 9": 1,
        "fewer than 1 spikes per second": 1,
    }
    assert dropped["spikes"]["of units that are dropped"] == int(np.isin(UNITS, [1, 3]).sum())
    with pytest.raises(ValueError, match="of 4 units none is kept: 4 dropped, where depth > 9"):
        make(tmp_path, {"units": {"where": "depth > 9"}}, {})
    with pytest.raises(ValueError, match=r"no array 'qualty'; did you mean 'quality'.*asked for by units.where"):
        make(tmp_path, {"units": {"where": "qualty == 'good'"}}, {})
    with pytest.raises(ValueError, match="compares text with numbers"):
        make(tmp_path, {"units": {"where": "quality > 1"}}, {})


def test_ids_are_shortened_as_the_recipe_says(tmp_path: Path) -> None:
    ids = {"ids": [f"day1/group_0/elec_{n}" for n in range(4)]}
    units = {"id": {"key": "ids"}, "id_pattern": "group_.*", "id_replace": "_"}
    assert make(tmp_path, {"units": units}, ids).unit_ids[2] == "group_0_elec_2"
    with pytest.raises(ValueError, match="finds nothing in the unit id 'day1/"):
        make(tmp_path, {"units": units | {"id_pattern": "shank.*"}}, ids)


def test_a_trial_starts_exactly_where_its_first_bin_does(tmp_path: Path) -> None:
    recipe = TRIALS | {"labels": {"side": {"key": "side"}}, "covariates": {"c": {"key": "c", "per": "trial"}}}
    sides = np.array(["l", "r", "x", "x", "x", "x", "last"])
    recording = make(tmp_path, recipe, {"on": ON, "off": OFF, "side": sides, "c": np.arange(7.0)})
    assert [(s.start, s.stop, s.labels["side"]) for s in recording.segments] == [
        (0, 10, "l"),
        (10, 20, "r"),
        (20, 30, "last"),
    ]
    for segment, (start, row) in zip(recording.segments, [(1.03, 0), (3.0, 1), (7.0, 6)]):
        assert segment.labels["first_bin_s"] == pytest.approx(start + 0.05)
        edges = start + 0.1 * np.arange(11)
        expected = np.histogram2d(TIMES, UNITS, [edges, np.arange(5)])[0]
        np.testing.assert_array_equal(recording.signal_TC[segment.start : segment.stop], expected)
        assert (recording.covariates["c"][segment.start : segment.stop] == row).all()
    assert recording.provenance["dropped"]["trials"] == {
        "no start or stop": 1,
        "shorter than a bin": 1,
        "outside of what was recorded": 1,
        "overlaps the trial before": 1,
    }


def test_windows_around_an_event_and_a_condition_over_trials(tmp_path: Path) -> None:
    trials = {"align": "cue", "window_s": [-0.2, 0.8], "where": "correct == 1"}
    recipe = {"trials": trials, "split": {"method": "given", "key": "part"}}
    part = np.array(["train", "test", "train", "valid"])
    arrays = {"cue": [1.0, 3.0, 5.0, 7.0], "correct": [1, 1, 0, 1], "part": part}
    recording = make(tmp_path, recipe, arrays)
    assert [(s.stop - s.start, s.split) for s in recording.segments] == [(10, "train"), (10, "test"), (10, "valid")]
    assert recording.segments[1].labels["first_bin_s"] == pytest.approx(2.85)
    assert recording.provenance["dropped"]["trials"] == {"where correct == 1": 1}


def test_overlapping_trials_may_be_refused(tmp_path: Path) -> None:
    arrays = {"on": [3.0, 3.5], "off": [4.0, 4.5]}
    refuse = {"trials": TRIALS["trials"] | {"overlap": "refuse"}, "split": {"method": "random"}}
    with pytest.raises(ValueError, match=r"trial 1, from 3.5 to 4.5 s: overlaps the trial before"):
        make(tmp_path, refuse, arrays)
    with pytest.raises(ValueError, match=r"of 2 trials none is kept: .*outside of what was recorded': 2"):
        make(tmp_path, TRIALS, {"on": [13.0, 13.5], "off": [14.0, 14.5]})


def test_nothing_is_kept_from_where_nothing_was_recorded(tmp_path: Path) -> None:
    recipe = {"observed": {"start": "from", "stop": "to"}}
    recording = make(tmp_path, recipe, {"from": [0.0, 5.05], "to": [3.0, 8.0]})
    assert len(recording.signal_TC) == 59  # 30 bins, and 29 whole ones from 5.05 s on
    np.testing.assert_array_equal(recording.signal_TC[:30], make(tmp_path, {}, {}).signal_TC[:30])
    borders = [(s.start, s.stop) for s in recording.segments]
    assert borders == [(0, 20), (20, 30), (30, 40), (40, 59)]
    same_block = {s.split for s in recording.segments if 20 <= s.start < 40}
    assert len(same_block) == 1
    assert recording.provenance["dropped"]["bins"] == {"not observed": 40}


def test_segments_end_where_a_kept_unit_was_not_observed() -> None:
    class Ragged:
        path = Path("made")
        tables: ClassVar[dict[str, str]] = {}

        def column(self, table: str | None, key: str) -> str:
            return key

        def ragged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
            return np.array([[0.0, 1.0], [0.0, 0.4], [0.5, 1.0], [0.0, 0.3]]), np.array([1, 2, 1])

    source: Any = Ragged()
    table = UnitTable(source, UnitsRecipe(observed="seen", min_observed=0.5), {}, Notes())
    kept, good = table.observed(np.ones(3, dtype=bool), 0.05 + 0.1 * np.arange(10), 0.1)
    assert kept.tolist() == [True, True, False]
    assert good is not None
    assert np.flatnonzero(~good).tolist() == [4]
    assert table.notes.dropped == {
        "units": {"observed for less than 0.5 of the time": 1},
        "bins": {"a kept unit was not observed": 1},
    }


@pytest.mark.parametrize("odd", [np.nan, -1e12, 3e9])
def test_times_that_cannot_be_meant_are_refused_or_dropped(tmp_path: Path, odd: float) -> None:
    times = TIMES.copy()
    times[[7, 300]] = odd
    free = with_signal(start_s=None, stop_s=None)
    with pytest.raises(ValueError, match=r"s01.npz: 't': the time at 7 is"):
        make(tmp_path, free, {"t": times})
    free["signal"]["implausible"] = "drop"
    recording = make(tmp_path, free, {"t": times})
    assert recording.signal_TC.sum() == 398
    assert recording.provenance["dropped"]["spikes"] == {"implausible times": 2}
    assert "2 spikes have implausible times" in recording.provenance["notes"][0]


def test_events_are_counted_in_bins(tmp_path: Path) -> None:
    recipe = {"covariates": {"lick": {"key": ["left", "right"], "per": "event"}}}
    recording = make(tmp_path, recipe, {"left": [0.0, 0.1, 0.15, 99.0, np.nan], "right": [9.99]})
    assert np.argwhere(recording.covariates["lick"]).tolist() == [[0, 0], [1, 0], [99, 1]]
    assert recording.covariates["lick"][1, 0] == 2


@pytest.mark.parametrize("start_s", [0.0, 1.65e9])
def test_no_spike_is_lost_on_a_clock_that_counts_from_1970(tmp_path: Path, start_s: float) -> None:
    """Times of 1.65e9 s are known to 2.4e-7 s, and a span of whole bins is a difference of two of them."""
    free = with_signal(start_s=None, stop_s=None)
    for seed in range(12):
        times = np.sort(np.random.default_rng(seed).uniform(0.3, 99.7, 500)) + start_s
        recording = make(tmp_path, {"bin_s": 0.01} | free, {"t": times, "u": np.arange(500) % 4})
        assert recording.signal_TC.sum() == 500


def test_an_absurd_span_asks_for_no_memory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s01.npz: 10000000000000 bins of 0.1 s, from 0 s on"):
        make(tmp_path, with_signal(stop_s=1e12), {})
    with pytest.raises(ValueError, match=r"'u': runs from 0 to 4000000000000"):
        make(tmp_path, {}, {"u": np.where(UNITS == 3, 4 * 10**12, UNITS)})


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_counting_in_pieces_is_counting_at_once(rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    times, units = generator.uniform(-1, 11, 300), generator.integers(0, 5, 300)
    spikes = Spikes(times, lambda start, stop: units[start:stop], 5, 1.0, "made")
    grid = Grid.of(np.array([[0.0, 3.05], [4.2, 10.0]]), 0.1)
    kept = generator.random(5) < 0.7
    kept[0] = True
    whole = count_spikes(spikes, grid, kept), *tally(spikes, grid, grid)[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "BLOCK", rows * 32)
        pieces = count_spikes(spikes, grid, kept), *tally(spikes, grid, grid)[:2]
    for one, other in zip(whole, pieces):
        np.testing.assert_array_equal(one, other)
    expected = np.zeros((grid.total, 5), int)
    np.add.at(expected, (grid.index(times)[grid.index(times) >= 0], units[grid.index(times) >= 0]), 1)
    np.testing.assert_array_equal(whole[0], expected[:, kept])
