"""`--check`: a table and status 0, or what is wrong and status 1; the run directory is not touched."""

import shutil
from pathlib import Path

import pytest

from tests.launch.test_pipeline import CONFIG, RECIPE, command, succeed


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "config.yaml").write_text(CONFIG)
    succeed("shard.py", "--recipe", folder / "recipe.yaml", "--out", folder / "data")
    return folder


def arguments(work: Path, data: str) -> list[str | Path]:
    return ["--check", "--config", work / "config.yaml", f"run.dir={work / 'run'}", f"data.path={work / data}"]


@pytest.mark.slow
def test_a_run_that_can_start(work: Path) -> None:
    output = succeed("pretrain.py", *arguments(work, "data"), launcher=True)
    assert "all-reduce over 2 ranks:" in output
    assert "all 2 ranks are ready" in output
    assert not (work / "run").exists()


def test_a_run_that_cannot(work: Path) -> None:
    shutil.copytree(work / "data", work / "cut")
    shard = work / "cut" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    result = command("pretrain.py", *arguments(work, "cut"), "train.micro_batch=3", "train.global_batch=9")
    assert result.returncode == 1
    size = shard.stat().st_size
    assert f"{shard.parent}: {shard.name}: {size} bytes; the manifest says {size + 512}: cut" in result.stderr
    assert result.stderr.count("error: ") == 1
    assert not (work / "run").exists()
