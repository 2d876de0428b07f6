from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.importers import import_recordings
from neurochorus.data_shards.importers.suite2p import Suite2pSource
from neurochorus.data_shards.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "launch" / "configs" / "recipes" / "suite2p.yaml"
FRAMES = 50
generator = np.random.default_rng(0)


def write_plane(folder: Path, rois: int, frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Write a plane as suite2p does, with a pickled ops.npy; return its arrays."""
    folder.mkdir(parents=True)
    arrays = {name: generator.normal(size=(rois, frames)).astype(np.float32) for name in ("F", "Fneu", "spks")}
    arrays["iscell"] = np.stack([np.arange(rois) % 2, np.linspace(0, 1, rois)], axis=1)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "ops.npy", np.array({"fs": 30.0}, dtype=object), allow_pickle=True)
    return arrays


def test_one_plane(tmp_path: Path) -> None:
    arrays = write_plane(tmp_path / "s1" / "plane0", 4)
    with Suite2pSource(tmp_path / "s1") as source:
        np.testing.assert_array_equal(source.array("spks", ndim=2), arrays["spks"].T)
        np.testing.assert_array_equal(source.view("F")[10:20], arrays["F"].T[10:20])
        assert source.array("iscell").tolist() == [0, 1, 0, 1]
        assert source.array("roi_id").tolist() == ["plane0_0", "plane0_1", "plane0_2", "plane0_3"]
        assert source.info("spks").shape == (FRAMES, 4)
        assert source.notes == []
    with Suite2pSource(tmp_path / "s1" / "plane0") as source:
        assert source.view("F").shape == (FRAMES, 4)


@pytest.mark.parametrize(("key", "coefficient"), [("F - 0.7 * Fneu", 0.7), ("F-.5*Fneu", 0.5), ("F - 1 Fneu", 1.0)])
def test_neuropil_is_taken_off(tmp_path: Path, key: str, coefficient: float) -> None:
    arrays = write_plane(tmp_path / "plane0", 3)
    with Suite2pSource(tmp_path) as source:
        expected = (arrays["F"] - np.float32(coefficient) * arrays["Fneu"]).T
        np.testing.assert_array_equal(source.view(key, ndim=2)[5:9], expected[5:9])
        assert source.info(key).shape == (FRAMES, 3)


def test_planes_are_one_session(tmp_path: Path) -> None:
    planes = {number: write_plane(tmp_path / "suite2p" / f"plane{number}", 2) for number in (0, 1, 10)}
    planes[2] = write_plane(tmp_path / "suite2p" / "plane2", 3, FRAMES - 1)
    with Suite2pSource(tmp_path) as source:
        assert source.array("plane").tolist() == [0, 0, 1, 1, 2, 2, 2, 10, 10]
        expected = np.concatenate([planes[number]["F"][:, : FRAMES - 1] for number in (0, 1, 2, 10)]).T
        np.testing.assert_array_equal(source.array("F"), expected)
        assert source.array("roi_id")[-1] == "plane10_1"
        assert any("the last one is left out" in note for note in source.notes)


def test_the_frame_rate_comes_from_the_recipe(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane0", 2)
    with (
        Suite2pSource(tmp_path) as source,
        pytest.raises(ValueError, match=r"ops\.npy, which is pickled"),
    ):
        source.number("fs")


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane0", 2)
    np.save(tmp_path / "plane0" / "spks.npy", np.zeros((3, FRAMES)))
    with pytest.raises(ValueError, match=r"spks\.npy has \[3\] ROIs a plane but F\.npy \[2\]"):
        Suite2pSource(tmp_path)
    write_plane(tmp_path / "plane1", 2, FRAMES - 7)
    with pytest.raises(ValueError, match="43 to 50 frames"):
        Suite2pSource(tmp_path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane0", 2)
    np.save(tmp_path / "plane0" / "F.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"F\.npy: cannot be read as an \.npy file of numbers"):
        Suite2pSource(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds neither F\.npy nor plane0/F\.npy"):
        Suite2pSource(tmp_path)


def test_without_iscell(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane0", 2)
    (tmp_path / "plane0" / "iscell.npy").unlink()
    with Suite2pSource(tmp_path) as source:
        assert not source.has("iscell")
        assert "which ROIs are cells is not known" in source.notes[0]


def test_sessions_by_the_recipe(tmp_path: Path) -> None:
    planes = [write_plane(tmp_path / "s1" / f"plane{number}", 4) for number in (0, 1)]
    (recording,) = import_recordings(read_recipe(RECIPE, ["split.block_bins=25", "split.gap_bins=0"]), tmp_path)
    assert (recording.session_id, recording.bin_s, recording.modality) == ("s1", 0.1, "continuous")
    assert recording.unit_ids == ["plane0_1", "plane0_3", "plane1_1", "plane1_3"]
    expected = np.concatenate([(plane["F"] - np.float32(0.7) * plane["Fneu"])[[1, 3]] for plane in planes]).T
    np.testing.assert_array_equal(recording.signal_TC, expected)
    assert recording.provenance["dropped"]["units"] == {"where iscell == 1": 4}
    assert recording.provenance["notes"] == ["2 planes are taken as imaged at the same time, frame by frame"]
    with pytest.raises(ValueError, match="which is pickled and never read: write it in the recipe"):
        list(import_recordings(read_recipe(RECIPE, ["bin_s={key: fs}"]), tmp_path))


def test_frames_reduced_into_longer_bins(tmp_path: Path) -> None:
    arrays = write_plane(tmp_path / "s1" / "plane0", 2)
    overrides = ["signal={layout: continuous, key: spks, sampling: {rate: 10.0}, reduce: sum}", "units.where=null"]
    recipe = read_recipe(RECIPE, ["bin_s=0.2", "split.block_bins=25", "split.gap_bins=0", *overrides])
    (recording,) = import_recordings(recipe, tmp_path)
    np.testing.assert_allclose(recording.signal_TC, arrays["spks"].T.reshape(25, 2, 2).sum(axis=1), rtol=1e-5)
