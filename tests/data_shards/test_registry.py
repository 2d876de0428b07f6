"""Rows by unit id, whatever the order of the data; old rows stay; what does not fit is refused by name."""

import dataclasses
import json

import numpy as np
import pytest

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.recording import unit_hash
from neurochorus.data_shards.registry import UnitRegistry


def entry(session_id: str, subject_id: str, unit_ids: list[str], **changes) -> SessionEntry:
    values = {
        "session_id": session_id,
        "subject_id": subject_id,
        "modality": "spikes",
        "bin_s": 0.01,
        "unit_hash": unit_hash(unit_ids),
        "units": [{"unit_id": unit_id} for unit_id in unit_ids],
        "covariates": {},
        "unit_mean": [0.0] * len(unit_ids),
        "unit_sd": [1.0] * len(unit_ids),
        "train_bins": 10,
        "provenance": {},
    }
    return SessionEntry(**(values | changes))


FIRST = entry("cori-1", "cori", ["u3", "u1", "u2"])
SECOND = entry("hench-1", "hench", ["u1", "u9"])
THIRD = entry("cori-2", "cori", ["u1"])


@pytest.fixture
def registry() -> UnitRegistry:
    return UnitRegistry.from_sessions([FIRST, SECOND])


def test_sessions_take_consecutive_rows_after_the_padding_row(registry):
    assert registry.rows(FIRST).tolist() == [1, 2, 3]
    assert registry.rows(SECOND).tolist() == [4, 5]
    assert registry.rows(FIRST).dtype == np.int64
    assert registry.total_rows == 6
    assert [registry.session_index(name) for name in ("cori-1", "hench-1")] == [1, 2]
    assert registry.subjects == ["cori", "hench"]
    assert [registry.subject_index(name) for name in ("cori", "hench")] == [1, 2]
    assert UnitRegistry().total_rows == 1


def test_rows_follow_unit_ids_when_the_data_list_units_in_another_order(registry):
    permuted = entry("cori-1", "cori", ["u1", "u2", "u3"])
    assert registry.rows(permuted).tolist() == [2, 3, 1]


def test_appending_leaves_what_was_there(registry):
    more = registry.append([THIRD])
    assert more.sessions[:2] == registry.sessions
    for known in (FIRST, SECOND):
        assert more.rows(known).tolist() == registry.rows(known).tolist()
        assert more.session_index(known.session_id) == registry.session_index(known.session_id)
        assert more.subject_index(known.subject_id) == registry.subject_index(known.subject_id)
    assert more.rows(THIRD).tolist() == [6]
    assert more.session_index("cori-2") == 3
    assert more.subjects == ["cori", "hench"]
    assert registry.total_rows == 6
    assert registry.append([]) == registry


def test_it_comes_back_from_json_as_it_was(registry):
    text = json.dumps(registry.to_json())
    again = UnitRegistry.from_json(json.loads(text))
    assert again == registry
    assert again.rows(SECOND).tolist() == [4, 5]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (entry("cori-11", "cori", ["u1"]), "does not know session 'cori-11': run launch/finetune.py.*'cori-1'"),
        (dataclasses.replace(FIRST, modality="continuous"), "'cori-1': the data are continuous.*spikes"),
        (dataclasses.replace(FIRST, bin_s=0.02), r"'cori-1': bins of the data are 0\.02 s.*0\.01 s.*recipe"),
        (dataclasses.replace(FIRST, subject_id="hench"), "of subject 'hench'.*'cori'"),
        (
            entry("cori-1", "cori", ["u3", "u1", "u4", "u5"]),
            r"of 4 units in the data and 3 in the model 2 only in the data \(u4, u5\) and 1 only in the model \(u2\)",
        ),
        (
            entry("cori-1", "cori", [f"u{i}" for i in range(10)]),
            r"7 only in the data \(u0, u4, u5, u6, \.\.\.\); use",
        ),
        (dataclasses.replace(FIRST, unit_hash="0" * 16), "unit_hash 0000.*was edited"),
    ],
)
def test_data_that_do_not_fit_are_refused(registry, other, text):
    with pytest.raises(ValueError, match=text):
        registry.rows(other)


def test_same_number_of_other_units_is_refused(registry):
    with pytest.raises(ValueError, match="other units than the model was trained on"):
        registry.rows(entry("hench-1", "hench", ["u1", "u8"]))


def test_a_session_is_added_once(registry):
    with pytest.raises(ValueError, match="'hench-1' is in the model already"):
        registry.append([THIRD, SECOND])
    with pytest.raises(ValueError, match="'cori-2' is in the model already"):
        registry.append([THIRD, THIRD])


def test_an_unknown_subject_is_named(registry):
    with pytest.raises(ValueError, match=r"'henc'.*'hench'"):
        registry.subject_index("henc")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda values: values.update(format_version=9), "format version 9"),
        (lambda values: values["sessions"][1].update(first_row=5), "'hench-1': first_row is 5, expected 4"),
        (lambda values: values["sessions"][0]["unit_ids"].__setitem__(0, "u8"), "'cori-1': unit_hash"),
        (lambda values: values["sessions"][1].pop("bin_s"), "number 2: .*bin_s"),
        (lambda values: values["sessions"][1].update(session_id="cori-1"), "'cori-1' is listed twice"),
    ],
)
def test_an_edited_sessions_file_is_refused(registry, change, text):
    values = json.loads(json.dumps(registry.to_json()))
    change(values)
    with pytest.raises(ValueError, match=text):
        UnitRegistry.from_json(values)
