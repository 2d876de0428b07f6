import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurochorus.data_shards.importers.nwb import NwbSource
from neurochorus.data_shards.importers.source import Timing
from tests.data_shards import nwb_files
from tests.data_shards.nwb_files import write_nwb

SERIES = "processing/ecephys/LFP/ElectricalSeries"


@pytest.fixture(scope="module", params=["full.nwb", "full.zarr"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nwb(tmp_path_factory.mktemp("nwb") / request.param)


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nwb(tmp_path_factory.mktemp("nwb") / "full.nwb")


@pytest.fixture
def copy(hdf5: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(hdf5, tmp_path / "copy.nwb"))


def test_spike_times_come_in_two_bulk_reads(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = h5py.Dataset.__getitem__

    def counted(dataset: h5py.Dataset, *arguments):
        reads.append(str(dataset.name))
        return read(dataset, *arguments)

    with NwbSource(hdf5) as source:
        monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
        values, counts = source.ragged("units/spike_times")
    assert sorted(reads) == ["/units/spike_times", "/units/spike_times_index"]
    np.testing.assert_array_equal(values, np.concatenate(nwb_files.SPIKES))
    np.testing.assert_array_equal(counts, [len(times) for times in nwb_files.SPIKES])


def test_unit_columns(path: Path) -> None:
    with NwbSource(path) as source:
        assert source.array("units/quality").tolist() == nwb_files.QUALITY
        assert source.array("units/tags").tolist() == ["", "a", "a, b", "", "a", "a, b"]
        assert source.array("units/electrodes/location").tolist() == ["CA1+CA3", "CA1", "CA3", "DG", "CA1", "CA1"]
        assert source.array("units/electrodes/depth").tolist() == [100, 100, 200, 300, 0, 100]
        values, counts = source.ragged("units/obs_intervals")
        assert values.shape == (12, 2)
        assert counts.tolist() == [2] * 6
        with pytest.raises(ValueError, match=r"spike_times': is ragged, with up to 190 values"):
            source.array("units/spike_times")
        with pytest.raises(ValueError, match="no ragged column"):
            source.ragged("units/quality")


def test_references_give_the_attributes_of_the_groups(hdf5: Path) -> None:
    with NwbSource(hdf5) as source:
        assert source.array("units/electrode_group").tolist() == ["shank0"] * 6
        assert source.array("units/electrode_group/location").tolist() == ["hippocampus"] * 6
        assert source.array("units/electrodes/group/location").tolist() == ["hippocampus"] * 6


def test_pickled_references_of_zarr_are_refused(tmp_path: Path) -> None:
    with (
        NwbSource(write_nwb(tmp_path / "full.zarr")) as source,
        pytest.raises(ValueError, match="electrode_group': holds pickled references; unpickling could run any code"),
    ):
        source.array("units/electrode_group")


def test_zarr_is_refused_where_it_would_be_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True)
    with pytest.raises(ValueError, match="this numcodecs unpickles"):
        NwbSource(write_nwb(tmp_path / "full.zarr"))


def test_series_are_in_their_unit(path: Path) -> None:
    with NwbSource(path) as source:
        position = source.array("processing/behavior/Position/SpatialSeries")
        np.testing.assert_allclose(position, nwb_files.POSITION * 0.01 + 1.0)
        expected = nwb_files.LFP_VALUES * (nwb_files.CONVERSION * nwb_files.CHANNEL_CONVERSION) + nwb_files.OFFSET
        np.testing.assert_allclose(source.view(SERIES)[1000:1010], expected[1000:1010])
        np.testing.assert_allclose(source.array(f"{SERIES}/data", ndim=2), expected)
        contrast = source.array("stimulus/presentation/contrast")
        assert (contrast.dtype.kind, contrast[:3].tolist()) == ("i", [0, 1, 2])


def test_a_view_reads_the_rows_that_are_asked_for(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    read = h5py.Dataset.__getitem__

    def counted(dataset: h5py.Dataset, rows, *more):
        asked.append(rows)
        return read(dataset, rows, *more)

    with NwbSource(hdf5) as source:
        view = source.view(SERIES, ndim=2)
        monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
        assert view.shape == (40_000, 3)
        assert view[200:300].shape == (100, 3)
    assert asked == [slice(200, 300)]


def test_series_say_when_they_were_sampled(path: Path) -> None:
    with NwbSource(path) as source:
        assert source.timing(SERIES) == Timing(rate=1000.0, start_s=0.0)
        assert source.timing("stimulus/presentation/contrast") == Timing(rate=10.0, start_s=0.5)
        speed = source.timing("processing/behavior/speed")
        assert speed == Timing(times="processing/behavior/speed/timestamps")
        np.testing.assert_array_equal(source.times("processing/behavior/speed/timestamps"), nwb_files.POSITION_TIMES)
        assert source.timing("units/quality") is None


def test_rows_of_a_series_describe_its_columns(path: Path) -> None:
    with NwbSource(path) as source:
        assert source.array(f"{SERIES}/electrodes/location").tolist() == ["CA1", "CA1", "DG"]
        rois = "processing/ophys/DfOverF/RoiResponseSeries/rois"
        assert source.array(f"{rois}/id").tolist() == [11, 12, 13, 15]
        assert source.array(f"{rois}/accepted").tolist() == [1, 1, 0, 1]


def test_tables_of_intervals(path: Path) -> None:
    with NwbSource(path) as source:
        assert source.array("intervals/trials/start_time").tolist() == nwb_files.TRIAL_STARTS.tolist()
        assert source.array("intervals/trials/choice")[:2].tolist() == ["right", "left"]
        assert source.array("intervals/rests/stop_time").tolist() == [9.0, 29.0]


def test_ids_take_characters_that_are_allowed(path: Path) -> None:
    with NwbSource(path) as source:
        names = [source.text(key) for key in ("session_id", "subject_id", "identifier")]
        assert names == ["2021_03_04", "mouse_12", "lab_7_a"]
        assert source.text("general/session_id") == "2021.03.04"
        assert any("'mouse 12' is written 'mouse_12'" in note for note in source.notes)


def test_oddities_are_noted(path: Path) -> None:
    with NwbSource(path) as source:
        source.array("acquisition/licks/timestamps")
        notes = "\n".join(source.notes)
    assert "session_start_time is in 1900" in notes
    assert "licks/timestamps: of 6 times 1 not finite, 1 more than a week from the others" in notes
    assert "read with the spec of pynwb" in notes


def test_every_key_is_described_without_reading_it(path: Path) -> None:
    with NwbSource(path) as source:
        keys = source.keys()
        found = {key: source.info(key) for key in keys}
    assert found["units/spike_times"].dtype == "ragged float64"
    assert found["units/quality"].note == "label of the sorting"
    assert found["processing/behavior/Position/SpatialSeries"].shape == (2400, 2)
    assert "SpatialSeries in meters" in found["processing/behavior/Position/SpatialSeries"].note
    assert not any(key.startswith("specifications") for key in found)


def test_a_wrong_key_names_the_nearest(hdf5: Path) -> None:
    with NwbSource(hdf5) as source, pytest.raises(ValueError, match="did you mean 'units/spike_times'"):
        source.array("units/spike_time")


def test_an_empty_id_says_what_to_do(tmp_path: Path) -> None:
    path = write_nwb(tmp_path / "a.nwb", identifier=" ")
    with (
        NwbSource(path) as source,
        pytest.raises(ValueError, match="'identifier': is empty: give that id in"),
    ):
        source.text("identifier")


def test_a_missing_id_says_what_to_do(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["general/session_id"]
    with NwbSource(copy) as source, pytest.raises(ValueError, match=r"names no session_id: use another id of the file"):
        source.text("session_id")


def test_a_broken_cached_spec_does_not_matter(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        for name in list(file["specifications/core"]):
            del file[f"specifications/core/{name}"]["nwb.base"]
    with NwbSource(copy) as source:
        assert len(source.ragged("units/spike_times")[1]) == 6


def test_bytes_are_text(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["units/quality"]
        file["units/quality"] = np.array([b"good", b"mua", b"bad", b"\xff", b"", b"good"])
        del file["intervals/trials/choice"]
        file.create_dataset("intervals/trials/choice", data=[b"l"] * 19, dtype=h5py.string_dtype("ascii"))
    with NwbSource(copy) as source:
        assert source.array("units/quality").tolist() == ["good", "mua", "bad", "�", "", "good"]
        assert source.array("intervals/trials/choice").tolist() == ["l"] * 19


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([40, 20, 300, 400, 500, 690], "goes back"),
        ([1, 2, 3, 4, 5, 9999], "goes back, or beyond the 690"),
        ([1] * 6, "ends at 1"),
    ],
)
def test_a_damaged_index_is_refused(copy: Path, index: list[int], message: str) -> None:
    with h5py.File(copy, "r+") as file:
        file["units/spike_times_index"][...] = index
    with NwbSource(copy) as source, pytest.raises(ValueError, match=f"spike_times': the index beside it {message}"):
        source.ragged("units/spike_times")


def test_other_files_are_not_read(copy: Path, hdf5: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(19.0).tobytes())
    with h5py.File(copy, "r+") as file:
        file["acquisition/elsewhere"] = h5py.ExternalLink(str(hdf5), "/processing/behavior/speed")
        del file["intervals/trials/correct"]
        table = file["intervals/trials"]
        assert isinstance(table, h5py.Group)
        table.create_dataset("correct", (19,), "f8", external=[(str(secret), 0, 19 * 8)])
    with NwbSource(copy) as source:
        assert not source.has("acquisition/elsewhere")
        assert any("acquisition/elsewhere lies in another file (full.nwb)" in note for note in source.notes)
        for read in (source.array, source.view):
            with pytest.raises(ValueError, match="correct': takes its values from other files"):
                read("intervals/trials/correct")


def test_groups_that_contain_each_other_are_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["processing/behavior/again"] = file["processing"]
    with pytest.raises(ValueError, match=r"copy\.nwb: "):
        NwbSource(copy)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.nwb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.nwb: cannot be opened as an NWB file"):
        NwbSource(path)


def test_other_hdf5_is_not_taken_for_nwb(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.nwb", "w") as file:
        file["spikes"] = np.arange(3)
    with pytest.raises(ValueError, match=r"other\.nwb: is no file of NWB 2"):
        NwbSource(tmp_path / "other.nwb")


def test_the_real_files(real_data: Callable[[str], Path]) -> None:
    folder = real_data("nwb")
    with NwbSource(folder / "sub-4_ses-4_ecephys+image.nwb") as source:
        assert source.array("units/electrodes/location").tolist().count("amygdala_right") == 10
        assert source.ragged("units/spike_times")[1].sum() == 214_278
        assert source.array("intervals/encoding_table/Clip_name")[0] == "NB_24.mp4"
        source.array("acquisition/events/timestamps")
        assert any("1 more than a week from the others" in note for note in source.notes)
    with NwbSource(folder / "A8604-211122.nwb") as source:
        assert source.ragged("units/spike_times")[1].tolist() == [11_020, 4690, 5644]
        assert source.array("intervals/epochs/tags").tolist() == ["wake"]
