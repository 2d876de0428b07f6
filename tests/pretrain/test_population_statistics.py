"""Statistics of generated activity against LDNS's own formulas and known correlations."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from neurochorus.pretrain.evaluation.population_statistics import (
    bulk_count,
    correlation_rmse,
    full_matrix_rmse,
    mean_rates,
    pairwise_correlations,
    population_count_kl,
)


def shared_input_counts(rng: np.random.Generator, shared: float, trials: int = 400) -> np.ndarray:
    """Poisson counts (trials, 20, 5) of mean 1 whose pairs correlate by `shared`: a common Poisson input."""
    common = rng.poisson(shared, size=(trials, 20, 1))
    return common + rng.poisson(1 - shared, size=(trials, 20, 5))


def test_mean_rates_are_spikes_per_second():
    counts = np.zeros((2, 5, 2), dtype=np.uint8)
    counts[0, :, 1] = 1
    np.testing.assert_allclose(mean_rates(counts, bin_s=0.01), [0.0, 50.0])


def test_correlations_are_those_of_the_shared_input():
    counts = shared_input_counts(np.random.default_rng(0), shared=0.4)
    pairs = pairwise_correlations(counts)[np.tril_indices(5, k=-1)]
    np.testing.assert_allclose(pairs, 0.4, atol=0.05)


def test_correlation_rmse_relates_to_that_of_ldns():
    """LDNS: np.tril(k=-1) on both, then the root mean square over all N x N entries."""
    rng = np.random.default_rng(1)
    generated, recorded = shared_input_counts(rng, 0.1), shared_input_counts(rng, 0.4)
    lower = [np.tril(np.corrcoef(counts.reshape(-1, 5).T), k=-1) for counts in (generated, recorded)]
    ldns = np.sqrt(np.mean((lower[0] - lower[1]) ** 2))
    value = correlation_rmse(generated, recorded)
    assert value == pytest.approx(0.3, abs=0.05)
    assert ldns == pytest.approx(value * np.sqrt(4 / 10), rel=1e-9)
    matrices = (pairwise_correlations(counts) for counts in (generated, recorded))
    assert full_matrix_rmse(*matrices) == pytest.approx(ldns, rel=1e-9)


def test_silent_units_are_left_out_of_the_correlations():
    rng = np.random.default_rng(2)
    generated, recorded = shared_input_counts(rng, 0.1), shared_input_counts(rng, 0.4)
    expected = correlation_rmse(generated[..., :4], recorded[..., :4])
    generated[..., 4] = 0
    assert np.isnan(pairwise_correlations(generated)[4]).all()
    assert correlation_rmse(generated, recorded) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="no pair"):
        correlation_rmse(np.zeros_like(recorded), recorded)
    with pytest.raises(ValueError, match="have 4 units, recorded ones 5"):
        correlation_rmse(generated[..., :4], recorded)


def test_population_count_kl_is_that_of_ldns():
    rng = np.random.default_rng(3)
    generated, recorded = shared_input_counts(rng, 0.1), shared_input_counts(rng, 0.4)
    totals = [counts.sum(axis=2).ravel() for counts in (generated, recorded)]
    support = np.arange(0, max(total.max() for total in totals) + 1)
    densities = [gaussian_kde(total)(support) for total in totals]
    p, q = (density / density.sum() for density in densities)
    assert population_count_kl(generated, recorded) == pytest.approx(np.nansum(p * np.log(p / q)), rel=1e-12)
    assert population_count_kl(generated, recorded) > 0.1
    assert population_count_kl(recorded, recorded) == 0


def test_halves_of_the_same_data_are_near_and_the_largest_count_matters():
    rng = np.random.default_rng(4)
    recorded, generated = shared_input_counts(rng, 0.4), shared_input_counts(rng, 0.1)
    assert population_count_kl(recorded[::2], recorded[1::2]) < 0.01
    whole = population_count_kl(generated, recorded)
    assert population_count_kl(generated, recorded, largest_count=3) != pytest.approx(whole, rel=0.05)


def test_a_bin_far_out_moves_the_divergence_but_not_that_of_the_bulk():
    rng = np.random.default_rng(6)
    recorded, generated = shared_input_counts(rng, 0.4), shared_input_counts(rng, 0.4)
    bulk = bulk_count(recorded)
    assert (recorded.sum(axis=2) <= bulk).mean() >= 0.999
    before = population_count_kl(generated, recorded, bulk)
    generated[0, 0] = 50
    assert population_count_kl(generated, recorded) == np.inf
    assert population_count_kl(generated, recorded, bulk) == pytest.approx(before, abs=2e-3)


def test_activity_without_variation_has_no_density():
    recorded = shared_input_counts(np.random.default_rng(5), 0.4)
    with pytest.raises(ValueError, match="every bin of the generated counts holds 0 spikes"):
        population_count_kl(np.zeros_like(recorded), recorded)
