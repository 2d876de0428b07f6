"""The commands a user types, one after the other, on a small made-up data set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.models import load
from tests.distributed import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = """
name: tiny
importer: synthetic
bin_s: 0.01
sample_bins: 30
split: {method: random, fractions: [0.6, 0.2, 0.2], seed: 0}
synthetic:
  system: lorenz
  subjects: [ant, bee]
  sessions: 2
  units: [6, 9]
  trials: 30
  trial_bins: 30
  seed: 0
"""
CONFIG = """
run: {dir: unused}
data: {path: unused, exclude: ["subject:bee"], workers: 1}
model:
  autoencoder: {latents: 4, encoder: {width: 16, blocks: 1, heads: 2}, future_weights: {1: 0.5, 3: 0.5}}
  dynamics: {transformer: {width: 16, blocks: 1, heads: 2}}
  heads: {energy: {width: 16, blocks: 1}, flow: {width: 16, blocks: 1}}
autoencoder: {steps: 8}
dynamics: {steps: 6}
train: {global_batch: 8, micro_batch: 4, log_every: 1}
checkpoint: {every: 4}
zero: {stage: 2}
wandb: {mode: offline}
forecast: {context_bins: 20, horizon_bins: 10, samples: 4}
"""


def command(*words: str | Path, launcher: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts from another directory, as a user might; fails with its output."""
    script, *arguments = (str(word) for word in words)
    start = [sys.executable]
    if launcher:
        start = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(free_port())]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*start, str(ROOT / "launch" / script), *arguments], cwd="/", env=environment, capture_output=True, text=True
    )


def succeed(*words: str | Path, launcher: bool = False) -> str:
    result = command(*words, launcher=launcher)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the data set, the configuration, and a model pretrained on two ranks."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "config.yaml").write_text(CONFIG)
    succeed("shard.py", "--recipe", folder / "recipe.yaml", "--out", folder / "data")
    pretrain(folder, "straight")
    return folder


def pretrain(folder: Path, name: str, *overrides: str) -> str:
    arguments = ["--config", folder / "config.yaml", f"run.dir={folder / name}", f"data.path={folder / 'data'}"]
    return succeed("pretrain.py", *arguments, *overrides, launcher=True)


def test_two_ranks_pretrain_and_export(work: Path) -> None:
    run = work / "straight"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("autoencoder", step) for step in range(1, 9)),
        *(("dynamics", step) for step in range(1, 7)),
    ]
    for line in lines:
        assert line["samples_seen"] == 8 * line["step"]
        assert all(np.isfinite(line[name]) for name in ("loss", "lr", "grad_norm"))
    complete = json.loads((run / "checkpoints/dynamics/step_00000006/COMPLETE.json").read_text())
    assert complete["world"] == 2
    assert complete["samples_seen"] == 48
    record = json.loads((run / "run.json").read_text())
    assert record["deepspeed"]["zero_optimization"]["stage"] == 2
    assert record["deepspeed"]["gradient_clipping"] == 1.0
    assert [session.session_id for session in load(run / "export").registry.sessions] == ["ant_s1", "ant_s2"]


