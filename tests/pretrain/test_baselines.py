"""Baselines on data whose best forecast is known, and on real sessions held to measured values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.pretrain.evaluation.baselines import Persistence, TrailingMean, TrainMean, all_baselines
from neurochorus.pretrain.evaluation.forecaster import Forecaster
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.ridge_forecasts import Ridge, RidgeMix

CONTEXT, HORIZON = 12, 6
ALL = [(modality, name) for modality in ("spikes", "continuous") for name in all_baselines(modality)]


def split(signal: np.ndarray, context: int = CONTEXT) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Arguments of fit (60 % and 20 % of the trials), test context and test future."""
    a, b = int(0.6 * len(signal)), int(0.8 * len(signal))
    train, valid, test = ((part[:, :context], part[:, context:]) for part in np.split(signal, [a, b]))
    return [*train, *valid], *test


def spike_counts(seed: int, shared: float, own: float, trials: int = 300, units: int = 40) -> tuple[Any, Any]:
    """Counts and rates whose log gains are constant in a trial: `shared` by all units, `own` to each."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(trials, 2)) @ rng.normal(size=(2, units)) / np.sqrt(2)
    gains = shared * factors + own * rng.normal(size=(trials, units))
    rates = 0.3 * rng.gamma(2.0, 0.5, units) * np.exp(gains - gains.var(axis=0) / 2)
    rates = np.repeat(rates[:, None], CONTEXT + HORIZON, axis=1)
    return rng.poisson(rates), rates


def linear_signal(seed: int, trials: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Trials of a stable linear system of 4 units with known dynamics: x' = A x + noise."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    dynamics = 0.9 * rotation
    states = [rng.normal(size=(trials, 4)) / np.sqrt(1 - 0.81)]
    for _ in range(CONTEXT + HORIZON - 1):
        states.append(states[-1] @ dynamics.T + rng.normal(size=(trials, 4)))
    return np.stack(states, axis=1) * [1.0, 10.0, 0.1, 1.0] + [0.0, 50.0, -3.0, 1.0], dynamics


def score(baseline: Forecaster, counts: np.ndarray) -> float:
    fit, context, future = split(counts)
    return bits_per_spike(future, baseline.fit(*fit).predict(context))


def example(modality: str) -> np.ndarray:
    return spike_counts(0, 0.5, 0.3, trials=60, units=9)[0] if modality == "spikes" else linear_signal(0, trials=60)[0]


def test_train_mean_is_the_mean_of_all_training_bins():
    counts = example("spikes")
    fit, context, future = split(counts)
    predicted = TrainMean("spikes").fit(*fit).predict(context)
    assert predicted.shape == future.shape
    np.testing.assert_allclose(predicted, np.broadcast_to(counts[:36].mean(axis=(0, 1)), future.shape), rtol=1e-12)


def test_persistence_holds_the_last_value():
    fit, context, future = split(example("continuous"))
    predicted = Persistence().fit(*fit).predict(context)
    np.testing.assert_array_equal(predicted, np.broadcast_to(context[:, -1:], future.shape))


def test_trailing_mean_trusts_the_context_as_much_as_units_drift():
    still = TrailingMean("spikes").fit(*split(spike_counts(1, 0.0, 0.0)[0])[0]).chosen
    drifting = TrailingMean("spikes").fit(*split(spike_counts(1, 0.0, 1.0)[0])[0]).chosen
    assert still["prior_bins"] >= 200
    assert drifting == {"last_bins": CONTEXT, "prior_bins": drifting["prior_bins"]}
    assert drifting["prior_bins"] <= 10


def test_trailing_mean_is_the_gamma_posterior():
    counts = spike_counts(1, 0.0, 1.0)[0]
    fit, context, _ = split(counts)
    baseline = TrailingMean("spikes").fit(*fit)
    bins, prior = baseline.chosen["last_bins"], baseline.chosen["prior_bins"]
    train_bins = len(fit[0]) * (CONTEXT + HORIZON)
    means = counts[: len(fit[0])].mean(axis=(0, 1))
    means = (means * train_bins + 1) / (train_bins + 1 / means.mean())
    expected = (context[:, -bins:].sum(axis=1) + prior * means) / (bins + prior)
    np.testing.assert_allclose(baseline.predict(context)[:, 2], expected, rtol=1e-12)


def test_ridge_finds_what_units_share():
    counts, rates = spike_counts(2, 0.6, 0.0)
    best_possible = bits_per_spike(split(counts)[2], split(rates)[2])
    assert score(TrainMean("spikes"), counts) < 0.02
    assert 0.65 * best_possible < score(Ridge(), counts) < best_possible
    assert score(Ridge(), counts) > 1.2 * score(TrailingMean("spikes"), counts)


def test_ridge_finds_nothing_where_there_is_nothing():
    counts = spike_counts(3, 0.0, 0.0)[0]
    assert abs(score(Ridge(), counts) - score(TrainMean("spikes"), counts)) < 0.01
    mix = RidgeMix()
    assert abs(score(mix, counts) - score(TrainMean("spikes"), counts)) < 0.01
    assert mix.chosen["own_weight"] <= 0.15


@pytest.mark.parametrize("own", [0.3, 0.7])
def test_ridge_mix_adds_what_units_keep_to_themselves(own: float):
    counts = spike_counts(5, 0.5, own)[0]
    mix = RidgeMix()
    ridge_alone, trailing = score(Ridge(), counts), score(TrailingMean("spikes"), counts)
    assert score(mix, counts) > max(ridge_alone, trailing) + 0.01
    assert mix.chosen["own_weight"] >= 0.2


def test_ridge_mix_gives_way_where_units_share_nothing():
    """Large drifts of single units look like components to the ridge; the mix must not pay for them."""
    counts = spike_counts(4, 0.0, 1.0)[0]
    mix = RidgeMix()
    trailing = score(TrailingMean("spikes"), counts)
    assert score(mix, counts) > trailing - 0.01 > score(Ridge(), counts)
    assert mix.chosen["ridge_share"] < 1


def test_ridge_mix_is_the_stated_mixture():
    fit, context, _ = split(spike_counts(5, 0.5, 0.5)[0])
    mix = RidgeMix()
    mix.fit(*fit)
    weight, share, decay = (mix.chosen[key] for key in ("own_weight", "ridge_share", "own_decay_bins"))
    ages = np.arange(CONTEXT)[::-1]
    own = np.einsum("t,btc->bc", np.exp(-ages / decay), context) / np.exp(-ages / decay).sum()
    ridge = Ridge().fit(*fit).predict(context)[:, 0]
    train = np.concatenate(fit[:2], axis=1)
    base = (train.mean(axis=(0, 1)) + fit[1].mean(axis=(0, 1))) / 2
    bins = train.shape[0] * train.shape[1]
    base = (base * bins + 1) / (bins + 1 / base.mean())
    assert mix.chosen["parts"] == 1
    expected = (1 - weight) * (base + share * (ridge - base)) + weight * own
    np.testing.assert_allclose(mix.predict(context)[:, 3], expected, rtol=1e-9)


def test_ridge_follows_a_rate_that_changes_within_the_horizon():
    """Which way rates go after the middle of the horizon shows in the context: halves, not one mean."""
    rng = np.random.default_rng(5)
    direction = rng.choice([-1, 1], size=(300, 1, 1)) * rng.choice([-1, 1], size=20)
    time = np.r_[np.full(CONTEXT, 1), np.full(HORIZON // 2, 1), np.full(HORIZON // 2, -1)][:, None]
    counts = rng.poisson(0.5 * np.exp(0.6 * direction * time))
    baseline = Ridge()
    assert score(baseline, counts) > 0.15
    assert baseline.chosen["parts"] == 2


def test_ridge_rates_stay_above_a_share_of_the_mean():
    counts = spike_counts(6, 0.6, 0.0)[0]
    fit, context, _ = split(counts)
    baseline = Ridge()
    baseline.fit(*fit)
    silent, loud = np.zeros_like(context), 50 * np.ones_like(context)
    lowest = np.minimum(*(baseline.predict(extreme) for extreme in (silent, loud)))
    assert (baseline.base() > 0).all()
    assert (lowest / baseline.base()).min() == pytest.approx(0.1)


def test_a_unit_silent_in_training_keeps_a_rate():
    counts = spike_counts(7, 0.5, 0.3)[0]
    counts[:240, :, 0] = 0
    fit, context, _ = split(counts)
    for baseline in (TrailingMean("spikes"), Ridge()):
        assert (baseline.fit(*fit).predict(np.zeros_like(context))[..., 0] > 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("horizon", [1, 3])
def test_short_and_odd_horizons_are_forecast_in_full(horizon: int):
    counts = example("spikes")[:, : CONTEXT + horizon]
    fit, context, future = split(counts)
    assert RidgeMix().fit(*fit).predict(context).shape == future.shape


def test_ridge_autoregression_reaches_the_exact_predictor():
    signal, dynamics = linear_signal(8)
    fit, context, future = split(signal)
    scale, offset = np.array([1.0, 10.0, 0.1, 1.0]), np.array([0.0, 50.0, -3.0, 1.0])
    state, exact = (context[:, -1] - offset) / scale, []
    for _ in range(HORIZON):
        state = state @ dynamics.T
        exact.append(state * scale + offset)
    limit = r2(future, np.stack(exact, axis=1))
    scores = {name: r2(future, one.fit(*fit).predict(context)) for name, one in all_baselines("continuous").items()}
    assert limit > 0.4
    assert limit - 0.02 < scores["ridge AR"] < limit + 0.005
    assert abs(scores["train mean"]) < 0.02
    assert scores["ridge AR"] > max(scores["persistence"], scores["trailing mean"]) + 0.1


def test_selection_weighs_units_alike_whatever_their_scale():
    signal = linear_signal(9)[0]
    factor = np.array([1.0, 1e3, 1.0, 1e-3])
    for name in ("trailing mean", "ridge AR"):
        plain, scaled = all_baselines("continuous")[name], all_baselines("continuous")[name]
        fit, context, _ = split(signal)
        scaled.fit(*(part * factor for part in fit))
        assert scaled.chosen == plain.fit(*fit).chosen
        np.testing.assert_allclose(scaled.predict(context * factor), plain.predict(context) * factor, rtol=1e-6)


@pytest.mark.parametrize(("modality", "name"), ALL)
def test_validation_trials_choose_settings_and_train_nothing(modality: str, name: str):
    """The same validation trials twice choose the same settings, so every prediction stays as it was."""
    fit, context, _ = split(example(modality))
    once = all_baselines(modality)[name].fit(*fit)
    twice = all_baselines(modality)[name].fit(*fit[:2], *(np.concatenate([part, part]) for part in fit[2:]))
    assert once.chosen == twice.chosen
    np.testing.assert_allclose(once.predict(context), twice.predict(context), rtol=1e-9)


@pytest.mark.parametrize(("modality", "name"), ALL)
def test_a_forecast_uses_its_own_trial_only_and_edits_nothing(modality: str, name: str):
    fit, context, future = split(example(modality))
    before = [part.copy() for part in (*fit, context)]
    baseline = all_baselines(modality)[name].fit(*fit)
    together = baseline.predict(context)
    assert together.shape == future.shape
    np.testing.assert_allclose(baseline.predict(context[3:4]), together[3:4], rtol=1e-9)
    for part, copy in zip((*fit, context), before):
        np.testing.assert_array_equal(part, copy)


@pytest.mark.parametrize(("modality", "name"), ALL)
def test_mistakes_are_named(modality: str, name: str):
    fit, context, _ = split(example(modality))
    baseline = all_baselines(modality)[name]
    with pytest.raises(ValueError, match="call fit first"):
        baseline.predict(context)
    with pytest.raises(ValueError, match="valid_context has shape"):
        baseline.fit(fit[0], fit[1], fit[2][:0], fit[3][:0])
    with pytest.raises(ValueError, match="train_context has 36 trials and train_future has 35"):
        baseline.fit(fit[0], fit[1][1:], fit[2], fit[3])
    with pytest.raises(ValueError, match=r"valid_context has \d+: they must agree"):
        baseline.fit(fit[0], fit[1], fit[2][..., 1:], fit[3][..., 1:])
    with pytest.raises(ValueError, match="train_context holds 1 NaN or infinite"):
        baseline.fit(with_one_nan(fit[0]), *fit[1:])
    baseline.fit(*fit)
    with pytest.raises(ValueError, match="fitted with"):
        baseline.predict(context[..., 1:])


def with_one_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    values[0, 0, 0] = np.nan
    return values


def test_spikes_are_counts_and_there_are_some():
    fit, _, _ = split(example("spikes"))
    with pytest.raises(ValueError, match="negative values"):
        Ridge().fit(fit[0] - 1.0, *fit[1:])
    with pytest.raises(ValueError, match="no spikes"):
        Ridge().fit(0 * fit[0], 0 * fit[1], fit[2], fit[3])


def test_an_unknown_modality_is_refused():
    for make in (all_baselines, TrainMean, TrailingMean):
        with pytest.raises(ValueError, match="'calcium', expected one of: spikes, continuous"):
            make("calcium")


# Bits/spike of test trials on steinmetz2019, split and metric of shared/data/README.md: train mean, trailing
# mean, ridge, ridge mix. Over all 18 sessions the means are -0.089, 0.007, 0.100 and 0.134.
MEASURED = {
    "s03": (-0.0473, 0.0132, 0.0197, 0.0553),
    "s16": (-0.0963, 0.0786, 0.1677, 0.2251),
    "s18": (-0.1279, 0.1039, 0.1724, 0.2618),
}


@pytest.mark.parametrize("session", MEASURED)
def test_real_sessions_score_as_measured(session: str, real_data: Callable[[str], Path]):
    spikes = np.load(real_data("steinmetz2019") / f"steinmetz_{session}.npz")["spikes"]
    order = np.random.default_rng(0).permutation(len(spikes))
    train, valid, test = np.split(spikes[order], [int(0.7 * len(order)), int(0.8 * len(order))])
    fit = [part for trials in (train, valid) for part in (trials[:, :30], trials[:, 30:])]
    scores = [
        bits_per_spike(test[:, 30:], baseline.fit(*fit).predict(test[:, :30]))
        for baseline in all_baselines("spikes").values()
    ]
    np.testing.assert_allclose(scores, MEASURED[session], atol=0.002)
