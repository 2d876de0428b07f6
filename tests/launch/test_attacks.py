"""Hostile and clumsy uses of the commands: exit code 1, one error that names the thing, nothing half-written.

Only attacks that found something once are kept.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.launch import evaluate, generate
from neurochorus.models import load, save
from tests.distributed import free_port
from tests.launch.test_pipeline import CONFIG, RECIPE, ROOT, command, succeed
from tests.models.conftest import small_model

TUNING = ["autoencoder.steps=2", "dynamics.steps=2", "train.global_batch=4", "train.micro_batch=4"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the data set and the configuration of the other commands' tests."""
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "config.yaml").write_text(CONFIG.replace("mode: offline", "mode: disabled"))
    succeed("shard.py", "--recipe", folder / "recipe.yaml", "--out", folder / "data")
    return folder


@pytest.fixture(scope="module")
def one(work: Path) -> Path:
    """A finished run on one process."""
    succeed("pretrain.py", *pretraining(work, "one"))
    return work / "one"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return save(small_model(), tmp_path / "export")


def pretraining(work: Path, name: str, *overrides: str) -> list[str]:
    config = ["--config", str(work / "config.yaml"), f"data.path={work / 'data'}", f"run.dir={work / name}"]
    return [*config, *overrides]


def refused(*words: str | Path, launcher: bool = False) -> str:
    """The one error of a command that must fail."""
    result = command(*words, launcher=launcher)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1, result.stderr
    return result.stderr.partition("error: ")[2]


