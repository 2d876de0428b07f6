"""A run that may not continue a checkpoint is told what changed, in names and values."""

import copy
from typing import Any

from neurochorus.pretrain.fingerprint import differences

SAVED: dict[str, Any] = {
    "settings": {"model.dynamics.transformer.width": 64, "model.head": "energy", "dynamics.decay": 0.2},
    "sessions": {
        "cat_s1": {"units": "a", "recording": "1"},
        "cat_s2": {"units": "b", "recording": "2"},
        "dog_s1": {"units": "c", "recording": "3"},
    },
    "data": "0123",
    "order of samples": "4567",
    "weights it stands on": "89ab",
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SAVED), **parts}


def test_equal_runs_have_no_differences() -> None:
    assert differences(SAVED, changed()) == []


def test_settings_are_named_with_both_values() -> None:
    settings = {"model.dynamics.transformer.width": 128, "model.head": "energy", "train.ema": None}
    assert differences(SAVED, changed(settings=settings, **{"order of samples": "other"})) == [
        "model.dynamics.transformer.width: 64 in the checkpoint, 128 now",
        "train.ema: not there in the checkpoint, null now",
        "dynamics.decay: 0.2 in the checkpoint, not there now",
    ]


def test_sessions_are_named_with_what_happened_to_them() -> None:
    sessions = {
        "cat_s1": {"units": "other", "recording": "other"},
        "cat_s2": {"units": "b", "recording": "other"},
        "eel_s1": {"units": "d", "recording": "4"},
    }
    assert differences(SAVED, changed(sessions=sessions, data="other", **{"order of samples": "other"})) == [
        "sessions not in the checkpoint's data: eel_s1",
        "sessions missing now: dog_s1",
        "sessions with other units now: cat_s1",
        "sessions with other contents now: cat_s2",
    ]


def test_what_nothing_explains_is_shown_as_it_is() -> None:
    assert differences(SAVED, changed(data="other")) == ["data: 0123 in the checkpoint, other now"]
    assert differences(SAVED, changed(**{"weights it stands on": "other"})) == [
        "weights it stands on: 89ab in the checkpoint, other now"
    ]


def test_a_checkpoint_of_another_version_is_refused() -> None:
    assert len(differences({"data": "0123", "model settings": "cdef"}, SAVED)) == 1
