from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import yaml

from neurochorus.data_shards.importers import import_recordings
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.suggesting import suggest_recipe


def suggested(path: Path) -> Recipe:
    """The recipe suggested for a file, which must be one as it stands."""
    return parse_settings(Recipe, yaml.safe_load(suggest_recipe(path)), "suggestion")


def imported(path: Path) -> tuple[Recipe, Recording]:
    """What is suggested for a file, and what importing that file by it gives, unchanged."""
    recipe = suggested(path)
    values = yaml.safe_load(suggest_recipe(path)) | {"files": path.name}
    (recording,) = import_recordings(parse_settings(Recipe, values, "suggestion"), path.parent)
    return recipe, recording


def spike_train(units: int = 5, seconds: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """Sorted times in s and the unit of each."""
    generator = np.random.default_rng(0)
    times = np.sort(generator.uniform(0, seconds, 2000))
    return times, generator.integers(0, units, 2000)


def test_counts_by_trial_with_an_odd_order_of_axes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz",
        counts=generator.poisson(0.5, (7, 30, 25)),
        brain_area=np.array(["V1", "V1", "CA1", "CA1", "CA1", "DG", "DG"]),
        choice=generator.integers(0, 2, 30),
        contrast=generator.random(30),
        binsize_ms=np.array(20),
        wheel=generator.normal(size=(30, 25)),
    )
    recipe, recording = imported(tmp_path / "a.npz")
    assert recipe.signal is not None
    assert recipe.signal.axes == ["unit", "trial", "bin"]
    assert (recipe.bin_s, recording.signal_TC.shape) == (0.02, (750, 7))
    assert recording.units[2].region == "CA1"
    assert set(recording.segments[0].labels) == {"choice", "contrast"}
    assert list(recording.covariates) == ["wheel"]