def start_on_two_ranks(work: Path, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(free_port())]
    words = [*launcher, str(ROOT / "launch" / "pretrain.py"), *pretraining(work, name, *overrides)]
    return subprocess.Popen(
        words, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def test_two_ranks_killed_while_they_save_continue_bit_for_bit(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = ["autoencoder.steps=30", "checkpoint.every=2"]
    run = start_on_two_ranks(work, "killed", *overrides)
    stage, deadline = work / "killed" / "checkpoints" / "autoencoder", time.monotonic() + 240
    while not ((stage / "step_00000004").exists() and list(stage.glob(".saving-*"))):
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run saves nothing"
        time.sleep(0.001)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (work / "killed" / "autoencoder").exists()
    assert "resumed at step" in succeed("pretrain.py", *pretraining(work, "killed", *overrides), launcher=True)
    succeed("pretrain.py", *pretraining(work, "undisturbed", *overrides), launcher=True)
    ours, theirs = (load(work / name / "export").state_dict() for name in ("killed", "undisturbed"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_two_ranks_speak_with_one_voice(work: Path) -> None:
    """Here only rank 0 meets the error, and the other loses rank 0."""
    (work / "file").touch()
    inside = str(Path("file") / "run")
    error = refused("pretrain.py", *pretraining(work, inside), launcher=True)
    assert "file/run: cannot be written" in error
    assert "give another run.dir" in error


def test_a_damaged_sample_is_one_error_even_from_a_worker_process(work: Path) -> None:
    shutil.copytree(work / "data", work / "damaged")
    shard = work / "damaged" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    for place in range(700, len(data), 512):
        data[place] ^= 1
    shard.write_bytes(data)
    error = refused("pretrain.py", *pretraining(work, "fails", f"data.path={work / 'damaged'}", "data.workers=1"))
    assert "shard-000000.tar" in error
    assert "--verify" in error


def test_gradients_that_are_not_finite_stop_a_run_without_zero_too(work: Path) -> None:
    """DeepSpeed itself only looks with ZeRO; without it, NaN weights were trained on and exported."""
    overrides = ["zero.stage=0", "autoencoder.learning_rate=1e30", "train.max_skipped_steps=2"]
    assert "2 steps in a row were skipped" in refused("pretrain.py", *pretraining(work, "nan", *overrides))
    assert "non-finite" in (work / "nan" / "trouble.jsonl").read_text()


def test_a_refused_command_leaves_a_run_directory_as_it_was(work: Path, one: Path) -> None:
    before = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    data = f"data.path={copy_of_data(work)}"
    error = refused("pretrain.py", *pretraining(work, "one", data, "train.global_batch=12"))
    assert "sessions with other units now: ant_s1, ant_s2" in error
    assert "train.global_batch: 8 in the checkpoint, 12 now" in error
    resume = "run.resume=" + str(one / "checkpoints" / "dynamics" / "step_00000099")
    assert "expected auto, never or the path of a complete" in refused("pretrain.py", *pretraining(work, "one", resume))
    assert {path: path.read_bytes() for path in one.rglob("*") if path.is_file()} == before


def copy_of_data(work: Path) -> Path:
    """The same sessions with other counts."""
    arguments = ["--recipe", work / "recipe.yaml", "--out", work / "other", "synthetic.seed=5"]
    succeed("shard.py", *arguments)
    return work / "other"


def test_zeroed_checkpoints_are_named(work: Path, one: Path) -> None:
    """Of the right size, as a power cut leaves files that were not yet on the disk."""
    shutil.copytree(one, work / "zeroed")
    checkpoints = work / "zeroed" / "checkpoints" / "dynamics"
    for file in checkpoints.glob("*/*.pt"):
        file.write_bytes(bytes(file.stat().st_size))
    result = command("pretrain.py", *pretraining(work, "zeroed"))
    assert result.returncode == 1
    assert f"{checkpoints / 'step_00000006'}: is damaged" in result.stderr
    assert f"error: {checkpoints / 'step_00000004'}: is damaged" in result.stderr
    assert "remove it to start anew" in result.stderr


def test_fine_tuning_of_another_model_is_not_continued(work: Path, one: Path) -> None:
    """It would have mixed the weights of both models without a word."""
    model = load(one / "export")
    with torch.no_grad():
        model.autoencoder.gain_strength.add_(0.1)
    save(model, work / "other_model", {"forecast": {}})
    arguments = ["--data", work / "data", "--sessions", "subject:bee", "--out", work / "tuned"]
    settings = ["--set", *TUNING, "wandb.mode=disabled"]
    succeed("finetune.py", "--model", one / "export", *arguments, *settings)
    before = (work / "tuned" / "run.json").read_text()
    error = refused("finetune.py", "--model", work / "other_model", *arguments, *settings)
    assert "weights it stands on" in error
    assert (work / "tuned" / "run.json").read_text() == before


COUNTS = np.random.default_rng(0).poisson(0.3, (3, 20, 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(COUNTS > 1, np.nan, COUNTS), "not finite"),
        (COUNTS - 3, "negative"),
        (COUNTS + 0.5, "not a whole number"),
        (COUNTS.astype(complex), "counts are of type complex128"),
        (COUNTS.astype(str), "counts are of type <U"),
        (COUNTS[:0], "found shape (0, 20, 5)"),
        (COUNTS[0], "found shape (20, 5)"),
        (COUNTS[:, :, :4], "5 units of session 'a_s1'), found shape (3, 20, 4)"),
        (b"", "not a whole .npy array"),
        (b"PK\x03\x04", "not a whole .npy array"),
    ],
)
def test_contexts_that_are_no_counts(
    tmp_path: Path, export: Path, capsys: pytest.CaptureFixture[str], values: np.ndarray | bytes, message: str
) -> None:
    file = tmp_path / "context.npy"
    if isinstance(values, bytes):
        file.write_bytes(values)
    else:
        np.save(file, values)
    assert generated(tmp_path, export, "--context", str(file)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "trials: expected 1 or more, found 0"),
        (["--horizon", "0"], "horizon: expected 1 or more, found 0"),
        (["--samples", "0"], "samples must be at least 1"),
        (["--context-bins", "-2"], "context bins: expected 0 or more, found -2"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--device", "nothing"], "device 'nothing' cannot be used here"),
    ],
)
def test_numbers_that_cannot_be(
    tmp_path: Path, export: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert generated(tmp_path, export, *arguments) == 1
    assert message in capsys.readouterr().err


def generated(tmp_path: Path, export: Path, *arguments: str) -> int:
    base = ["--model", str(export), "--session", "a_s1", "--out", str(tmp_path / "out.npz")]
    return generate.main([*base, *([] if "--horizon" in arguments else ["--horizon", "2"]), *arguments])


@pytest.mark.parametrize("out", ["file/metrics.json", "folder", "metrics.txt"])
def test_outputs_are_refused_before_anything_is_computed(
    tmp_path: Path, export: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    arguments = ["--model", str(export), "--data", str(tmp_path / "not looked at"), "--out", str(tmp_path / out)]
    assert evaluate.main(arguments) == 1
    assert str(tmp_path / out) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["model", "dynamics", "target"], "level", "the file was edited"),
        (["model", "dynamics", "history_scales"], [1, 4, 20], "the file was edited"),
        (["model", "autoencoder", "encoder", "heads"], 0, "heads: expected 1 or more"),
        (["model", "autoencoder", "latents"], -1, "latents: expected 1 or more"),
        (["model"], [1], "expected a mapping of settings, found list"),
        (["model"], None, "expected a mapping of settings, found NoneType"),
    ],
)
def test_an_edited_export(
    tmp_path: Path, export: Path, capsys: pytest.CaptureFixture[str], where: list[str], value: object, message: str
) -> None:
    """Some settings give other outputs from weights of the same shapes."""
    config = json.loads((export / "config.json").read_text())
    node = config
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    (export / "config.json").write_text(json.dumps(config))
    assert generated(tmp_path, export) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(export / "config.json") in error
