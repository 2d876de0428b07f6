import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.manifest import Manifest, SessionEntry, ShardEntry, select_sessions


def make_entry(session_id: str = "fox_s1", subject_id: str = "fox", **changes: Any) -> SessionEntry:
    values: dict[str, Any] = {
        "session_id": session_id,
        "subject_id": subject_id,
        "modality": "spikes",
        "bin_s": 0.01,
        "unit_hash": "0" * 16,
        "units": [{"unit_id": "a", "region": "CA1", "depth": 3.0}],
        "covariates": {"x": 1},
        "unit_mean": [1 / 3],
        "unit_sd": [0.1],
        "train_bins": 10,
        "provenance": {"file": "a.npz", "numbers": [1, 2.5]},
    }
    return SessionEntry(**(values | changes))


def make_manifest(*entries: SessionEntry) -> Manifest:
    return Manifest(
        name="made",
        sessions=list(entries) or [make_entry()],
        shards=[ShardEntry(file="shard-000000.tar", samples=1, bytes=10240, sha256="0" * 64)],
        splits={"train": {"samples": 1, "bins": 10}},
        provenance={},
    )


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    manifest = make_manifest()
    manifest.save(tmp_path / "manifest.json")
    for path in (tmp_path, tmp_path / "manifest.json"):
        assert Manifest.load(path) == manifest
        assert Manifest.load(path).hash() == manifest.hash()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_the_hash_changes_with_any_value() -> None:
    entries = [make_entry(), make_entry(unit_mean=[0.34]), make_entry(units=[{"unit_id": "b", "region": ""}])]
    assert len({make_manifest(entry).hash() for entry in entries}) == 3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 99}, "format version 99; this neurochorus reads versions 1 and 2"),
        ({"format_version": None}, "format version None"),
        ({"nmae": "x"}, r"nmae: unknown key; did you mean 'name'\?"),
        ({"sessions": [{"session_id": "a"}]}, "sessions.0.subject_id: missing"),
        ({"shards": [{"file": "../evil.tar", "samples": 1, "bytes": 1, "sha256": ""}]}, "not a plain file name"),
    ],
)
def test_a_bad_manifest_names_the_file_and_the_entry(tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    path = tmp_path / "manifest.json"
    make_manifest().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(ValueError, match=message) as caught:
        Manifest.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_cut_manifest_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a finished data set"):
        Manifest.load(tmp_path)
    path = tmp_path / "manifest.json"
    make_manifest().save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not valid JSON"):
        Manifest.load(tmp_path)


def test_a_session_twice_or_without_statistics_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    make_manifest(make_entry(), make_entry()).save(path)
    with pytest.raises(ValueError, match="'fox_s1' is listed twice"):
        Manifest.load(path)
    make_manifest(make_entry(unit_mean=[])).save(path)
    with pytest.raises(ValueError, match="'fox_s1': unit_mean: 0 values for 1 units"):
        Manifest.load(path)


def test_an_unknown_session_is_met_with_the_nearest() -> None:
    manifest = make_manifest(make_entry("fox_s1"), make_entry("hare_s1"))
    assert manifest.session("hare_s1").session_id == "hare_s1"
    with pytest.raises(ValueError, match=r"no session 'fox_s11'; did you mean 'fox_s1'\?"):
        manifest.session("fox_s11")


def test_sessions_are_selected_by_id_or_subject() -> None:
    entries = [make_entry(f"{name}_s{i}", name) for name in ("fox", "hare") for i in (1, 2)]
    assert select_sessions(entries) == ["fox_s1", "fox_s2", "hare_s1", "hare_s2"]
    assert select_sessions(entries, ["hare_s2", "fox_*"]) == ["fox_s1", "fox_s2", "hare_s2"]
    assert select_sessions(entries, ["subject:ha*"]) == ["hare_s1", "hare_s2"]
    assert select_sessions(entries, exclude=["subject:fox", "hare_s1"]) == ["hare_s2"]


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (["foxx_s1"], [], r"'foxx_s1' matches none of the sessions; did you mean 'fox_s1'"),
        (["subject:hase"], [], r"'subject:hase' matches none of the subjects; did you mean 'hare'\?"),
        (None, ["otter*"], r"'otter\*' matches none"),
        (["fox_s1"], ["fox*"], "no session is left"),
        ([], [], "no session is left"),
    ],
)
def test_a_selection_of_nothing_is_refused(include: list[str] | None, exclude: list[str], message: str) -> None:
    entries = [make_entry("fox_s1", "fox"), make_entry("hare_s1", "hare")]
    with pytest.raises(ValueError, match=message):
        select_sessions(entries, include, exclude)


def version_1(manifest: Manifest) -> str:
    """The text that neurochorus wrote until it kept units as columns: one dict a unit, all in one line."""
    sessions = [entry.to_json() | {"units": list(entry.units)} for entry in manifest.sessions]
    shards = [vars(shard) for shard in manifest.shards]
    values = {"format_version": 1, "name": manifest.name, "sessions": sessions, "shards": shards}
    values |= {"splits": manifest.splits, "provenance": manifest.provenance}
    return json.dumps(values, sort_keys=True, separators=(",", ":")) + "\n"


def test_version_1_is_read_with_the_hash_that_its_index_carries(tmp_path: Path) -> None:
    manifest = make_manifest(make_entry(), make_entry("hare_s1"))
    text = version_1(manifest)
    (tmp_path / "manifest.json").write_text(text)
    found = Manifest.load(tmp_path)
    assert found.format_version == 1
    assert found.sessions == manifest.sessions
    assert found.hash() == hashlib.sha256(text.rstrip("\n").encode()).hexdigest()[:16]


def test_units_are_columns_with_gaps(tmp_path: Path) -> None:
    rows = [{"unit_id": "a", "region": "CA1", "depth": 3.0}, {"unit_id": "b", "region": "", "quality": "good"}]
    manifest = make_manifest(make_entry(units=rows, unit_mean=[1, 2], unit_sd=[0, 1]))
    manifest.save(tmp_path / "manifest.json")
    units = Manifest.load(tmp_path).sessions[0].units
    assert list(units) == rows
    assert (units.ids, len(units), units[1]["quality"]) == (["a", "b"], 2, "good")
    assert isinstance(units.columns["depth"], np.ndarray)
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    assert json.loads(lines[1])["units"]["depth"] == [3.0, None]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"units": {"unit_id": ["a"], "region": []}}, "'fox_s1': units: columns differ in length"),
        ({"units": {"unit_id": [None]}}, r"'fox_s1': units\[0\]: has no unit_id"),
        ({"units": {"unit_id": ["a"], "region": [["x"]]}}, "'fox_s1': units: region holds list; expected text"),
        ({"units": "a"}, "'fox_s1': units: expected a mapping of columns, found str"),
        ({"unit_sd": ["0.1"]}, "'fox_s1': unit_sd: expected a list of numbers"),
        ({"unit_sd": None}, "'fox_s1': unit_sd: expected a list of numbers"),
        ({"provenance": []}, "'fox_s1': provenance: expected a mapping, found list"),
        ({"colour": "red"}, "sessions.0.colour: unknown key"),
    ],
)
def test_bad_columns_are_refused_by_session(tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    values = json.loads(version_1(make_manifest())) | {"format_version": 2}
    values["sessions"][0] |= edit
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        Manifest.load(tmp_path)


def test_a_session_without_its_columns_is_refused(tmp_path: Path) -> None:
    values = json.loads(version_1(make_manifest()))
    del values["sessions"][0]["unit_mean"]
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="'fox_s1': unit_mean: missing"):
        Manifest.load(tmp_path)
