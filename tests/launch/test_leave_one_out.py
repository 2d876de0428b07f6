"""leave_one_out.py: who is left out, what is refused, and what is run."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.writer import write_dataset
from neurochorus.launch.comparing_checks import keep_to
from neurochorus.launch.leave_one_out import (
    _comparison,
    _parser,
    _pretrained_with,
    _pretraining,
    find_targets,
    main,
)
from tests.pretrain.adaptation.small_runs import driven_recording


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    recordings = [driven_recording(name) for name in ("a1", "a2", "b1", "c1")]
    for recording in recordings:
        recording.covariates["speed"] = np.ones((len(recording.signal_TC), 1), dtype=np.float32)
    write_dataset(recordings, tmp_path / "data", name="d", sample_bins=12)
    steps = {"steps": 5}
    return {"data": {"path": str(tmp_path / "data")}, "autoencoder": steps, "dynamics": steps}


def test_each_subject_is_left_out_in_turn(values: dict[str, Any], tmp_path: Path) -> None:
    corpus, targets = find_targets(values, None, tmp_path / "out", "test")
    subjects = {entry.session_id: entry.subject_id for entry in corpus.sessions}
    assert [target.subject for target in targets] == list(dict.fromkeys(subjects.values()))
    for target in targets:
        assert {subjects[session] for session in target.sessions} == {target.subject}
        assert target.subject not in {subjects[session] for session in target.sources}
        assert {*target.sessions, *target.sources} == set(subjects)
    # what the settings leave out is neither target nor source
    last = targets[-1]
    values["data"]["exclude"] = [f"subject:{last.subject}"]
    fewer = find_targets(values, [targets[0].subject], tmp_path / "out", "test")[1]
    assert [target.subject for target in fewer] == [targets[0].subject]
    assert not set(fewer[0].sources) & set(last.sessions)


def test_wrong_subjects_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    corpus, targets = find_targets(values, None, tmp_path, "test")
    del corpus
    with pytest.raises(ValueError, match="--subjects nobody: has no session among those chosen"):
        find_targets(values, ["nobody"], tmp_path, "test")
    values["data"]["sessions"] = [f"subject:{targets[0].subject}"]
    with pytest.raises(ValueError, match="alone: with it left out none is left to pretrain on"):
        find_targets(values, None, tmp_path, "test")


def test_the_commands(values: dict[str, Any], tmp_path: Path) -> None:
    target = find_targets(values, None, tmp_path, "test")[1][0]
    words = ["--config", "c.yaml", "--data", "x", "y", "--out", str(tmp_path), "--fractions", "0.5", "--seeds", "3"]
    options = _parser().parse_args([*words, "--set", "run.seed=1", "--set-finetune", "stop.every=9", "--ranks", "2"])
    first = _pretraining(options, target, 1)
    assert first.product == target.model
    assert "deepspeed" in first.command[0]
    assert 'data.path=["x", "y"]' in first.command
    assert "run.seed=1" in first.command
    second = _comparison(options, target, None)
    assert second[second.index("--sessions") + 1 : second.index("--out")] == list(target.sessions)
    assert second[-2:] == ["--set", "stop.every=9"]
    assert "data.bin_s=0.04" in _comparison(options, target, 0.04)
    assert second[second.index("--seeds") + 1] == "3"
    assert "--tuned" not in second


def test_pretrainings_of_other_settings_are_not_taken_for_these(values: dict[str, Any], tmp_path: Path) -> None:
    corpus, targets = find_targets(values, None, tmp_path, "test")
    file = tmp_path / "pretrain.json"
    keep_to(file, _pretrained_with(values, corpus, targets[0]))
    quicker = {
        **values,
        "data": {**values["data"], "workers": 3},
        "wandb": {"mode": "disabled"},
        "train": {"log_every": 3},
    }
    keep_to(file, _pretrained_with(quicker, corpus, targets[0]))  # what moves no result
    for others, named in (
        ({**values, "autoencoder": {"steps": 6}}, "autoencoder"),
        ({**values, "run": {"seed": 1}}, r"run\.seed"),
        ({**values, "data": {**values["data"], "fraction": 0.5}}, "data"),
    ):
        with pytest.raises(ValueError, match=rf"made with other settings \({named}\)"):
            keep_to(file, _pretrained_with(others, corpus, targets[0]))


PRETRAINING = """
run: {dir: unused}
data: {path: unused, workers: 0}
model:
  head: gaussian
  autoencoder: {latents: 3, encoder: {width: 8, blocks: 1, heads: 2}, future_weights: {2: 1.0}}
  dynamics: {transformer: {width: 8, blocks: 1, heads: 2}}
