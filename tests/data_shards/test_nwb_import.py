from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.importers import import_recordings
from neurochorus.data_shards.recipe import read_recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import SettingsError
from tests.data_shards import nwb_files
from tests.data_shards.nwb_files import write_nwb

RECIPES = Path(__file__).parents[2] / "launch" / "configs" / "recipes"


@pytest.fixture(scope="module", params=["full.nwb", "full.zarr"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nwb")
    write_nwb(folder / request.param)
    return folder


def bring(name: str, source: Path, *overrides: str, files: str = "'full.*'") -> Recording:
    recipe = read_recipe(RECIPES / f"{name}.yaml", [f"files={files}", *overrides])
    (recording,) = import_recordings(recipe, source)
    return recording


def counts(unit: int, start: float, bins: int, bin_s: float = 0.02) -> np.ndarray:
    edges = start + np.arange(bins + 1) * bin_s
    return np.histogram(nwb_files.SPIKES[unit], edges)[0]


def test_spikes_trials_and_behaviour(source: Path) -> None:
    recording = bring("nwb_units", source)
    assert (recording.session_id, recording.subject_id) == ("2021_03_04", "mouse_12")
    kept = [unit for unit in range(6) if nwb_files.QUALITY[unit] == "good"]
    assert recording.unit_ids == [str(unit) for unit in kept]
    assert [unit.region for unit in recording.units] == ["CA1+CA3", "CA3", "DG", "CA1"]
    rows = [row for row in range(len(nwb_files.TRIAL_STARTS)) if row % 3]
    for trial, row in enumerate(rows):
        signal = recording.signal_TC[50 * trial : 50 * (trial + 1)]
        start = nwb_files.TRIAL_STARTS[row] - 0.1
        np.testing.assert_array_equal(signal, np.stack([counts(unit, start, 50) for unit in kept], axis=1))
    assert recording.provenance["dropped"]["units"] == {"where quality == 'good'": 2}
    assert recording.provenance["dropped"]["trials"] == {"where correct == 1": 7}
    # nothing was observed from 15 to 20 s: no segment may hold a bin of that
    starts = [segment.labels["first_bin_s"] for segment in recording.segments]
    assert not any(15 <= float(start) < 20 for start in starts)
    seconds = nwb_files.TRIAL_STARTS[rows[0]] - 0.1 + 0.01 + np.arange(50) * 0.02
    np.testing.assert_allclose(recording.covariates["position"][:50, 1], seconds * 0.01 + 1, atol=1e-5)
    np.testing.assert_allclose(recording.covariates["speed"][:50, 0], np.abs(np.cos(seconds)), atol=1e-3)
    samples = 0.5 + np.arange(400) / 10
    contrast = np.interp(seconds, samples, np.arange(400) % 5)
    np.testing.assert_allclose(recording.covariates["contrast"][:50, 0], contrast, atol=1e-5)


def test_notes_reach_the_provenance(source: Path) -> None:
    licks = "covariates={licks: {key: acquisition/licks/timestamps, per: event}}"
    recording = bring("nwb_units", source, "trials.where=null", "trials.window_s=[-0.5, 1.5]", licks)
    notes = "\n".join(recording.provenance["notes"])
    assert "session_start_time is in 1900" in notes
    assert "'mouse 12' is written 'mouse_12'" in notes
    assert "licks/timestamps: of 6 times 1 not finite, 1 more than a week from the others" in notes
    assert recording.covariates["licks"].sum() == 4


def test_samples_at_odd_times_are_refused_or_dropped(source: Path) -> None:
    licks = "covariates={licks: {key: acquisition/licks, per: time, max_gap_s: 10, implausible: %s}}"
    with pytest.raises(ValueError, match="licks/timestamps': the time at 4 is nan"):
        bring("nwb_units", source, licks % "refuse")
    recording = bring("nwb_units", source, licks % "drop")
    assert any("samples at 2 of 6 times" in note for note in recording.provenance["notes"])
    assert np.nansum(recording.covariates["licks"]) > 0


def test_any_table_of_intervals_can_hold_the_trials(source: Path) -> None:
    overrides = ["trials={table: intervals/rests, start: start_time, stop: stop_time}", "labels={}", "covariates={}"]
    recording = bring("nwb_units", source, *overrides, "units.where=null", "units.observed=null")
    assert [(segment.start, segment.stop) for segment in recording.segments] == [(0, 200), (200, 400)]
    np.testing.assert_array_equal(recording.signal_TC[:200, 2], counts(2, 5.0, 200))


def test_fluorescence(source: Path) -> None:
    recording = bring("nwb_fluorescence", source)
    assert recording.modality == "continuous"
    assert [(unit.unit_id, unit.region) for unit in recording.units] == [("11", "V1"), ("12", "V1"), ("15", "V1")]
    assert len(recording.segments) == len(nwb_files.TRIAL_STARTS)
    np.testing.assert_allclose(recording.signal_TC[:10], nwb_files.DFF[5:15][:, [0, 1, 3]], rtol=1e-6)


def test_field_potentials(source: Path) -> None:
    recording = bring("nwb_field_potential", source)
    assert [(unit.unit_id, unit.region) for unit in recording.units] == [("0", "CA1"), ("1", "CA1"), ("3", "DG")]
    volts = nwb_files.LFP_VALUES * (nwb_files.CONVERSION * nwb_files.CHANNEL_CONVERSION) + nwb_files.OFFSET
    np.testing.assert_allclose(recording.signal_TC, volts.reshape(-1, 10, 3).mean(axis=1), rtol=1e-5)


def test_a_missing_series_is_named(source: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'processing/behavior/speed'"):
        bring("nwb_units", source, "covariates={speed: {key: processing/behaviour/speed, per: time}}")


def test_implausible_belongs_to_samples_at_times() -> None:
    with pytest.raises(SettingsError, match="implausible: set it with per: time, and only with it"):
        read_recipe(RECIPES / "nwb_units.yaml", ["covariates={x: {key: a, per: event, implausible: drop}}"])


@pytest.mark.parametrize(
    ("table", "trials"), [("encoding_table", 90), ("recognition_table", 180), ("timediscrimination_table", 180)]
)
def test_human_medial_temporal_lobe(real_data: Callable[[str], Path], table: str, trials: int) -> None:
    overrides = [f"trials.table=intervals/{table}", "labels={experiment: {key: ExperimentID}}"]
    recording = bring("nwb_human_mtl", real_data("nwb"), *overrides, files="'sub-*.nwb'")
    assert (recording.session_id, recording.subject_id) == ("sub-4_ses-4", "sub-4")
    dropped = sum(recording.provenance.get("dropped", {}).get("trials", {}).values())
    assert len(recording.segments) == trials - dropped
    assert dropped <= 3
    assert len(recording.units) == 35
    assert {unit.region for unit in recording.units} == {"hippocampus_right", "amygdala_right"}
    experiments = {segment.labels["experiment"] for segment in recording.segments}
    assert len(experiments) == 1
    assert recording.signal_TC.sum() > 10_000


def test_the_postsubiculum(real_data: Callable[[str], Path]) -> None:
    recording = bring("nwb_postsubiculum", real_data("nwb"), files="'A*.nwb'")
    assert (recording.session_id, recording.subject_id) == ("A8604-211122", "A8604")
    assert recording.unit_ids == ["6", "191", "206"]
    assert recording.signal_TC.shape == (54_368, 3)
    assert recording.signal_TC.sum(axis=0).tolist() == [11_020, 4690, 5644]
