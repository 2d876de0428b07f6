"""The same session in every format: HDF5, .npy, .mat v5 and v7.3, and tables all become the same recording."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from neurochorus.data_shards.importers import import_recordings
from neurochorus.data_shards.importers.hdf5 import Hdf5
from neurochorus.data_shards.importers.mat import open_mat
from neurochorus.data_shards.importers.npy import NpyArrays
from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.importers.tables import Tables
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import parse_settings

GENERATOR = np.random.default_rng(4)
TIMES = [np.sort(GENERATOR.uniform(0, 8, count)) for count in (60, 1, 0, 45)]
AREAS = ["CA1", "CA3", "DG", "CA1"]
BASE: dict[str, Any] = {
    "name": "lab",
    "bin_s": 0.1,
    "sample_bins": 20,
    "subject_id": "{stem}",
    "signal": {"layout": "spike_times", "start_s": 0, "stop_s": 8},
    "split": {"method": "blocks", "block_bins": 10},
}


def load(directory: Path, importer: str, signal: dict[str, Any], **changes: Any) -> Recording:
    values = BASE | {"importer": importer, "signal": BASE["signal"] | signal} | changes
    (recording,) = import_recordings(parse_settings(Recipe, values, "recipe.yaml"), directory)
    return recording


def expected_counts() -> np.ndarray:
    edges = np.arange(81) * 0.1
    return np.stack([np.histogram(times, edges)[0] for times in TIMES], axis=1)


def cells(rows: list[Any]) -> np.ndarray:
    made = np.empty((1, len(rows)), dtype=object)
    for number, row in enumerate(rows):
        made[0, number] = row
    return made


def write_mat73(path: Path) -> None:
    """What MATLAB's save -v7.3 makes: axes reversed, char as uint16, cells as references, and a user block."""
    with h5py.File(path, "w", userblock_size=512) as file:
        data, refs = file.create_group("data"), file.create_group("#refs#")
        data.attrs["MATLAB_class"] = np.bytes_("struct")

        def cell(name: str, values: list[Any], kind: str) -> None:
            made = data.create_dataset(name, (len(values), 1), dtype=h5py.ref_dtype)
            made.attrs["MATLAB_class"] = np.bytes_("cell")
            for number, value in enumerate(values):
                one = refs.create_dataset(f"{name}{number}", data=value if value.size else np.zeros(2, np.uint64))
                one.attrs["MATLAB_class"] = np.bytes_(kind)
                if not value.size:
                    one.attrs["MATLAB_empty"] = 1  # an empty array is written as its shape
                made[number, 0] = one.ref

        cell("spikes", [times.reshape(1, -1) for times in TIMES], "double")
        cell("area", [np.array([[ord(c)] for c in area], dtype=np.uint16) for area in AREAS], "char")
        data["depth"] = np.array([[1.0, 2.0, 3.0, 4.0]]).T
        data["lfp"] = np.arange(24.0).reshape(8, 3).T
        data["lfp"].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_mat5(path: Path) -> None:
    data = {
        "spikes": cells([times.reshape(-1, 1) for times in TIMES]),
        "area": cells(AREAS),
        "depth": np.arange(1.0, 5.0),
        "lfp": np.arange(24.0).reshape(8, 3),
    }
    savemat(path, {"data": data, "name": "Cori"}, do_compression=True)


@pytest.mark.parametrize("write", [write_mat5, write_mat73])
def test_matlab_structs_cells_and_text(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "s01.mat")
    units = {"table": "data", "region": {"key": "area"}, "columns": {"depth": {"key": "depth"}}, "where": "depth != 2"}
    recording = load(tmp_path, "mat", {"times": "data.spikes"}, units=units)
    np.testing.assert_array_equal(recording.signal_TC, expected_counts()[:, [0, 2, 3]])
    assert [unit.region for unit in recording.units] == ["CA1", "DG", "CA1"]
    with open_mat(tmp_path / "s01.mat") as source:
        assert {"data.spikes", "data.area", "data.depth", "data.lfp"} <= set(source.keys())
        np.testing.assert_array_equal(source.view("data.lfp", ndim=2)[2:5], np.arange(24.0).reshape(8, 3)[2:5])
        with pytest.raises(ValueError, match=r"s01\.mat: 'data\.spikes': .*cell array of more than one number"):
            source.array("data.spikes")
        with pytest.raises(ValueError, match=r"has no array 'data\.spike'; did you mean 'data\.spikes'"):
            source.array("data.spike")


