"""Every command that takes a data set takes its URL."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neurochorus.launch import describe, evaluate, generate, impute, score_imputation
from neurochorus.models import save
from neurochorus.pretrain.preflight.facts import read_data_sets
from tests.data_shards.web_server import WebServer, serving
from tests.launch.test_pipeline import CONFIG, RECIPE, succeed
from tests.models.conftest import small_model
from tests.pretrain.test_covariates_in_forecasts import READ, write_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROCHORUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as server:
        yield server


@pytest.mark.parametrize("remote", [False, True])
def test_commands_on_a_model(tmp_path: Path, web: WebServer, remote: bool, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "served" / "data")
    data = f"{web.url}/data" if remote else str(tmp_path / "served" / "data")
    model = ["--model", str(save(small_model(covariates=READ), tmp_path / "model"))]
    session = [*model, "--session", "a_s1", "--samples", "2"]
    assert describe.main([data, "--verify"]) == 0
    bins = ["--context-bins", "8", "--horizon", "4"]
    assert evaluate.main([*model, "--data", data, *bins[:2], "--horizon-bins", "4", "--samples", "2"]) == 0
    assert generate.main([*session, "--context", data, *bins, "--out", str(tmp_path / "made.npz")]) == 0
    hidden = ["--hide-bins", "3:5", "--particles", "8", "--out", str(tmp_path / "imputed.npz")]
    assert impute.main([*session, "--data", data, *hidden]) == 0
    scored = ["--window-bins", "12", "--windows", "2", "--samples", "2", "--unit-folds", "2", "--particles", "8"]
    assert score_imputation.main([*model, "--data", data, *scored]) == 0
    assert corpus.datasets[0].manifest_hash in capsys.readouterr().out
    assert read_data_sets([data]) == ({data: corpus.datasets[0].manifest_hash}, [])
    assert (web.requests["shard-000000.tar"] == 1) == remote
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["data"] == [data]
    assert np.load(tmp_path / "made.npz")["counts"].size


def test_pretraining_with_a_reader_process(tmp_path: Path, web: WebServer) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("mode: offline", "mode: disabled"))
    succeed("shard.py", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "served" / "data")
    losses = []
    for data in (f"{web.url}/data", str(tmp_path / "served" / "data")):
        run = tmp_path / f"run{len(losses)}"
        steps = ["autoencoder.steps=2", "dynamics.steps=2"]
        succeed("pretrain.py", "--config", tmp_path / "config.yaml", f"run.dir={run}", f"data.path={data}", *steps)
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines])
    assert losses[0] == losses[1]
    assert web.requests["shard-000000.tar"] == 1
