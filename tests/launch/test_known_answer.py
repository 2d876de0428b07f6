"""A trained model against the exact forecast of a linear-Gaussian system (Kalman)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.importers.linear_gaussian import LinearGaussianSystem, forecast, simulate
from neurochorus.pretrain.evaluation.metrics import r2
from neurochorus.pretrain.evaluation.windows import read_windows
from tests.launch.test_pipeline import ROOT, succeed

CONTEXT, HORIZON = 30, 10
DRIVEN_HORIZON = 15


def exact_r2(corpus: Corpus, session_id: str, horizon: int = HORIZON, drive_ahead: bool = True) -> float:
    """R2 of the best forecast there is, averaged over units.

    Without `drive_ahead` it is that of a forecaster who knows the system and its drive up to now: the drive of
    `random_drive` changes sides with probability 1/20 a bin, so k bins ahead it is expected at 0.9 ** k of what it is.
    """
    system = LinearGaussianSystem.from_dict(corpus.session(session_id).provenance["truth"])
    windows = read_windows(corpus, session_id, "test", CONTEXT + horizon, ["drive"])
    signal = windows.signal_NTC.astype(float)
    drive = windows.covariates.get("drive", np.zeros((*signal.shape[:2], 0))).astype(float)
    if not drive_ahead:
        drive[:, CONTEXT:] = drive[:, [CONTEXT - 1]] * 0.9 ** np.arange(1, horizon + 1)[:, None]
    best = [forecast(system, trial[:CONTEXT], horizon, push).signal_mean_HC for trial, push in zip(signal, drive)]
    return r2(signal[:, CONTEXT:], np.stack(best))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forecasts_of_a_linear_gaussian_system_come_close_to_the_exact_ones(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "metrics.json"
    succeed("shard.py", "--recipe", ROOT / "launch/configs/recipes/linear_gaussian.yaml", "--out", data)
    config = ROOT / "launch/configs/linear_gaussian.yaml"
    settings = [f"run.dir={tmp_path / 'run'}", f"data.path={data}", "wandb.mode=disabled"]
    succeed("pretrain.py", "--config", config, *settings)
    succeed("evaluate.py", "--model", tmp_path / "run" / "export", "--data", data, "--out", out)
    results = json.loads(out.read_text())
    corpus = Corpus(data)
    exact = np.mean([exact_r2(corpus, name) for name in results["sessions"]])
    rows = {name: row["mean"] for name, row in results["forecast"]["rows"].items()}
    assert rows["energy"] > 0.9 * exact
    assert rows["energy"] < exact + 0.01, "better than the exact forecast: the evaluation leaks the future"
    assert rows["energy"] > rows["trailing mean"] + 0.2
    # whitened latents of the recorded bins lie in the central 90 % of the samples about as often as they should
    assert 0.8 < np.mean(results["calibration"]["coverage_by_lead"]) < 0.97


def slope(expected_BTC: np.ndarray, found_BTC: np.ndarray) -> float:
    """How much of the expected deviations from each unit's mean is found, pooled over units."""
    deviation, found = (values - values.mean(axis=(0, 1)) for values in (expected_BTC, found_BTC))
    return float((deviation * found).sum() / np.square(deviation).sum())


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Driven data, and on the same latents a model that is `told` the drive and one that is `blind`."""
    folder = tmp_path_factory.mktemp("driven")
    recipe = ROOT / "launch/configs/recipes/linear_gaussian_driven.yaml"
    succeed("shard.py", "--recipe", recipe, "--out", folder / "data")
    arguments = ["--config", ROOT / "launch/configs/linear_gaussian_driven.yaml", f"data.path={folder / 'data'}"]
    arguments += ["wandb.mode=disabled"]
    succeed("pretrain.py", *arguments, f"run.dir={folder / 'told'}")
    without = ["model.dynamics.covariates={}", f"autoencoder.init={folder / 'told' / 'autoencoder'}"]
    succeed("pretrain.py", *arguments, f"run.dir={folder / 'blind'}", *without)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_model_that_is_told_the_drive_comes_close_to_the_exact_driven_forecast(driven: Path) -> None:
    out = driven / "metrics.json"
    models = ["--model", driven / "told" / "export", "--beside", f"not told={driven / 'blind' / 'export'}"]
    succeed("evaluate.py", *models, "--data", driven / "data", "--out", out)
    results = json.loads(out.read_text())
    assert results["covariates"] == {"drive": "ahead"}
    corpus = Corpus(driven / "data")
    exact, at_best_blind = (
        np.mean([exact_r2(corpus, name, DRIVEN_HORIZON, ahead) for name in results["sessions"]])
        for ahead in (True, False)
    )
    rows = {name: row["mean"] for name, row in results["forecast"]["rows"].items()}
    assert rows["gaussian"] > 0.9 * exact
    assert rows["gaussian"] < exact + 0.01, "better than the exact forecast: the evaluation leaks the future"
    assert rows["gaussian"] > at_best_blind + 0.1
    assert rows["not told"] < at_best_blind + 0.02, "a model that is not told knows the drive: the future leaks"
    assert 0.8 < np.mean(results["calibration"]["coverage_by_lead"]) < 0.97


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_activity_generated_from_the_drive_alone_responds_as_the_system_does(driven: Path) -> None:
    """The mean of many samples is the response of the noiseless system, and guidance scales it."""
    data = driven / "data"
    arguments = ["--model", driven / "told" / "export", "--session", "ada_s1", "--context", data, "--context-bins", "0"]
    found = {}
    for guidance in ("1", "2", "0"):
        out = driven / f"guided_{guidance}.npz"
        succeed("generate.py", *arguments, "--horizon", "45", "--samples", "16", "--guidance", guidance, "--out", out)
        with np.load(out) as archive:
            found[guidance], drive_BTK = archive["rates"].mean(axis=0), archive["covariate_drive"]
    system = LinearGaussianSystem.from_dict(Corpus(data).session("ada_s1").provenance["truth"])
    still = 1e-12 * np.eye(len(system.transition_LL))
    quiet = replace(system, process_covariance_LL=still, initial_covariance_LL=still)
    latents_BTL, _ = simulate(quiet, drive_BTK, np.random.default_rng(0))
    response = latents_BTL @ system.read_out_CL.T + system.offset_C
    assert r2(response, found["1"]) > 0.8
    followed = {guidance: slope(response, rates) for guidance, rates in found.items()}
    assert 0.75 < followed["1"] < 1.1
    assert followed["2"] > 1.25 * followed["1"]
    assert abs(followed["0"]) < 0.1