def test_an_array_of_matlab_structs_is_a_table(tmp_path: Path) -> None:
    trials = np.array(
        [(1.0, 2.0, "left", [[1.0], [2.0]]), (3.0, 4.0, "right", [[3.0]])],
        dtype=[("start", object), ("stop", object), ("side", object), ("licks", object)],
    )
    savemat(tmp_path / "s01.mat", {"trials": trials, "t": TIMES[0], "n": [60], "one": np.zeros((5, 4))})
    recording = load(
        tmp_path,
        "mat",
        {"times": "t", "unit_counts": "n"},
        trials={"table": "trials", "start": "start", "stop": "stop"},
        labels={"side": {"key": "side"}},
        split={"method": "random", "fractions": [1, 0, 0]},
    )
    assert [segment.labels["side"] for segment in recording.segments] == ["left", "right"]
    with open_mat(tmp_path / "s01.mat") as source:
        values, counts = source.ragged("trials.licks")
        assert (values.tolist(), counts.tolist()) == ([1.0, 2.0, 3.0], [2, 1])
        assert source.array("one", ndim=3).shape == (5, 4, 1)  # MATLAB drops a last axis of one unit


@pytest.mark.parametrize("form", ["group", "vlen", "index", "counts"])
def test_spike_times_of_hdf5_in_every_ragged_form(tmp_path: Path, form: str) -> None:
    with h5py.File(tmp_path / "s01.h5", "w") as file:
        signal: dict[str, Any] = {"times": "units/t"}
        if form == "group":
            for number, times in enumerate(TIMES):
                file[f"units/t/unit{number + 8}"] = times  # unit10 comes after unit9
        elif form == "vlen":
            made = file.create_dataset("units/t", (4,), dtype=h5py.vlen_dtype(np.float64))
            for number, times in enumerate(TIMES):
                made[number] = times
        else:
            file["units/t"] = np.concatenate(TIMES)
            counts = [len(times) for times in TIMES]
            file["units/n"] = counts
            if form == "index":
                file["units/t_index"] = np.cumsum(counts).astype(np.uint8)
            else:
                signal["unit_counts"] = "units/n"
        file["units/area"] = np.array(AREAS, dtype="S")
        file["units/quality"] = np.array(AREAS, dtype=h5py.string_dtype())
        file["s"] = 1
        file["s"].attrs["id"] = "day1"
    units = {"table": "units", "region": {"key": "area"}, "where": "quality in ['CA1', 'DG', 'CA3']"}
    if form == "group":
        units["id"] = {"key": "units/t@"}
    recording = load(tmp_path, "hdf5", signal, units=units, session_id="{s@id}_{stem}")
    np.testing.assert_array_equal(recording.signal_TC, expected_counts())
    assert recording.session_id == "day1_s01"
    assert [unit.region for unit in recording.units] == AREAS
    if form == "group":
        assert recording.unit_ids == ["unit8", "unit9", "unit10", "unit11"]


def test_files_of_torch_brain_import_with_the_shipped_recipe(tmp_path: Path) -> None:
    order = np.argsort(np.concatenate(TIMES), kind="stable")
    units = np.repeat(np.arange(4), [len(times) for times in TIMES])
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["spikes/timestamps"] = np.concatenate(TIMES)[order]
        file["spikes/unit_index"] = units[order]
        file["units/id"] = np.array([f"sess.1/group_0/elec{n}/unit_1" for n in range(4)], dtype="S")
        file["domain/start"], file["domain/end"] = [0.0, 4.5], [4.0, 8.0]
        file["trials/start"], file["trials/end"] = [0.5, 3.5, 5.0], [1.5, 4.8, 6.01]
        file["cursor/timestamps"], file["cursor/vel"] = np.arange(0, 8, 0.01), np.ones((800, 2))
        for name, value in (("session", "day-1"), ("subject", "jenkins")):
            file.create_group(name).attrs["id"] = value
    recipe = read_recipe(Path(__file__).parents[2] / "launch/configs/recipes/torch_brain.yaml", ["bin_s=0.1"])
    (recording,) = import_recordings(recipe, tmp_path)
    assert (recording.session_id, recording.subject_id) == ("day-1", "jenkins")
    assert recording.unit_ids == ["group_0_elec0_unit_1", "group_0_elec3_unit_1"]
    assert [(s.start, s.stop) for s in recording.segments] == [(0, 10), (10, 20)]
    expected = np.histogram(TIMES[3], 0.5 + 0.1 * np.arange(11))[0]
    np.testing.assert_array_equal(recording.signal_TC[:10, 1], expected)
    assert (recording.covariates["cursor_velocity"] == 1).all()
    assert recording.provenance["dropped"]["trials"] == {"outside of what was recorded": 1}


