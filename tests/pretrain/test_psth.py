"""PSTHs as forecasts, and PSTH R2 against nlb_tools' formula."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.psth import Psth, condition_psth_r2, psth_rates, smoothed_psth

BINS, CONTEXT, UNITS = 20, 12, 8


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def trials(rng: np.random.Generator, rates_TC: np.ndarray, count: int) -> np.ndarray:
    return rng.poisson(rates_TC, size=(count, *rates_TC.shape))


def bumps(rng: np.random.Generator) -> np.ndarray:
    """Rates (T, C) that rise and fall once, at another bin in every unit."""
    centre_C = rng.uniform(0, BINS, UNITS)
    return 0.2 + 1.5 * np.exp(-0.5 * ((np.arange(BINS)[:, None] - centre_C) / 2.5) ** 2)


def fitted(rng: np.random.Generator, rates_TC: np.ndarray, count: int = 120) -> Psth:
    split = [part for _ in range(2) for part in np.split(trials(rng, rates_TC, count), [CONTEXT], axis=1)]
    psth = Psth("spikes")
    psth.fit(*split)
    return psth


def test_a_psth_of_many_trials_reaches_the_score_of_the_true_rates(rng):
    rates_TC = bumps(rng)
    test = trials(rng, rates_TC, 400)
    predicted = fitted(rng, rates_TC).predict(test[:, :CONTEXT])
    future = test[:, CONTEXT:]
    possible = bits_per_spike(future, np.broadcast_to(rates_TC[CONTEXT:], future.shape))
    assert possible > 0.1
    assert possible - 0.02 < bits_per_spike(future, predicted) < possible + 0.001


def test_trials_that_are_not_aligned_give_the_train_mean(rng):
    """Each trial is a cut at a random place of an endless rhythm: there is nothing to know at a bin of the window."""
    phase_N = rng.uniform(0, 2 * np.pi, 80)
    rates_NTC = 0.5 + 0.4 * np.sin(phase_N[:, None, None] + np.arange(BINS)[:, None] + np.arange(UNITS))
    counts = rng.poisson(rates_NTC)
    found, chosen = psth_rates(counts[:40], counts[40:], "spikes")
    assert chosen["prior_trials"] >= 100
    assert np.ptp(found, axis=0).max() < 0.15 * found.mean()


def test_a_psth_of_few_trials_is_shrunk_and_never_zero(rng):
    rates_TC = np.full((BINS, UNITS), 0.05)
    few = fitted(rng, rates_TC, count=4)
    assert few.chosen["prior_trials"] >= 10
    assert (few.predict(np.zeros((2, CONTEXT, UNITS))) > 0).all()


def nlb_eval_psth(psth: np.ndarray, eval_rates: np.ndarray, eval_cond_idx: list[np.ndarray]) -> float:
    """nlb_tools evaluation.py `eval_psth` without jitter."""
    true_list, pred_list = [], []
    for i in range(len(eval_cond_idx)):
        if eval_cond_idx[i].size == 0:
            continue
        pred_psth = np.mean([eval_rates[idx] for idx in eval_cond_idx[i]], axis=0)
        true_list.append(psth[i][~np.isnan(psth[i, :, 0])])
        pred_list.append(pred_psth[~np.isnan(psth[i, :, 0])])
    return r2_score(np.vstack(true_list), np.vstack(pred_list))


def test_psth_r2_is_that_of_nlb_tools(rng):
    conditions = rng.integers(0, 3, size=30)
    conditions[conditions == 2] = -1  # too few trials: no true PSTH, and left out
    rates = rng.gamma(2.0, 0.3, size=(30, BINS, UNITS))
    psth = rng.gamma(2.0, 0.3, size=(2, BINS, UNITS))
    expected = nlb_eval_psth(psth, rates, [np.flatnonzero(conditions == place) for place in range(2)])
    assert condition_psth_r2(rates, conditions, dict(enumerate(psth))) == pytest.approx(expected, rel=1e-9)
    # a condition that no evaluated trial has changes nothing
    more = {**dict(enumerate(psth)), 7: rng.normal(size=(BINS, UNITS))}
    assert condition_psth_r2(rates, conditions, more) == pytest.approx(expected, rel=1e-9)
    true, made = (np.concatenate([one[place] for place in range(2)]) for one in (psth, {
        place: rates[conditions == place].mean(axis=0) for place in range(2)}))  # fmt: skip
    weighted = r2_score(true, made, multioutput="variance_weighted")
    found = condition_psth_r2(rates, conditions, dict(enumerate(psth)), "variance")
    assert found == pytest.approx(weighted, rel=1e-9)
    with pytest.raises(ValueError, match="no trial has a condition"):
        condition_psth_r2(rates, np.full(30, -1), more)


def test_true_rates_have_psth_r2_near_one_and_shuffled_conditions_do_not(rng):
    psths = np.stack([bumps(rng) for _ in range(4)])
    conditions = np.arange(80) % 4
    counts = rng.poisson(psths[np.arange(800) % 4])
    truth = {place: smoothed_psth(counts[place::4], 1.0) for place in range(4)}
    assert condition_psth_r2(psths[conditions], conditions, truth) > 0.9
    assert condition_psth_r2(psths[(conditions + 1) % 4], conditions, truth) < 0.0
    mean = np.broadcast_to(np.concatenate(list(truth.values())).mean(axis=0), psths[conditions].shape)
    assert condition_psth_r2(mean, conditions, truth) == pytest.approx(0.0, abs=1e-9)


def test_smoothing_keeps_the_mean_of_a_flat_psth():
    flat = np.ones((3, BINS, 2))
    np.testing.assert_allclose(smoothed_psth(flat, 2.0), 1.0)
    assert r2(np.arange(4.0)[:, None], smoothed_psth(np.arange(4.0)[None, :, None], 0.0)) == 1.0
