"""A trained model against the exact forecast of a linear-Gaussian system (Kalman)."""

import json
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.dataset import Corpus
from neurochorus.data_shards.importers.linear_gaussian import LinearGaussianSystem, forecast
from neurochorus.pretrain.evaluation.metrics import r2
from neurochorus.pretrain.evaluation.windows import read_windows
from tests.launch.test_pipeline import ROOT, succeed

CONTEXT, HORIZON = 30, 10


def exact_r2(corpus: Corpus, session_id: str) -> float:
    """R2 of the best forecast there is, averaged over units."""
    system = LinearGaussianSystem.from_dict(corpus.session(session_id).provenance["truth"])
    signal = read_windows(corpus, session_id, "test", CONTEXT + HORIZON).signal_NTC.astype(float)
    best = np.stack([forecast(system, trial[:CONTEXT], HORIZON).signal_mean_HC for trial in signal])
    return r2(signal[:, CONTEXT:], best)


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
