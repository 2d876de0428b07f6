"""Shrinking: closed forms, and whether it pays on units whose rates are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.recording import Segment
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.unit_columns import UnitColumns
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import UnitStatistics
from neurochorus.pretrain.adaptation.random_effects import RandomEffects
from neurochorus.pretrain.adaptation.rate_prior import RatePrior, dispersion_of
from tests.data_shards.conftest import small_recording
from tests.models.conftest import entry

SHAPE, FACTORS = 1.5, {"VISp": 0.5, "CA1": 1.0, "TH": 2.0}
BINS_A_TRIAL = 40


def session(name: str, rates: np.ndarray, regions: list[str] | None, bins: int = 4000) -> SessionEntry:
    made = entry(name, name[0], len(rates))
    columns = {"unit_id": made.unit_ids, "region": regions or [""] * len(rates)}
    return replace(made, units=UnitColumns(columns), unit_mean=rates, train_bins=bins)


def drawn(generator: np.random.Generator, units: int, shape: float = SHAPE) -> tuple[np.ndarray, list[str]]:
    """Rates of a session's units and their regions; sessions and their regions differ."""
    scale = 0.05 * np.exp(0.3 * generator.normal())
    regions = generator.choice(list(FACTORS), units).tolist()
    here = {name: factor * np.exp(0.15 * generator.normal()) for name, factor in FACTORS.items()}
    return generator.gamma(shape, [scale * here[region] / shape for region in regions]), regions


def learned(sessions: list[SessionEntry]) -> RatePrior:
    rates = np.concatenate([[0.0], *(one.unit_mean for one in sessions)])
    return RatePrior.learned(UnitRegistry.from_sessions(sessions), rates)


def test_random_effects_are_those_of_the_analysis_of_variance() -> None:
    values = np.array([[1.0], [3.0], [7.0], [9.0], [11.0], [13.0]])
    groups = ["a", "a", "b", "b", "c", "c"]
    made = RandomEffects.of(values, groups)
    # group means 2, 8, 12; within 2 a group; between = (mean square of groups - within) / 2
    within, between = 2.0, (2 * ((2 - 22 / 3) ** 2 + (8 - 22 / 3) ** 2 + (12 - 22 / 3) ** 2) / 2 - 2) / 2
    assert made.within_K == pytest.approx(within)
    assert made.between_K == pytest.approx(between)
    trust = between / (between + within / 2)
    assert made.means["a"] == pytest.approx(22 / 3 + trust * (2 - 22 / 3))
    mean_K, variance_K = made.expected("a")
    assert mean_K == made.means["a"]
    assert variance_K == pytest.approx(within + 1 / (1 / between + 2 / within))
    assert made.expected("new")[1] == pytest.approx(within + between)


def test_groups_that_do_not_differ_are_one() -> None:
    generator = np.random.default_rng(0)
    made = RandomEffects.of(generator.normal(size=(400, 1)), [f"g{i % 40}" for i in range(400)])
    assert all(abs(mean[0] - made.mean_K[0]) < 0.15 for mean in made.means.values())


def test_the_posterior_mean_is_the_closed_form() -> None:
    # one session of one region: its mean is the prior's
    prior = learned([session("a1", np.array([0.1, 0.2, 0.3, 0.4]), None)])
    new = session("b1", np.array([0.0, 0.5, 0.2, 0.3]), None, bins=1_000_000)
    made = prior.rates(new)
    np.testing.assert_allclose(made.prior_C, 0.25, rtol=1e-3)
    expected = (new.unit_mean * 1e6 + prior.shape) / (1e6 + prior.shape / made.prior_C)
    np.testing.assert_allclose(made.rate_C, expected, rtol=1e-12)
    assert made.rate_C[0] > 0
    assert (made.worth, prior.rates(new, dispersion=3.0).worth) == (prior.shape, 3 * prior.shape)


