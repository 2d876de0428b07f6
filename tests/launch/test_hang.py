"""A whole run in which a read hangs on one rank: it ends by itself, and says which rank, where and at which line."""

import re
import socket
from pathlib import Path

import pytest

from tests.launch.test_pipeline import CONFIG, RECIPE, command, succeed

PROGRAM = Path(__file__).with_name("hanging_read.py")


@pytest.mark.slow
def test_the_hung_rank_is_named_with_its_stack(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    succeed("shard.py", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "data")
    words = ["--config", tmp_path / "config.yaml", f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path / 'data'}"]
    words += ["autoencoder.steps=1000", "data.workers=0", "train.hang_minutes=0.2"]
    result = command(PROGRAM, *words, launcher=True)
    assert result.returncode == 75, result.stderr
    waiting = re.search(r"error: rank 0 on \S+ has been at 'autoencoder step (\d+): training'.*", result.stderr)
    assert waiting is not None, result.stderr
    assert f"Not arrived: rank 1 on {socket.gethostname()}" in waiting[0]
    assert f"(at 'autoencoder step {waiting[1]}: reading data')" in waiting[0]
    assert "in read_until_the_disk_hangs" in result.stderr.partition("rank 1 is at\n")[2]
