"""Comparisons of several animals as one, and who gains."""

import json
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.pretrain.evaluation.transfer import transfer_results
from neurochorus.pretrain.evaluation.transfer_gains import gains_markdown, session_facts, transfer_gains
from neurochorus.pretrain.evaluation.transfer_pooling import pooled_transfer
from neurochorus.pretrain.evaluation.transfer_text import transfer_markdown

SPIKES = {"metric": "bits_per_spike", "title": "forecasts", "definition": "In bits."}
STOP = {"every": 50, "patience": 10, "batches": 16}


def one_animal(values: dict[str, tuple[float, float]], **more: Any) -> dict[str, Any]:
    """`values`: session -> (adapted, from scratch)."""
    arms = {
        "pretrained, rows": {"0.5": {session: [value[0]] for session, value in values.items()}},
        "scratch, jointly": {"0.5": {session: [value[1]] for session, value in values.items()}},
    }
    baselines = {"ridge": {"0.5": dict.fromkeys(values, 0.01)}}
    ending = {
        "arm": "pretrained, rows",
        "stage": "dynamics",
        "best_step": 5,
        "kept_step": 5,
        "steps": 9,
        "stopped_at": None,
    }
    facts = {"stop": STOP, "model": "m", "tuned": {"0.5": {"chosen": "8:1:2:1"}}, "endings": [ending], **more}
    return transfer_results(SPIKES, [0.5], [0], arms, {"0.5": dict.fromkeys(values, 7)}, baselines, **facts)


def test_tests_are_over_the_sessions_of_all_animals() -> None:
    ann = one_animal({"a": (0.3, 0.1), "b": (0.2, 0.1)})
    ben = one_animal({"c": (0.6, 0.3)}, model="n")
    pooled = pooled_transfer({"ann": ann, "ben": ben})
    comparison = pooled["comparisons"][0]
    assert [one["than_row"] for one in pooled["comparisons"]] == ["scratch, jointly", "ridge", "ridge"]
    assert (comparison["sessions"], comparison["wins"]) == (3, 3)
    assert (comparison["subjects"], comparison["subjects_won"]) == (2, 2)
    assert comparison["difference"] == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    assert pooled["trials"]["0.5"] == {"a": 7, "b": 7, "c": 7}
    assert pooled["baselines"]["ridge"]["0.5"] == {"a": 0.01, "b": 0.01, "c": 0.01}
    assert pooled["model"] == {"ann": "m", "ben": "n"}
    assert [ending["target"] for ending in pooled["endings"]] == ["ann", "ben"]
    assert pooled["reaches_what"]["value"] == pytest.approx(0.5 / 3)
    text = transfer_markdown(json.loads(json.dumps(pooled)))
    assert "mean over 3 sessions" in text
    assert "They are of 2 animals" in text
    assert "| 3 of 3 | 2 of 2 |" in text
    worse = pooled_transfer({"ann": ann, "ben": one_animal({"c": (0.25, 0.3)}), "cat": one_animal({"d": (0.6, 0.1)})})
    assert (worse["comparisons"][0]["subjects"], worse["comparisons"][0]["subjects_won"]) == (3, 2)


def test_baselines_that_one_animal_lacks_are_left_out() -> None:
    ann, ben = one_animal({"a": (0.3, 0.1)}), one_animal({"c": (0.6, 0.3)})
    ann["baselines"]["psth"] = {"0.5": {"a": 0.2}}
    assert list(pooled_transfer({"ann": ann, "ben": ben})["baselines"]) == ["ridge"]
    assert list(pooled_transfer({"ben": ben, "ann": ann})["baselines"]) == ["ridge"]


def test_comparisons_that_were_made_otherwise_are_not_pooled() -> None:
    ann = one_animal({"a": (0.3, 0.1)})
    with pytest.raises(ValueError, match="ben: session 'a' is in another comparison too"):
        pooled_transfer({"ann": ann, "ben": one_animal({"a": (0.6, 0.3)})})
    with pytest.raises(ValueError, match="ben: stop is None, of ann"):
        pooled_transfer({"ann": ann, "ben": one_animal({"c": (0.6, 0.3)}, stop=None)})
    decoded = {**one_animal({"c": (0.6, 0.3)}), "title": "speed decoded from latents"}
    with pytest.raises(ValueError, match="ben: title is speed decoded from latents, of ann forecasts"):
        pooled_transfer({"ann": ann, "ben": decoded})
    other = one_animal({"c": (0.6, 0.3)})
    other["arms"]["pretrained, full"] = other["arms"].pop("pretrained, rows")
    with pytest.raises(ValueError, match="ben: arms are"):
        pooled_transfer({"ann": ann, "ben": other})


def session(name: str, regions: list[str | None], mean: float = 0.05) -> SessionEntry:
    units = [{"unit_id": f"u{number}", **({"region": one} if one else {})} for number, one in enumerate(regions)]
    return SessionEntry(
        session_id=name,
        subject_id=name,
        modality="spikes",
        bin_s=0.01,
        unit_hash="",
        covariates={},
        train_bins=400,
        units=units,  # type: ignore[arg-type]
        unit_mean=np.full(len(units), mean),
        unit_sd=np.ones(len(units)),
        provenance={},
    )


def test_facts_of_a_session() -> None:
    found = session_facts(session("new", ["CA1", "CA1", "VISp", None]), [session("old", ["CA1", "MOs"])])
    assert found == {"units": 4.0, "rate": pytest.approx(5.0), "train bins": 400.0, "known regions": 2 / 3}
    assert session_facts(session("new", [None]), [session("old", ["CA1"])])["known regions"] is None


def test_gains_are_of_the_best_arms_and_correlate_with_what_sets_sessions_apart() -> None:
    values = {"a": (0.10, 0.08), "b": (0.20, 0.15), "c": (0.05, 0.06)}
    arms = one_animal(values)["arms"]
    arms["scratch, per session"] = {"0.5": {name: [0.0] for name in values}}
    facts = {
        name: {"units": units, "rate": 1.0, "train bins": None, "known regions": 1.0 - units}
        for name, units in (("a", 0.2), ("b", 0.3), ("c", 0.1))
    }
    gains = transfer_gains(arms, [0.5], facts)
    found = gains["by_fraction"]["0.5"]
    assert (found["adapted"], found["scratch"]) == ("pretrained, rows", "scratch, jointly")
    assert found["gain"] == pytest.approx({"a": 0.02, "b": 0.05, "c": -0.01})
    expected = {"units": 1.0, "rate": None, "train bins": None, "known regions": -1.0}
    assert found["rank_correlations"] == {
        name: None if value is None else pytest.approx(value) for name, value in expected.items()
    }
    lines = gains_markdown(gains, {"a": "ann", "b": "ann", "c": "ben"}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| b", "| a", "| c"]
    assert lines[2].endswith("+0.0500 |")
    facts["b"]["units"] = 1234.0
    assert "| b | ann | 1,234 | 1 |" in gains_markdown(transfer_gains(arms, [0.5], facts), dict.fromkeys("abc", "ann"))
    assert gains_markdown({"facts": {}, "by_fraction": {}}, {}) == ""
