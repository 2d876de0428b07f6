"""launch/evaluate.py: what it says of the data, and what it refuses before anything is computed."""

import json
from pathlib import Path

import pytest

from neurochorus.launch import evaluate
from neurochorus.models import save
from tests.models.conftest import small_model
from tests.pretrain.suite_corpus import write_suite_corpus

BINS = ["--context-bins", "4", "--horizon-bins", "3", "--samples", "2"]


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    return ["--model", str(save(small_model(), tmp_path / "model")), "--data", str(tmp_path / "data"), *BINS]


def test_finer_bins_and_silent_sessions_are_said(
    tmp_path: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_suite_corpus(tmp_path / "data", silent="b_s1", bin_s=0.005)
    assert evaluate.main([*model, "--examples", str(tmp_path / "examples.npz")]) == 0
    said = capsys.readouterr().err
    assert "2 sessions have finer bins; they are read in bins of 0.01 s, the model's" in said
    assert "left out: session b_s1: no spike in its train windows" in said
    results = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert list(results["sessions"]) == ["a_s1"]
    assert results["bin_s"] == 0.01
    assert (tmp_path / "examples.npz").exists()


def test_a_wrong_path_for_examples_is_refused_before_anything_is_computed(
    tmp_path: Path, model: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "run", lambda *_: pytest.fail("computed"))
    assert evaluate.main([*model, "--examples", str(tmp_path / "examples.html")]) == 1
    assert "examples.html" in capsys.readouterr().err