def test_a_joint_stage_goes_on_from_a_finished_model_and_resumes(work: Path) -> None:
    finished = work / "straight" / "export"
    parts = [f"autoencoder.init={finished}", f"dynamics.init={finished}"]
    parts += ["joint.steps=3", "joint.learning_rate=1e-3", "model.dynamics.joint.bins=4"]
    assert "joint stopped at step 1" in pretrain(work, "joint", *parts, "train.max_hours=1e-9")
    assert "joint: resumed at step 1" in pretrain(work, "joint", *parts)
    lines = [json.loads(line) for line in (work / "joint" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("joint", 1), ("joint", 2), ("joint", 3)]
    before, after = (load(path).state_dict() for path in (finished, work / "joint" / "export"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"dynamics"}
    other = command("pretrain.py", "--config", work / "config.yaml", f"run.dir={work / 'other'}",
                    f"data.path={work / 'data'}", *parts, "model.head=flow")  # fmt: skip
    assert other.returncode == 1
    assert "dynamics.init" in other.stderr
    assert "model.head" in other.stderr


def test_a_stopped_run_continues_bit_for_bit(work: Path) -> None:
    """Stopped by its time budget after every step so far, then run to the end: the weights of the undisturbed run."""
    stopped = pretrain(work, "stopped", "train.max_hours=1e-9")
    assert "autoencoder stopped at step 1" in stopped
    assert not (work / "stopped" / "export").exists()
    assert "autoencoder stopped at step 2" in pretrain(work, "stopped", "train.max_hours=1e-9")
    assert "resumed at step 2" in pretrain(work, "stopped")
    one, other = (load(work / name / "export").state_dict() for name in ("straight", "stopped"))
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []
    losses = [
        {
            (line["stage"], line["step"]): line["loss"]
            for line in map(json.loads, (work / name / "metrics.jsonl").read_text().splitlines())
        }
        for name in ("straight", "stopped")
    ]
    assert losses[0] == losses[1]


def test_a_run_does_not_continue_with_other_settings(work: Path) -> None:
    arguments = ["--config", work / "config.yaml", f"run.dir={work / 'straight'}", f"data.path={work / 'data'}"]
    other = command("pretrain.py", *arguments, "run.seed=5", launcher=False)
    assert other.returncode == 1
    assert "run.seed: 0 in the checkpoint, 5 now" in other.stderr
    again = command("pretrain.py", *arguments, "run.resume=never")
    assert again.returncode == 1
    assert "run.resume is 'never'" in again.stderr


def test_every_mistake_in_a_configuration_is_named(work: Path) -> None:
    overrides = [
        "run.dir=x",
        "data.path=y",
        "dynamics.step=3",
        "model.haed=flow",
        "train.precision=fp8",
        "deepspeed.zero=1",
    ]
    result = command("pretrain.py", "--config", work / "config.yaml", *overrides)
    assert result.returncode == 1
    for words in ("dynamics.step: unknown key; did you mean 'steps'", "model.haed: unknown key; did you mean 'head'"):
        assert words in result.stderr
    assert "train.precision" in result.stderr
    assert "Traceback" not in result.stderr
    result = command("pretrain.py", "--config", work / "config.yaml", "run.dir=x", "data.path=y", "deepspeed.zero=1")
    assert "deepspeed.zero: unknown key" in result.stderr
    assert not Path("/x").exists()


@pytest.fixture(scope="module")
def tuned(work: Path) -> Path:
    model = work / "straight" / "export"
    arguments = ["--model", model, "--data", work / "data", "--sessions", "subject:bee", "--out", work / "tuned"]
    settings = ["autoencoder.steps=4", "dynamics.steps=3", "train.global_batch=4", "train.micro_batch=4"]
    succeed("finetune.py", *arguments, "--set", *settings, "wandb.mode=disabled")
    return work / "tuned" / "export"


def test_a_new_animal_leaves_the_old_sessions_bit_identical(work: Path, tuned: Path) -> None:
    before, after = load(work / "straight" / "export"), load(tuned)
    assert after.registry.subjects == ["ant", "bee"]
    counts = np.random.default_rng(0).poisson(0.3, (3, 20, len(before.registry.session("ant_s1").unit_ids)))
    old, new = (model.rollout(model.context("ant_s1", counts), 10, 4) for model in (before, after))
    assert torch.equal(old.latents, new.latents)
    assert torch.equal(old.rates, new.rates)
    assert torch.equal(old.counts, new.counts)
    for name, table in before.named_parameters():
        assert torch.equal(table, dict(after.named_parameters())[name][: len(table)]), name


def test_the_new_rows_were_fitted(work: Path, tuned: Path) -> None:
    log = [json.loads(line) for line in (work / "tuned" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == {"autoencoder", "dynamics"}
    model = load(tuned)
    vectors = model.dynamics.session_vectors.weight
    assert not torch.equal(vectors[-1], vectors[-2]), "both new sessions still have the vector they began with"


def test_sessions_the_model_knows_are_not_added_twice(work: Path) -> None:
    arguments = ["--model", work / "straight" / "export", "--data", work / "data", "--out", work / "again"]
    result = command("finetune.py", *arguments)
    assert result.returncode == 1
    assert "'ant_s1' is in the model already" in result.stderr
    assert not (work / "again").exists()


def test_generation_is_reproducible(work: Path, tuned: Path) -> None:
    arguments = ["--model", tuned, "--session", "bee_s1", "--context", work / "data", "--context-bins", "20"]
    arguments += ["--horizon", "10", "--samples", "3", "--seed", "4"]
    for name in ("one.npz", "two.npz"):
        succeed("generate.py", *arguments, "--out", work / name)
    one, two = (np.load(work / name, allow_pickle=False) for name in ("one.npz", "two.npz"))
    assert one["counts"].shape == (3, 6, 10, len(one["unit_ids"]))
    assert one["held_out"].shape == one["counts"].shape[1:]
    for name in ("latents", "rates", "counts"):
        np.testing.assert_array_equal(one[name], two[name])
    assert one["counts"].std() > 0
    from_nothing = ["--model", tuned, "--session", "bee_s1", "--horizon", "5", "--trials", "2"]
    succeed("generate.py", *from_nothing, "--out", work / "new.npz")
    assert np.load(work / "new.npz")["context"].shape[1] == 0
    wrong = command("generate.py", "--model", tuned, "--session", "bee_s9", "--horizon", "5", "--out", work / "no.npz")
    assert wrong.returncode == 1
    assert "bee_s1" in wrong.stderr
    assert not (work / "no.npz").exists()


def test_evaluation_puts_the_baselines_beside_the_model(work: Path, tuned: Path) -> None:
    out = work / "metrics.json"
    straight = work / "straight" / "export"
    printed = succeed("evaluate.py", "--model", tuned, "--data", work / "data", "--recalibrate", "--out", out)
    results = json.loads(out.read_text())
    rows = results["forecast"]["rows"]
    learned, baselines = {"energy", "gaussian head, same backbone"}, {"train mean", "psth", "trailing mean", "ridge"}
    assert set(rows) == learned | baselines | {"ridge mix"}
    assert list(results["sessions"]) == ["ant_s1", "ant_s2", "bee_s1", "bee_s2"]
    for row in rows.values():
        assert row["mean"] == pytest.approx(np.mean(list(row["sessions"].values())))
    assert set(results["reconstruction"]["rows"]) == {"autoencoder", "train mean"}
    calibration = results["calibration"]
    assert len(calibration["coverage_by_lead"]) == 10
    heads = ("energy", "gaussian head, same backbone")
    assert list(calibration["rows"]) == [name for head in heads for name in (head, f"{head}, recalibrated")]
    assert list(calibration["rows"]["energy"]) == ["latents", "units", "population"]
    for whats in calibration["rows"].values():
        for figures in whats.values():
            assert np.shape(figures["by_lead"]["coverage"]["mean"]) == (4, 10)
            assert np.isfinite(figures["stretch"]["crps"]["mean"])
    assert len(calibration["inflation"]["energy"]) == 10
    assert "calibration: leads of 1 to 10 bins, 4 samples" in printed
    refused = command("evaluate.py", "--model", tuned, "--data", work / "data", "--split", "valid", "--recalibrate")
    assert "recalibration is fitted on the valid split" in refused.stderr
    # the model of before knows two of the four sessions, and asking for another is refused by name
    refused = command("evaluate.py", "--model", straight, "--data", work / "data", "--sessions", "bee_s1", "--out", out)
    assert refused.returncode == 1
    assert "does not know session 'bee_s1'" in refused.stderr