def test_a_matrix_with_times_is_cut_into_its_trials(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dff"] = np.random.default_rng(0).normal(size=(3000, 12))
        file["timestamps"] = np.arange(3000) / 30
        file["running/speed"] = np.random.default_rng(1).normal(size=3000)
        file["trials/start_time"] = np.arange(5.0, 90.0, 5.0)
        file["trials/stop_time"] = np.arange(5.0, 90.0, 5.0) + 2
        file["trials/choice"] = np.arange(17) % 2
        file["mouse_id"] = "M12"
    recipe, recording = imported(tmp_path / "a.h5")
    assert (recipe.modality, recording.subject_id) == ("continuous", "M12")
    assert recording.bin_s == pytest.approx(1 / 30, rel=1e-4)
    assert len(recording.segments) == 17
    assert recording.segments[1].labels["choice"] == 1
    assert recipe.sample_bins == 60
    assert list(recording.covariates) == ["speed"]


def test_stretches_of_bad_data_are_neither_what_was_recorded_nor_trials(tmp_path: Path) -> None:
    times, unit = spike_train()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["times"], file["clusters"] = times, unit
        file["invalid_times/start_time"] = [10.0, 40.0]
        file["invalid_times/stop_time"] = [12.0, 43.0]
    recipe, recording = imported(tmp_path / "a.h5")
    assert recipe.observed is None
    assert recipe.trials is None
    assert recording.signal_TC.sum() == 2000


def test_one_axis_of_time_for_all_trials_gives_the_width_of_bins(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (100, 40, 20)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", spikes=counts, time=np.arange(40) * 0.02, choice=np.arange(100) % 2, area=["CA1"] * 20)
    recipe, recording = imported(tmp_path / "a.npz")
    assert recipe.signal is not None
    assert recipe.signal.bin_centers is None
    assert recording.bin_s == pytest.approx(0.02)
    assert recording.signal_TC.shape == (4000, 20)


def test_spike_samples_with_a_rate(tmp_path: Path) -> None:
    times, unit = spike_train()
    np.savez(tmp_path / "a.npz", spike_samples=(times * 30_000).astype(np.int64), clusters=unit, fs=np.array(30_000.0))
    recipe, recording = imported(tmp_path / "a.npz")
    assert recipe.signal is not None
    assert recipe.signal.time_scale == pytest.approx(1 / 30_000)
    assert recording.signal_TC.shape[0] * recording.bin_s == pytest.approx(60, abs=0.5)
    assert recording.signal_TC.sum() == 2000


def test_a_group_of_one_array_a_unit(tmp_path: Path) -> None:
    times, unit = spike_train()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(5):
            file[f"spikes/unit_{number}"] = times[unit == number]
        file["quality"] = np.array(["good", "mua", "good", "good", "noise"], dtype=h5py.string_dtype())
    recipe, recording = imported(tmp_path / "a.h5")
    assert recipe.signal is not None
    assert recipe.signal.times == "spikes"
    assert recording.signal_TC.sum(axis=0).tolist() == np.bincount(unit).tolist()
    assert "# where: quality == 'good'  # keeps good units only" in suggest_recipe(tmp_path / "a.h5")


def test_a_matlab_cell_array_of_spike_times(tmp_path: Path) -> None:
    times, unit = spike_train()
    cells = np.empty(5, dtype=object)
    for number in range(5):
        cells[number] = times[unit == number]
    scipy.io.savemat(
        tmp_path / "a.mat", {"spikes": cells, "subject": "fox", "area": np.array(["V1"] * 5, dtype=object)}
    )
    _, recording = imported(tmp_path / "a.mat")
    assert recording.subject_id == "fox"
    assert recording.signal_TC.sum() == 2000


def test_an_array_for_each_split(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (20, 35, 8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split in ("train", "valid"):
            file[f"{split}_encod_data"] = counts[:, :, :6]
            file[f"{split}_recon_data"] = counts
    recipe, recording = imported(tmp_path / "a.h5")
    assert recipe.signal is not None
    assert recipe.signal.split_keys == {"train": "train_recon_data", "valid": "valid_recon_data"}
    assert [segment.split for segment in recording.segments] == ["train"] * 20 + ["valid"] * 20


def test_torch_brain_files(tmp_path: Path) -> None:
    times, unit = spike_train()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["spikes/timestamps"], file["spikes/unit_index"] = times, unit
        file["units/id"] = np.array([f"s/group_0/unit_{number}" for number in range(5)], dtype="S")
        file["domain/start"], file["domain/end"] = [0.0], [60.0]
        file["trials/start"], file["trials/end"] = np.arange(0.0, 60.0, 10), np.arange(0.0, 60.0, 10) + 5
        file["cursor/timestamps"] = np.arange(0, 60, 0.01)
        file["cursor/vel"] = np.random.default_rng(0).normal(size=(6000, 2))
        file.create_group("subject").attrs["id"] = "fox"
    recipe, recording = imported(tmp_path / "a.h5")
    assert recipe.observed is not None
    assert (recording.subject_id, len(recording.segments)) == ("fox", 6)
    assert recording.unit_ids[1] == "s_group_0_unit_1"
    assert recording.covariates["vel"].shape[1] == 2


def test_folders_of_arrays_and_of_files(tmp_path: Path) -> None:
    times, unit = spike_train()
    session = tmp_path / "arrays" / "day1"
    session.mkdir(parents=True)
    np.save(session / "spike_times.npy", times)
    np.save(session / "spike_units.npy", unit)
    assert suggested(tmp_path / "arrays").importer == "npy"
    _, recording = imported(session)
    assert recording.session_id == "day1"
    np.savez(tmp_path / "b.npz", spike_times=times, unit=unit)
    assert suggested(tmp_path).importer == "npz"


def test_a_folder_of_phy(tmp_path: Path) -> None:
    times, unit = spike_train()
    session = tmp_path / "day1"
    session.mkdir()
    np.save(session / "spike_times.npy", (times * 30_000).astype(np.int64))
    np.save(session / "spike_clusters.npy", unit * 3)
    (session / "params.py").write_text("sample_rate = 30000.0\n")
    (session / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n3\tmua\n6\tnoise\n")
    recipe, recording = imported(session)
    assert recipe.importer == "phy"
    assert recording.unit_ids == ["0", "3", "9", "12"]
    assert recording.bin_s * len(recording.signal_TC) == pytest.approx(60, abs=0.5)


def test_times_that_cannot_be_meant_are_dropped(tmp_path: Path) -> None:
    times, unit = spike_train()
    times[17] = -1e9
    np.savez(tmp_path / "a.npz", spike_times=times, unit=unit)
    recipe, recording = imported(tmp_path / "a.npz")
    assert recipe.signal is not None
    assert recipe.signal.implausible == "drop"
    assert recording.signal_TC.sum() == 1999


def test_the_format_is_told_by_content(tmp_path: Path) -> None:
    times, unit = spike_train()
    np.savez(tmp_path / "a.npz", spike_times=times, unit=unit)
    (tmp_path / "a.npz").rename(tmp_path / "a.dat")
    assert suggested(tmp_path / "a.dat").importer == "npz"
    (tmp_path / "b.npz").write_bytes(b"\x00\x01\x02 nothing")
    with pytest.raises(ValueError, match=r"b\.npz: .*convert it to one of these"):
        suggest_recipe(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", notes=np.array("no signal"))
    with pytest.raises(ValueError, match=r"c\.npz: no array looks like a signal"):
        suggest_recipe(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="no such file or folder"):
        suggest_recipe(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("folder", "name", "units", "labels"),
    [
        (
            "steinmetz2019",
            "steinmetz_s16.npz",
            474,
            {"contrast_left", "contrast_right", "feedback_type", "first_bin_s"},
        ),
        ("hippocampus", "linear_track.npz", 31, set()),
        ("cultures", "CTX_TC41_G2CEPHYS1_DIV14_A.h5", 43, set()),
        ("nwb", "A8604-211122.nwb", 3, set()),
        ("nwb", "sub-4_ses-4_ecephys+image.nwb", 35, {"accuracy"}),
    ],
)
def test_real_recordings_import_as_suggested(
    real_data: Callable[[str], Path], folder: str, name: str, units: int, labels: set[str]
) -> None:
    recipe, recording = imported(real_data(folder) / name)
    assert len(recording.units) == units
    assert labels <= set(recording.segments[0].labels)
    if folder == "hippocampus":
        assert recipe.covariates["position"].keys == ["position_x", "position_y"]
    if folder == "cultures":
        assert recording.units[0].region == "ctx"