def test_files_of_lfads_import_with_the_shipped_recipe(tmp_path: Path) -> None:
    counts = {
        part: GENERATOR.poisson(0.3, (5 if "train" in part else 2, 7, units))
        for part, units in (
            ("train_spikes_heldin", 4),
            ("train_spikes_heldout", 2),
            ("eval_spikes_heldin", 4),
            ("eval_spikes_heldout", 2),
        )
    }
    behavior = GENERATOR.normal(size=(5, 7, 2))
    with h5py.File(tmp_path / "mc_maze.h5", "w") as file:
        for name, values in counts.items():
            file.create_dataset(name, data=values, compression="gzip")
        file["train_behavior"] = behavior
    recipe = read_recipe(Path(__file__).parents[2] / "launch/configs/recipes/lfads.yaml")
    (recording,) = import_recordings(recipe, tmp_path)
    assert [segment.split for segment in recording.segments] == ["train"] * 5 + ["valid"] * 2
    train = np.concatenate([counts["train_spikes_heldin"], counts["train_spikes_heldout"]], axis=2)
    np.testing.assert_array_equal(recording.signal_TC[:35], train.reshape(35, 6))
    np.testing.assert_array_equal(recording.signal_TC[35:, :4], counts["eval_spikes_heldin"].reshape(14, 4))
    np.testing.assert_allclose(recording.covariates["behavior"][:35], behavior.reshape(35, 2), rtol=1e-6)
    assert np.isnan(recording.covariates["behavior"][35:]).all()
    with h5py.File(tmp_path / "mc_maze.h5", "a") as file:
        del file["eval_spikes_heldout"]
        file["eval_spikes_heldout"] = np.zeros((2, 7, 3), int)
    with pytest.raises(ValueError, match=r"mc_maze.h5: the splits differ in bins or units"):
        list(import_recordings(recipe, tmp_path))


def test_a_folder_of_npy_files_and_a_single_one(tmp_path: Path) -> None:
    counts = GENERATOR.poisson(0.5, (6, 10, 3))
    folder = tmp_path / "day1" / "probe"
    folder.mkdir(parents=True)
    np.save(folder / "counts.npy", counts)
    np.save(tmp_path / "day1" / "area.npy", np.array(AREAS[:3]))
    (tmp_path / "notes.txt").write_text("not a session")
    signal = {"layout": "trials", "key": "probe/counts", "start_s": None, "stop_s": None}
    random = {"method": "random"}
    recording = load(tmp_path, "npy", signal, units={"region": {"key": "area"}}, split=random)
    np.testing.assert_array_equal(recording.signal_TC, counts.reshape(60, 3))
    np.save(tmp_path / "day2.npy", counts)
    alone = load(tmp_path, "npy", signal | {"key": "array"}, split=random, files="*.npy")
    np.testing.assert_array_equal(alone.signal_TC, counts.reshape(60, 3))
    assert alone.session_id == "day2"
    itself = load(tmp_path / "day1", "npy", signal, split=random, files=".")
    assert itself.session_id == "day1"
    with NpyArrays(tmp_path / "day1") as source:
        assert source.keys() == ["area", "probe/counts"]
        assert isinstance(source.view("probe/counts"), np.memmap)