def test_the_shape_is_that_of_maximum_likelihood() -> None:
    rates = np.random.default_rng(4).gamma(0.8, 0.1, 3000)
    shape, _, _ = scipy.stats.gamma.fit(rates, floc=0)
    assert learned([session("a1", rates, None)]).shape == pytest.approx(shape, rel=0.02)


def test_the_variance_of_rates_and_the_factors_of_regions_are_found() -> None:
    generator = np.random.default_rng(1)
    prior = learned([session(f"a{i}", *drawn(generator, 400)) for i in range(12)])
    assert prior.shape == pytest.approx(SHAPE, rel=0.1)
    overall = np.mean(list(FACTORS.values()))
    for name, factor in FACTORS.items():
        assert prior.factors[name].mean == pytest.approx(factor / overall, rel=0.15)
    assert prior.factors[""].variance > prior.factors["CA1"].variance


@pytest.mark.parametrize(("shape", "with_regions"), [(SHAPE, True), (8.0, False)])
def test_shrunk_rates_predict_better_than_one_spike_and_than_raw_ones(shape: float, with_regions: bool) -> None:
    generator = np.random.default_rng(2)

    def made(name: str, units: int) -> tuple[SessionEntry, np.ndarray]:
        rates, regions = drawn(generator, units, shape)
        return session(name, rates, regions if with_regions else None), rates

    prior, bins = learned([made(f"a{i}", 300)[0] for i in range(6)]), 10 * BINS_A_TRIAL
    losses = np.zeros(3)
    for number in range(5):
        new, rates = made(f"b{number}", 200)
        counts = generator.poisson(rates * bins)
        seen = replace(new, unit_mean=counts / bins, train_bins=bins)
        raw = np.maximum(seen.unit_mean, 1e-4)
        one_spike = UnitStatistics.of([seen]).mean.double().numpy()
        for place, estimate in enumerate((prior.rates(seen).rate_C, one_spike, raw)):
            losses[place] += (estimate - rates * np.log(estimate)).sum()  # expected Poisson loss of a bin
    assert losses[0] < losses[1] < losses[2]


def test_a_silent_session_has_the_rate_of_others() -> None:
    generator = np.random.default_rng(3)
    prior = learned([session(f"a{i}", *drawn(generator, 50)) for i in range(5)])
    made = prior.rates(session("b1", np.zeros(20), None, bins=40))
    assert np.isfinite(made.rate_C).all()
    assert (made.rate_C > 0.002).all()
    assert (made.rate_C < 0.06).all()


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_dispersion_is_one_for_poisson_counts_and_more_for_units_that_drift(tmp_path: Path, drift: float) -> None:
    generator, trials, bins, units = np.random.default_rng(6), 200, 10, 20
    rate = 0.4 * generator.gamma(1 / drift, drift, (trials, 1, units)) if drift else np.full((trials, 1, units), 0.4)
    counts = generator.poisson(np.repeat(rate, bins, axis=1)).reshape(-1, units).astype(np.uint8)
    segments = [Segment(i * bins, (i + 1) * bins, "train") for i in range(trials)]
    made = small_recording("a1", "anna", units, 3, 0, signal_TC=counts, segments=segments)
    write_dataset([made], tmp_path / "data", name="small", sample_bins=bins)
    found = dispersion_of(Corpus(tmp_path / "data"), "a1")
    assert found == pytest.approx(1 + drift * 0.4 * bins, rel=0.1)  # variance m + drift m^2, m = 0.4 * bins


def test_groups_of_one_member_each_are_no_evidence_that_members_are_alike() -> None:
    values = np.random.default_rng(4).normal(size=(20, 3), scale=0.3)
    made = RandomEffects.of(values, [f"g{number}" for number in range(20)])
    np.testing.assert_allclose(made.within_K, values.var(axis=0, ddof=1))
    mean_K, variance_K = made.expected("never seen")
    np.testing.assert_allclose(mean_K, values.mean(axis=0))
    np.testing.assert_allclose(variance_K, values.var(axis=0, ddof=1))
