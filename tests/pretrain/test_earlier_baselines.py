"""Baselines that read earlier samples: the posterior mean, and what they gain where units drift."""

import numpy as np
import pytest

from neurochorus.data_shards.earlier import Earlier
from neurochorus.pretrain.evaluation.earlier_baselines import EarlierMean, EarlierRidgeMix
from neurochorus.pretrain.evaluation.metrics import bits_per_spike
from neurochorus.pretrain.evaluation.ridge_forecasts import RidgeMix

CONTEXT, HORIZON, UNITS = 12, 4, 6
MEMORY = 80.0


@pytest.fixture(scope="module")
def drifting() -> dict[str, tuple[np.ndarray, Earlier]]:
    """Counts (trials, bins, units) of units whose rates wander from trial to trial, and what came before each trial."""
    generator = np.random.default_rng(0)
    trials, bins = 240, CONTEXT + HORIZON
    drift = np.zeros((trials, UNITS))
    for trial in range(1, trials):  # sd 0.8, over some 20 trials
        drift[trial] = 0.95 * drift[trial - 1] + 0.25 * generator.standard_normal(UNITS)
    log_rate = np.log(0.1) + drift
    counts = generator.poisson(np.exp(log_rate)[:, None], (trials, bins, UNITS))
    split = generator.permutation(np.repeat(["train", "valid", "test"], [160, 30, 50]))
    found = {}
    for name in ("train", "valid", "test"):
        places = np.flatnonzero(split == name)
        befores = []
        for place in places:
            earlier_TC = counts[:place][split[:place] == "train"].reshape(-1, UNITS)
            befores.append(Earlier.of(earlier_TC, MEMORY))
        sums, worth = (np.concatenate([getattr(one, field) for one in befores]) for field in ("sums_NC", "bins_N"))
        found[name] = counts[places], Earlier(sums, worth)
    return found


def test_the_own_mean_is_the_posterior_mean(drifting: dict[str, tuple[np.ndarray, Earlier]]) -> None:
    train, (valid, before) = drifting["train"][0], drifting["valid"]
    own = EarlierMean().fit(train, valid[:, :CONTEXT], valid[:, CONTEXT:], before)
    trial, unit, inner, outer, share = 4, 2, 20.0, 60.0, 1 / 3
    bins = train.shape[0] * train.shape[1]
    every = train.mean(axis=(0, 1))
    usual = (every[unit] * bins + 1) / (bins + 1 / every.mean())
    level = (before.sums_NC[trial, unit] + outer * usual) / (before.bins_N[trial] + outer)
    weight_T = np.exp(-np.arange(CONTEXT)[::-1] / (share * CONTEXT))
    expected = (weight_T @ valid[trial, :CONTEXT, unit] + inner * level) / (weight_T.sum() + inner)
    found = own.means(valid[:, :CONTEXT].astype(float), before, (inner, outer, share))
    assert found.shape == (30, 1, UNITS)
    assert found[trial, 0, unit] == pytest.approx(expected)


def test_where_units_drift_they_beat_those_that_read_the_context_alone(
    drifting: dict[str, tuple[np.ndarray, Earlier]],
) -> None:
    train = drifting["train"][0].astype(float)
    (valid, before_valid), (test, before_test) = drifting["valid"], drifting["test"]
    contexts = [values[:, :CONTEXT].astype(float) for values in (train, valid, test)]
    futures = [values[:, CONTEXT:].astype(float) for values in (train, valid, test)]
    mix = RidgeMix()
    mix.fit(contexts[0], futures[0], contexts[1], futures[1])
    own = EarlierMean().fit(train, contexts[1], futures[1], before_valid)
    both = EarlierRidgeMix(mix, own).fit(contexts[1], futures[1], before_valid)
    plain = bits_per_spike(futures[2], mix.predict(contexts[2]))
    rates = {"own": own.predict(contexts[2], before_test), "both": both.predict(contexts[2], before_test)}
    scores = {name: bits_per_spike(futures[2], np.broadcast_to(r, futures[2].shape)) for name, r in rates.items()}
    assert scores["own"] > plain + 0.02
    assert scores["both"] > plain + 0.02
    nothing = Earlier(np.zeros_like(before_test.sums_NC), np.zeros_like(before_test.bins_N))
    blind = bits_per_spike(futures[2], np.broadcast_to(own.predict(contexts[2], nothing), futures[2].shape))
    assert blind < scores["own"] - 0.02