def test_a_folder_of_tables(tmp_path: Path) -> None:
    folder = tmp_path / "day1"
    folder.mkdir()
    spikes = sorted((time, unit) for unit, times in enumerate(TIMES) for time in times)
    rows = "".join(f"{time!r};{unit}\r\n" for time, unit in [(float(time), unit) for time, unit in spikes])
    (folder / "spikes.csv").write_text("\ufefftime;unit\r\n" + rows, encoding="utf-8")
    (folder / "units.tsv").write_text(
        "name\tarea\tdepth\tcode\n"
        + "".join(
            f"{number:03d}x\t{area}\t{'' if number == 1 else number}\t{'1' if number else 'n/a'}\n"
            for number, area in enumerate(AREAS)
        )
    )
    units = {
        "table": "units",
        "id": {"key": "name"},
        "region": {"key": "area"},
        "columns": {"depth": {"key": "depth"}, "code": {"key": "code"}},
    }
    recording = load(tmp_path, "csv", {"times": "spikes/time", "unit_index": "spikes/unit"}, units=units)
    np.testing.assert_array_equal(recording.signal_TC, expected_counts())
    assert recording.unit_ids == ["000x", "001x", "002x", "003x"]
    assert [unit.columns for unit in recording.units] == [
        {"depth": 0.0},
        {"code": 1.0},
        {"depth": 2.0, "code": 1.0},
        {"depth": 3.0, "code": 1.0},
    ]


def test_a_column_is_text_if_any_cell_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurochorus.data_shards.importers.tables.ROWS_AT_ONCE", 2)
    path = tmp_path / "a.csv"
    path.write_text('a,b,c,d\n1,007,1.50,1_0\n2,1,2,2\n3,"x, y",3,3\n')
    with Tables(path) as source:
        assert source.array("a").dtype == np.int64
        assert source.array("b").tolist() == ["007", "1", "x, y"]
        assert source.array("c").tolist() == [1.5, 2.0, 3.0]
        assert source.array("d").tolist() == ["1_0", "2", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4\n", "expected a header that names the columns"),
        ("a,a\n3,4\n", "names a column twice"),
        ("a,b\n3,4,5\n", "line 2 has 3 cells but the header names 2 columns"),
        ('a,b\n3,"4\n', "cannot be read as a table"),
        ("", "expected a header"),
        ("a,b\n" + "x" * 200_000 + ",1\n", "field larger than field limit"),
        ("a,b\n\xe9,1\n", "is it text in UTF-8"),
    ],
)
def test_bad_tables_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught, Tables(path) as source:
        source.keys()
    assert "a.csv" in str(caught.value)


def test_cultures(real_data: Any) -> None:
    source = real_data("cultures")
    recipe = read_recipe(Path(__file__).parents[2] / "launch/configs/recipes/cultures.yaml", ["files='*TC12_DIV2*.h5'"])
    recordings = {recording.session_id: recording for recording in import_recordings(recipe, source)}
    assert len(recordings) == 6
    assert {r.subject_id for r in recordings.values()} == {"C57_CTX_G2CEPHYS1_TC12_A", "C57_CTX_G2CEPHYS1_TC12_B"}
    name = "C57_CTX_G2CEPHYS1_TC12_DIV21_A"
    recording = recordings[name]
    opened: Any = h5py.File(source / f"{name}.h5")
    with opened as file:
        counts = np.asarray(file["sCount"])
        np.testing.assert_array_equal(recording.signal_TC.sum(axis=0), counts)
        last = np.asarray(file["spikes"])[counts[0] : counts[0] + counts[1]]
        np.testing.assert_array_equal(
            np.unique((last / 0.05 + 1e-6).astype(int)), np.flatnonzero(recording.signal_TC[:, 1])
        )
        assert recording.units[1].columns == {"x_um": file["epos"][0, 1], "y_um": file["epos"][1, 1]}
    assert recording.units[0].region == "ctx"
    assert recording.provenance["facts"]["age_days"] == 21


def test_every_source_says_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/x"] = np.zeros((3, 2), np.float32)
    np.save(tmp_path / "x.npy", np.zeros(3))
    savemat(tmp_path / "a.mat", {"x": np.zeros((3, 2))})
    (tmp_path / "a.csv").write_text("x\n1\n")
    sources: list[tuple[Source, str, tuple[int, ...]]] = [
        (Hdf5(tmp_path / "a.h5"), "g/x", (3, 2)),
        (NpyArrays(tmp_path / "x.npy"), "array", (3,)),
        (open_mat(tmp_path / "a.mat"), "x", (3, 2)),
        (Tables(tmp_path / "a.csv"), "x", (1,)),
    ]
    for source, key, shape in sources:
        with source:
            assert source.keys() == [key]
            assert source.info(key).shape == shape
            assert not source.has("other")
