"""Whole trials generated from nothing or observed anew, and the files they are kept in."""

from pathlib import Path

import numpy as np
import pytest

from neurochorus.pretrain.evaluation.whole_trials import (
    WholeTrials,
    trials_from_nothing,
    trials_observed_anew,
)
from tests.models.conftest import small_model


def test_trials_are_those_of_a_rollout() -> None:
    model = small_model()
    trials = trials_from_nothing(model, "b_s1", trials=3, horizon=6, seed=5)
    rollout = model.rollout(model.context("b_s1", np.zeros((3, 0, 8))), 6, 1, seed=5)
    np.testing.assert_array_equal(trials.counts_NTC, rollout.counts[0])
    assert trials.latent_seconds > 0
    assert trials.seconds_per_thousand == pytest.approx(1000 / 3 * (trials.latent_seconds + trials.count_seconds))


def test_trials_observed_anew_have_the_rates_of_the_recorded_ones() -> None:
    model = small_model()
    recorded = np.random.default_rng(0).poisson(0.5, size=(120, 10, 8))  # more than go through the encoder at once
    anew = np.mean([trials_observed_anew(model, "b_s1", recorded, seed).counts_NTC for seed in range(60)], axis=0)
    expected = model.reconstruct(model.context("b_s1", recorded)).numpy()
    if model.config.autoencoder.slow_gain:  # which starts every trial anew: only its first bin is without
        anew, expected = anew[:, :1], expected[:, :1]
    assert np.abs(anew - expected).mean() < 1.2 * np.sqrt(expected / 60).mean()


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    counts = np.array([[[0.0, 3.0], [1.0, 300.0]]])
    WholeTrials(counts, 1.5, 0.5, 2).write(tmp_path / "trials.npz")
    again = WholeTrials.read(tmp_path / "trials.npz")
    np.testing.assert_array_equal(again.counts_NTC, counts)
    assert again.counts_NTC.dtype == np.uint16
    assert (again.latent_seconds, again.count_seconds, again.threads) == (1.5, 0.5, 2)
