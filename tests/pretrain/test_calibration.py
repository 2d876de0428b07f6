"""Calibration against closed forms, scoringrules and ensembles that are perfect, narrow or shifted by construction."""

import doctest
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scoringrules
from scipy.stats import norm

from neurochorus.data_shards.importers.linear_gaussian import forecast, make_system, simulate
from neurochorus.data_shards.recipe_synthetic import LinearGaussianRecipe
from neurochorus.pretrain.evaluation import calibration
from neurochorus.pretrain.evaluation.calibration import (
    LEVELS,
    EnsembleScores,
    coverage,
    ensemble_scores,
    plain_interval_coverage,
    rank_histogram,
    rank_shares,
    spread_skill,
)
from neurochorus.pretrain.evaluation.calibration_file import read_calibration
from neurochorus.pretrain.evaluation.calibration_pictures import Method, calibration_picture, crps_gap
from neurochorus.pretrain.evaluation.calibration_summary import calibration_summary
from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.evaluation.metrics import central_coverage, fair_crps
from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.recalibration import inflate, inflation_factors
from neurochorus.pretrain.reporting.calibration_section import calibration_section, methods_of

SCALES_H = np.array([0.5, 1.0, 3.0])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def gaussian(
    rng: np.random.Generator, samples: int, windows: int = 400, width: float = 1.0, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Recorded (N, 3, 4) and samples (S, N, 3, 4) around means of their own, `width` times as wide as the recorded."""
    mean = 2 * rng.normal(size=(windows, 3, 4))
    noise = SCALES_H[:, None] * rng.normal(size=(samples + 1, windows, 3, 4))
    return mean + noise[0], mean + shift * SCALES_H[:, None] + width * noise[1:]


def counts(rng: np.random.Generator, samples: int, windows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rates = rng.gamma(0.5, 0.8, size=(windows, 3, 10))
    drawn = rng.poisson(rates, size=(samples + 1, *rates.shape)).astype(np.uint8)
    return drawn[0], drawn[1:]


def covered(scores: EnsembleScores, level: float) -> np.ndarray:
    return coverage(scores.rank_NHR.mean(axis=0), level)


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(calibration)
    assert (results.attempted, results.failed) == (1, 0)


@pytest.mark.parametrize("samples", [2, 7, 32])
def test_a_perfect_ensemble_covers_every_level_at_every_lead_whatever_its_size(rng, samples: int):
    scores = ensemble_scores(*gaussian(rng, samples, windows=4000))
    for level in LEVELS:
        np.testing.assert_allclose(covered(scores, level), level, atol=0.015)
    np.testing.assert_allclose(rank_histogram(scores.rank_NHR.mean(axis=(0, 1))), 0.05, atol=0.005)
    ratio_H = spread_skill(scores.variance_NH.mean(axis=0), scores.squared_error_NH.mean(axis=0), samples)
    np.testing.assert_allclose(ratio_H, 1.0, atol=0.025)


@pytest.mark.parametrize("width", [0.5, 0.8, 1.5])
def test_an_ensemble_of_known_width_covers_what_it_should(rng, width: float):
    """With many samples the central interval ends at width * z: it holds 2 Phi(width z) - 1 of the recorded values."""
    scores = ensemble_scores(*gaussian(rng, 150, windows=300, width=width))
    for level in LEVELS:
        expected = 2 * norm.cdf(width * norm.ppf((1 + level) / 2)) - 1
        np.testing.assert_allclose(covered(scores, level), expected, atol=0.04)
        assert covered(scores, level).mean() == pytest.approx(expected, abs=0.02)
    ratio_H = spread_skill(scores.variance_NH.mean(axis=0), scores.squared_error_NH.mean(axis=0), 150)
    np.testing.assert_allclose(ratio_H, width, rtol=0.05)


def test_ranks_show_what_is_wrong_with_an_ensemble(rng):
    def histogram(**what: Any) -> np.ndarray:
        return rank_histogram(ensemble_scores(*gaussian(rng, 16, **what)).rank_NHR.mean(axis=(0, 1)), bins=4)

    narrow, wide, high = histogram(width=0.5), histogram(width=2.0), histogram(shift=1.0)
    assert min(narrow[[0, 3]]) > 0.3 > 0.2 > max(narrow[1:3])
    assert max(wide[[0, 3]]) < 0.2 < 0.3 < min(wide[1:3])
    assert (np.diff(high) < 0).all()


@pytest.mark.parametrize("make", [gaussian, counts])
def test_coverage_is_that_of_the_other_definition(rng, make):
    observed, samples = make(rng, 9, windows=20)
    scores = ensemble_scores(observed, samples)
    for level in LEVELS:
        for lead in range(3):
            expected = central_coverage(observed[:, lead], samples[:, :, lead], level)
            assert covered(scores, level)[lead] == pytest.approx(expected, abs=1e-9)


def test_spreading_ties_evenly_is_the_mean_over_randomised_ranks(rng):
    observed, samples = counts(rng, 6, windows=1)
    draws = []
    for _ in range(4000):
        break_ties = rng.random((7, *observed.shape))  # a random order of equal counts
        keys = np.concatenate([observed[None], samples]) + 0.5 * break_ties
        rank = (keys[1:] < keys[0]).sum(axis=0)
        draws.append((rank + rng.random(rank.shape)) / 7)
    expected = np.histogram(np.array(draws), bins=10, range=(0, 1))[0] / np.size(draws)
    exact = rank_histogram(ensemble_scores(observed, samples).rank_NHR.mean(axis=(0, 1)), bins=10)
    np.testing.assert_allclose(exact, expected, atol=0.004)


def test_ranks_by_hand():
    samples = np.array([1.0, 2.0, 2.0])[:, None, None] * np.ones((1, 1, 4))
    observed = np.array([[0.0, 1.5, 2.0, 9.0]])
    np.testing.assert_allclose(
        rank_shares(observed, samples)[0], [1 / 4, (1 + 1 / 3) / 4, (1 / 3) / 4, (1 + 1 / 3) / 4]
    )
    assert coverage(np.array([0.25, 0.25, 0.25, 0.25]), 0.5) == 0.5
    np.testing.assert_allclose(rank_histogram(np.array([1.0, 0.0, 0.0]), 2), [1, 0])
    np.testing.assert_allclose(rank_histogram(np.array([0.0, 1.0, 0.0]), 2), [0.5, 0.5])
    with pytest.raises(ValueError, match="level is 90"):
        coverage(np.ones(3) / 3, 90)


def test_plain_quantiles_cover_less_by_the_amount_stated(rng):
    for samples, level in ((32, 0.9), (8, 0.5)):
        drawn = rng.random((samples + 1, 40_000))
        low, high = np.quantile(drawn[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
        inside = ((drawn[0] >= low) & (drawn[0] <= high)).mean()
        assert inside == pytest.approx(plain_interval_coverage(level, samples), abs=0.008)
    assert plain_interval_coverage(0.9, 32) < 0.85


@pytest.mark.parametrize("make", [gaussian, counts])
def test_scores_are_those_of_scoringrules(rng, make):
    observed, samples = make(rng, 6, windows=5)
    scores = ensemble_scores(observed, samples)
    y, x = observed.astype(float), np.moveaxis(samples.astype(float), 0, 2)  # (N, H, L), (N, H, S, L)
    options: dict[str, Any] = {"estimator": "fair", "backend": "numpy"}
    crps = scoringrules.crps_ensemble(y, x, m_axis=2, **options)
    np.testing.assert_allclose(scores.crps_NH, crps.mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(scores.crps_NH, fair_crps(y, samples).mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(scores.energy_NH, scoringrules.es_ensemble(y, x, **options), rtol=1e-5)
    variogram = scoringrules.vs_ensemble(y, x, p=0.5, **options)
    np.testing.assert_allclose(scores.variogram_NH, variogram, rtol=1e-4, atol=1e-4)
    bins, channels = y.shape[1:]
    y, x = y.reshape(5, -1), x.swapaxes(1, 2).reshape(5, 6, -1)  # the whole stretch as one vector
    np.testing.assert_allclose(scores.stretch_energy_N, scoringrules.es_ensemble(y, x, **options), rtol=1e-5)
    apart = np.abs(np.subtract.outer(np.arange(bins), np.arange(bins)))
    weights = np.kron(np.isin(apart, [1, 2, 4, 8]), np.eye(channels))
    stretch = scoringrules.vs_ensemble(y, x, weights, p=0.5, **options)
    np.testing.assert_allclose(scores.stretch_variogram_N, stretch, rtol=1e-4, atol=1e-4)


def test_small_counts_go_the_fast_way_to_the_same_scores(rng):
    observed, samples = counts(rng, 12, windows=6)
    samples[3, 2, 1, 4] = 200
    fast, slow = ensemble_scores(observed, samples), ensemble_scores(observed.astype(float), samples.astype(float))
    for name, value in vars(fast).items():
        np.testing.assert_allclose(value, getattr(slow, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_perfect_ensemble_of_sparse_counts_covers_every_level(rng):
    scores = ensemble_scores(*counts(rng, 16, windows=3000))
    for level in LEVELS:
        np.testing.assert_allclose(covered(scores, level), level, atol=0.01)
    np.testing.assert_allclose(rank_histogram(scores.rank_NHR.mean(axis=(0, 1))), 0.05, atol=0.002)
    ratio = spread_skill(scores.variance_NH.mean(), scores.squared_error_NH.mean(), 16)
    assert ratio == pytest.approx(1.0, abs=0.03)


def test_the_exact_forecast_of_a_linear_gaussian_system_is_calibrated_and_a_bolder_one_is_not(rng):
    recipe = LinearGaussianRecipe(decay=[0.9], period_bins=[20.0])
    system = make_system(recipe, 6, rng, rng)
    latents, signal = simulate(system, np.zeros((400, 25, 0)), rng)
    drawn = []
    for window in signal:
        exact = forecast(system, window[:20], 5)
        root = np.linalg.cholesky(exact.latent_covariance_HLL)
        drawn.append(exact.latent_mean_HL + np.einsum("hlk,shk->shl", root, rng.normal(size=(24, 5, 2))))
    samples = np.stack(drawn, axis=1)
    right = ensemble_scores(latents[:, 20:], samples)
    for level in LEVELS:
        np.testing.assert_allclose(covered(right, level), level, atol=0.05)
        assert covered(right, level).mean() == pytest.approx(level, abs=0.02)
    bold = ensemble_scores(latents[:, 20:], inflate(samples, np.full(5, 0.7)))
    assert (covered(bold, 0.9) < 0.85).all()
    assert (bold.crps_NH.mean(axis=0) > right.crps_NH.mean(axis=0)).all()


def test_scores_do_not_depend_on_the_number_of_samples(rng):
    few, many = (ensemble_scores(*gaussian(rng, samples, windows=3000)) for samples in (3, 24))
    for name in ("crps_NH", "energy_NH", "variogram_NH"):
        first, second = (getattr(scores, name).mean(axis=0) for scores in (few, many))
        np.testing.assert_allclose(first, second, rtol=0.08, err_msg=name)


def test_only_joint_scores_see_how_channels_and_bins_go_together(rng):
    """Samples whose channels, or bins, are shuffled have the same CRPS; the scores of vectors are worse."""
    noise = rng.normal(size=(25, 800, 4, 1)) + 0.3 * rng.normal(size=(25, 800, 4, 6))
    right = ensemble_scores(noise[0], noise[1:])
    channels = np.stack([np.roll(noise[1:, ..., k], k, axis=0) for k in range(6)], axis=-1)
    wrong = ensemble_scores(noise[0], channels)
    np.testing.assert_allclose(wrong.crps_NH, right.crps_NH, rtol=1e-9)
    assert wrong.energy_NH.mean() > 1.04 * right.energy_NH.mean()
    assert wrong.variogram_NH.mean() > 1.5 * right.variogram_NH.mean()
    walk = noise.cumsum(axis=2)
    right = ensemble_scores(walk[0], walk[1:])
    bins = np.stack([np.roll(walk[1:, :, k], k, axis=0) for k in range(4)], axis=2)
    wrong = ensemble_scores(walk[0], bins)
    np.testing.assert_allclose(wrong.energy_NH, right.energy_NH, rtol=1e-9)
    assert wrong.stretch_energy_N.mean() > 1.01 * right.stretch_energy_N.mean()
    assert wrong.stretch_variogram_N.mean() > 1.2 * right.stretch_variogram_N.mean()


def test_one_channel_or_one_bin_have_no_pairs_and_many_channels_no_variogram(rng):
    one = ensemble_scores(rng.normal(size=(2, 1, 1)), rng.normal(size=(5, 2, 1, 1)))
    assert np.isnan(one.variogram_NH).all()
    assert np.isnan(one.stretch_variogram_N).all()
    np.testing.assert_allclose(one.energy_NH, one.crps_NH)
    many = ensemble_scores(rng.normal(size=(1, 3, 65)), rng.normal(size=(5, 1, 3, 65)))
    assert np.isnan(many.variogram_NH).all()
    assert np.isfinite(many.energy_NH).all()


def test_what_cannot_be_ranked_is_refused(rng):
    observed, samples = gaussian(rng, 4, windows=2)
    with pytest.raises(ValueError, match="at least 2 samples"):
        ensemble_scores(observed, samples[:1])
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3, 4\), what was recorded \(2, 3, 3\)"):
        ensemble_scores(observed[..., :3], samples)
    samples[2, 0, 1, 1] = np.inf
    with pytest.raises(ValueError, match="samples are NaN or infinite at 1 of 96 places"):
        ensemble_scores(observed, samples)


# recalibration


@pytest.mark.parametrize("width", [0.6, 1.4])
def test_factors_undo_a_known_width_on_other_trials(rng, width: float):
    valid = [ensemble_scores(*gaussian(rng, 32, windows=1500, width=width)) for _ in range(2)]
    factor_H = inflation_factors(valid, 32)
    np.testing.assert_allclose(factor_H, 1 / width, rtol=0.04)
    observed, samples = gaussian(rng, 32, windows=1500, width=width)
    wider = inflate(samples, factor_H)
    np.testing.assert_allclose(wider.mean(axis=0), samples.mean(axis=0), atol=1e-12)
    scores = ensemble_scores(observed, wider)
    for level in LEVELS:
        np.testing.assert_allclose(covered(scores, level), level, atol=0.025)


def test_equal_samples_have_no_factor(rng):
    observed, samples = gaussian(rng, 4, windows=5)
    with pytest.raises(ValueError, match="do not differ at lead 1"):
        inflation_factors([ensemble_scores(observed, np.repeat(samples[:1], 4, axis=0))], 4)


# the summary, its file, its picture


def scores_of(rng: np.random.Generator, sessions: int, **what: Any) -> dict[str, EnsembleScores]:
    return {f"s{n}": ensemble_scores(*gaussian(rng, 8, windows=12 + n, **what)) for n in range(sessions)}


def summary_of(rng: np.random.Generator, sessions: int = 3) -> dict[str, Any]:
    narrow = scores_of(rng, sessions, width=0.5)
    of_counts = {name: ensemble_scores(*counts(rng, 8, windows=9)) for name in narrow}
    rows = {
        "energy": {"latents": narrow, "units": of_counts, "recalibrated latents": scores_of(rng, sessions)},
        "gaussian": {"latents": scores_of(rng, sessions), "units": of_counts},
    }
    return calibration_summary(rows, 8, {"energy": np.array([2.0, 2.0, 2.0])})


def test_figures_are_means_over_sessions_with_their_standard_error(rng):
    sessions = scores_of(rng, 4)
    summary = calibration_summary({"energy": {"latents": sessions}}, 8)
    figures = summary["rows"]["energy"]["latents"]
    each = np.array([covered(scores, 0.9) for scores in sessions.values()])
    assert summary["level"] == 0.9
    np.testing.assert_allclose(summary["coverage_by_lead"], each.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(figures["by_lead"]["coverage"]["mean"][2], each.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(figures["by_lead"]["coverage"]["sem"][2], each.std(axis=0, ddof=1) / 2, rtol=1e-5)
    np.testing.assert_allclose(figures["stretch"]["coverage"]["mean"][2], each.mean(), rtol=1e-5)
    crps = {name: scores.crps_NH.mean(axis=0) for name, scores in sessions.items()}
    np.testing.assert_allclose(figures["by_lead"]["crps"]["sessions"]["s1"], crps["s1"], rtol=1e-5)
    assert summary["standard_errors"] == "over sessions"
    np.testing.assert_allclose(summary["plain_interval_coverage"][2], 0.9 * 7 / 9)


def test_a_single_session_has_standard_errors_over_its_windows(rng):
    """The jackknife of a mean is its usual standard error."""
    sessions = scores_of(rng, 1)
    summary = calibration_summary({"energy": {"latents": sessions}}, 8)
    crps_NH = sessions["s0"].crps_NH
    sem = summary["rows"]["energy"]["latents"]["by_lead"]["crps"]["sem"]
    np.testing.assert_allclose(sem, crps_NH.std(axis=0, ddof=1) / np.sqrt(len(crps_NH)), rtol=1e-4)
    assert "windows" in summary["standard_errors"]
    alone = {"s0": EnsembleScores(*(value[:1] for value in vars(sessions["s0"]).values()))}
    figures = calibration_summary({"energy": {"latents": alone}}, 8)["rows"]["energy"]["latents"]["stretch"]
    assert figures["crps"]["sem"] is None


def test_the_summary_is_json_and_is_read_back(rng):
    summary = summary_of(rng)
    assert list(summary["rows"]) == ["energy", "energy, recalibrated", "gaussian"]
    assert list(summary["rows"]["energy, recalibrated"]) == ["latents"]
    text = json.dumps(summary, allow_nan=False)
    read = read_calibration(Path("m.json"), json.loads(text), "energy")
    figure = read.rows["energy"]["latents"]["by_lead"]["coverage"]
    assert figure.mean.shape == figure.error.shape == (4, 3)
    np.testing.assert_allclose(figure.mean[2], read.coverage_by_lead)
    assert list(read.rows["gaussian"]["latents"]["by_lead"]["crps"].sessions) == ["s0", "s1", "s2"]
    np.testing.assert_array_equal(read.inflation["energy"], [2, 2, 2])


def test_a_file_from_before_there_were_rows_gives_one(rng):
    read = read_calibration(Path("m.json"), {"level": 0.9, "coverage_by_lead": [0.8, 0.7]}, "flow")
    np.testing.assert_array_equal(read.rows["flow"]["latents"]["by_lead"]["coverage"].mean, [[0.8, 0.7]])
    methods = {"latents": [Method("flow", 0.01, read.levels, read.rows["flow"]["latents"])]}
    assert png_bytes(calibration_picture(methods, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"a": {"latents": {"by_lead": {}}}}}, r"has no calibration.rows.a.latents.stretch"),
        (
            {"rows": {"a": {"units": {"by_lead": {"crps": {"mean": [1, "x"]}}, "stretch": {}}}}},
            r"mean\[1\] is .x.",
        ),
        (
            {"rows": {"a": {"units": {"by_lead": {"crps": {"mean": [[1], [1, 2]]}}, "stretch": {}}}}},
            "lists of different lengths",
        ),
        ({"rows": []}, r"calibration.rows is \[\], expected dict"),
        ({"levels": None}, "calibration.levels is None"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(rng, change, message):
    with pytest.raises(ValueError, match=message):
        read_calibration(Path("m.json"), summary_of(rng) | change, "energy")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sessions", [1, 3])
def test_the_picture_shows_every_method_and_its_gap_to_the_reference(rng, sessions: int):
    read = read_calibration(Path("m.json"), summary_of(rng, sessions), "energy")
    methods = {
        what: [Method(row, 0.01, read.levels, parts[what]) for row, parts in read.rows.items() if what in parts]
        for what in ("latents", "units")
    }
    picture = png_bytes(calibration_picture(methods, "gaussian"))
    assert picture == png_bytes(calibration_picture(methods, "gaussian"))
    assert picture != png_bytes(calibration_picture(methods, None))
    energy, _, against = methods["latents"]
    gap = crps_gap(energy, against)
    assert gap is not None
    first, second = (np.mean(list(one.parts["by_lead"]["crps"].sessions.values()), axis=0) for one in (energy, against))
    np.testing.assert_allclose(gap[0], first / second - 1, rtol=1e-6)
    assert np.isfinite(gap[1]).all() == (sessions > 1)


def test_the_section_compares_methods_and_says_how_wide_the_samples_should_be(rng):
    sessions = {name: {"subject": "a", "windows": 12, "units": 4} for name in ("s0", "s1", "s2")}
    evaluations = []
    for head in ("energy", "flow"):
        read = read_calibration(Path("m.json"), summary_of(rng), head)
        rows = {name.replace("energy", head): whats for name, whats in read.rows.items()}
        read = replace(read, rows=rows, inflation={head: np.array([2.0, 2.1, 2.2])})
        evaluations.append(Evaluation(Path(f"{head}.json"), f"runs/{head}", head, 0.01, {}, {}, read, sessions))
    section = calibration_section(evaluations, ["energy", "flow"])
    assert section.body.count('class="plot"') == 8  # four of latents, four of units
    names = [method.name for method in methods_of(evaluations, ["energy", "flow"])["latents"]]
    assert names == [
        "energy", "energy, recalibrated", "gaussian (energy)", "flow", "flow, recalibrated", "gaussian (flow)",
    ]  # fmt: skip
    for words in ("90 % holds", "CRPS minus gaussian (energy), %", "How much wider", "2.200", "rank histogram"):
        assert words in section.body
    covered_by_energy = evaluations[0].calibration.rows["energy"]["latents"]["stretch"]["coverage"]
    assert f"{covered_by_energy.mean[2]:.3f} ± {covered_by_energy.error[2]:.3f}" in section.body