autoencoder: {steps: 6}
dynamics: {steps: 4}
train: {global_batch: 8, micro_batch: 4}
forecast: {context_bins: 6, horizon_bins: 4, samples: 2}
wandb: {mode: disabled}
"""
FINETUNING = """
autoencoder: {steps: 9}
dynamics: {steps: 3}
passes: 1
read_in_factor: 0.1
stop: {every: 2, patience: 1, batches: 2}
train: {global_batch: 8, micro_batch: 4}
data: {workers: 0}
wandb: {mode: disabled}
"""


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (["--set", "forecast.horizon_bins=40"], "test samples has the 46 bins of context and horizon"),
        (  # of a covariate the number of columns is taken from the data, as in pretraining
            ["--set", "forecast.horizon_bins=40", "model.dynamics.covariates={speed: {known: past}}"],
            "test samples has the 46 bins of context and horizon",
        ),
        (["--tuned", "5:1:2"], "--tuned 5:1:2: a width of 5; expected an even number"),
        (["--arms", "rowz"], "--arms rowz: expected rows, lora, unfreeze or full"),
        (["--set-finetune", "read_in_factor=0"], "read_in_factor: expected a positive number"),
        (["--measure", "decoding:mood"], "mood"),
    ],
)
def test_what_could_not_be_compared_is_refused_before_any_pretraining(
    values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], further: list[str], said: str
) -> None:
    (tmp_path / "c.yaml").write_text(PRETRAINING)
    (tmp_path / "f.yaml").write_text(FINETUNING)
    words = ["--config", str(tmp_path / "c.yaml"), "--finetune", str(tmp_path / "f.yaml"), "--seeds", "0"]
    words += ["--out", str(tmp_path / "out"), "--data", values["data"]["path"], *further]
    assert main(words) == 1
    assert re.search(said, capfd.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_command_and_going_on_with_it(
    values: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(PRETRAINING)
    (tmp_path / "f.yaml").write_text(FINETUNING)
    out = tmp_path / "out"
    subjects = [target.subject for target in find_targets(values, None, out, "test")[1]][:2]
    words = ["--config", str(tmp_path / "c.yaml"), "--finetune", str(tmp_path / "f.yaml"), "--out", str(out)]
    words += ["--data", values["data"]["path"], "--subjects", *subjects, "--fractions", "1", "--seeds", "0"]
    words += ["--arms", "rows", "--tuned", "4:1:2:0.5"]
    assert main(words) == 0
    first = capfd.readouterr().out
    results = json.loads((out / "transfer.json").read_text())
    sessions = set(results["gains"]["facts"])
    assert all(set(by_fraction["1"]) == sessions for by_fraction in results["arms"].values())
    assert set(results["model"]) == set(subjects)
    assert (out / "transfer.png").stat().st_size > 0
    assert (out / "transfer.md").read_text() in first
    # rows, jointly, tuned, and one a session of the animal that has two
    assert sessions == {"a1", "a2", "b1"}
    assert first.count("% of the data, seed 0") == 3 * len(subjects) + 2
    assert main(words) == 0
    again = capfd.readouterr().out
    assert "seed 0:" not in again
    assert "pretraining without" not in again
    assert json.loads((out / "transfer.json").read_text())["arms"] == results["arms"]
