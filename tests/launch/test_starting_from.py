"""--resume-from and --init-from: a run that starts from a part of another."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch.test_attacks import one, pretraining, refused, work  # noqa: F401  (fixtures)
from tests.launch.test_pipeline import succeed

UNMOVED = ["autoencoder.learning_rate=1e-30", "dynamics.learning_rate=1e-30", "autoencoder.steps=1", "dynamics.steps=1"]


@pytest.mark.slow
def test_a_checkpoint_is_continued_in_another_directory(work: Path, one: Path) -> None:  # noqa: F811
    """At another ZeRO stage too; it takes the autoencoder of the run that the checkpoint is of."""
    checkpoint = one / "checkpoints" / "dynamics" / "step_00000004"
    words = pretraining(work, "branch", "zero.stage=0")
    assert "dynamics: resumed at step 4" in succeed("pretrain.py", *words, "--resume-from", checkpoint)
    ours, theirs = (load_file(folder / "export" / "model.safetensors") for folder in (work / "branch", one))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    again = succeed("pretrain.py", *words, "--resume-from", checkpoint)
    assert "dynamics: all 6 steps are done" in again, "a requeued job must not lose what it has done itself"


@pytest.mark.slow
def test_a_job_that_went_back_is_queued_again_when_that_stage_is_done(work: Path, one: Path) -> None:  # noqa: F811
    checkpoint = sorted((one / "checkpoints" / "autoencoder").glob("step_*"))[0]
    words = [*pretraining(work, "early"), "--resume-from", checkpoint]
    assert f"autoencoder: resumed at step {int(checkpoint.name[-8:])}" in succeed("pretrain.py", *words)
    assert "dynamics: all 6 steps are done" in succeed("pretrain.py", *words)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["export", "checkpoints/dynamics/step_00000006"])
def test_weights_are_taken_from_a_model_or_a_checkpoint(work: Path, one: Path, source: str) -> None:  # noqa: F811
    name = source.partition("/")[0]
    succeed("pretrain.py", *pretraining(work, name, *UNMOVED), "--init-from", one / source)
    ours, theirs = (load_file(folder / "export" / "model.safetensors") for folder in (work / name, one))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert "dynamics: steps 1 to 1" not in refused(
        "pretrain.py", *pretraining(work, "wide", "model.dynamics.transformer.width=32"), "--init-from", one / source
    )
