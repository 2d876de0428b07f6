"""A run whose checkpoint folder may not be written: the last checkpoint stays, and the same command goes on later."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neurochorus.models import load
from tests.distributed import free_port
from tests.launch.test_pipeline import CONFIG, RECIPE, ROOT, succeed

WITHOUT_ROOTS_POWERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Root may write everywhere; without these capabilities it may write what the permissions say."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a data set, and a run that nothing hindered."""
    folder = tmp_path_factory.mktemp("not_writable")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "config.yaml").write_text(CONFIG.replace("mode: offline", "mode: disabled"))
    succeed("shard.py", "--recipe", folder / "recipe.yaml", "--out", folder / "data")
    assert pretrain(folder, "straight").returncode == 0
    return folder


def pretrain(work: Path, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A run on two ranks, started by a user whom permissions bind."""
    user = WITHOUT_ROOTS_POWERS if os.getuid() == 0 else []
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(free_port())]
    words = ["--config", str(work / "config.yaml"), f"data.path={work / 'data'}", f"run.dir={work / name}", *overrides]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*user, *launcher, str(ROOT / "launch" / "pretrain.py"), *words],
        cwd="/", env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv, of util-linux")
@pytest.mark.parametrize("write_behind", [False, True])
def test_a_folder_that_may_not_be_written_costs_nothing_but_time(work: Path, write_behind: bool) -> None:
    name, behind = f"hindered_{write_behind}", f"checkpoint.write_behind={str(write_behind).lower()}"
    assert pretrain(work, name, behind, "train.max_hours=1e-9").returncode == 0
    folder = work / name / "checkpoints" / "autoencoder"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert folder / "step_00000001" / "COMPLETE.json" in before
    folder.chmod(0o555)
    result = pretrain(work, name, behind)
    assert result.returncode != 0
    (error,) = {line for line in result.stderr.splitlines() if line.startswith("error: ")}  # on a busy machine twice
    assert f"{folder / 'step_00000004'}: could not be written (rank 0: " in error
    assert "Permission denied" in error
    assert "the checkpoints before it are untouched: make room, or the folder writable" in error
    assert error.endswith("and run the same command again")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    folder.chmod(0o755)
    result = pretrain(work, name, behind)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "autoencoder: resumed at step 1" in result.stdout + result.stderr
    ours, theirs = (load(work / run / "export").state_dict() for run in (name, "straight"))
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
