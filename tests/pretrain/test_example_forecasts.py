"""Example forecasts of an evaluation: the windows that were recorded, forecast as generate.py would."""

from pathlib import Path

import numpy as np

from neurochorus.launch import evaluate
from neurochorus.models import save
from neurochorus.pretrain.evaluation.example_forecasts import (
    WINDOWS,
    read_example_forecasts,
    write_example_forecasts,
)
from neurochorus.pretrain.evaluation.windows import read_windows
from tests.models.conftest import small_model
from tests.pretrain.test_covariates_in_forecasts import FORECAST, READ, write_corpus


def test_examples_are_the_first_windows_and_their_samples(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "data")
    model = small_model(covariates=READ)
    path = write_example_forecasts(tmp_path / "a.npz", model, corpus, ["a_s1"], "test", FORECAST, seed=3)
    (found,) = read_example_forecasts(path)
    bins = FORECAST.context_bins + FORECAST.horizon_bins
    windows = read_windows(corpus, "a_s1", "test", bins)
    expected = windows.signal_NTC[:WINDOWS]
    assert found.held_out_BHC is not None
    assert found.context_latents_BTL is not None
    np.testing.assert_array_equal(np.concatenate([found.context_BTC, found.held_out_BHC], axis=1), expected)
    assert found.unit_ids == tuple(windows.unit_ids)
    assert found.samples == FORECAST.samples
    context = model.context("a_s1", expected[:, : FORECAST.context_bins], windows.unit_ids)
    np.testing.assert_allclose(found.context_latents_BTL, model.encode(context).numpy(), rtol=1e-5, atol=1e-6)


def test_evaluate_keeps_them_when_asked(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data")
    model = save(small_model(covariates=READ), tmp_path / "model")
    arguments = ["--model", str(model), "--data", str(tmp_path / "data"), "--context-bins", str(FORECAST.context_bins)]
    arguments += ["--horizon-bins", str(FORECAST.horizon_bins), "--samples", "2", "--out", str(tmp_path / "m.json")]
    assert evaluate.main([*arguments, "--examples", str(tmp_path / "a.npz")]) == 0
    assert [one.session_id for one in read_example_forecasts(tmp_path / "a.npz")] == ["a_s1"]
