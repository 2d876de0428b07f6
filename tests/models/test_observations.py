"""Observation models against scipy and torch.distributions, and draws against their own moments."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from neurochorus.models.observations import Gaussian, NegativeBinomial, Observation, Poisson, observation_for
from neurochorus.models.observations.negative_binomial import log_rising
from neurochorus.models.observations.poisson import poisson_quantile

COUNTS = torch.tensor([0.0, 1.0, 2.0, 5.0, 20.0, 255.0])
NONE = torch.zeros(1, 1)


def on_counts(values: float) -> torch.Tensor:
    return torch.full((1, len(COUNTS), 1), values)


def test_poisson_and_gaussian_losses_match_torch() -> None:
    log_rate, counts = torch.randn(2, 3, 4), torch.poisson(torch.ones(2, 3, 4))
    expected = torch.nn.functional.poisson_nll_loss(log_rate, counts, reduction="none")
    torch.testing.assert_close(Poisson().loss(log_rate, counts, torch.zeros(2, 4)), expected)
    log_sd, mean, value = torch.randn(2, 4) * 0.3, torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    density = torch.distributions.Normal(mean, log_sd.exp().unsqueeze(1))
    torch.testing.assert_close(Gaussian().loss(mean, value, log_sd), -density.log_prob(value))


@pytest.mark.parametrize("dispersion", [0.001, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("mean", [0.01, 0.7, 30.0])
def test_negative_binomial_loss_is_that_of_scipy(mean: float, dispersion: float) -> None:
    loss = NegativeBinomial().loss(
        on_counts(math.log(mean)), COUNTS[None, :, None], torch.full((1, 1), math.log(dispersion))
    )[0, :, 0]
    r = 1 / dispersion
    log_probability = scipy.stats.nbinom.logpmf(COUNTS.numpy(), r, 1 / (1 + dispersion * mean))
    # the log of the factorial does not depend on the model and is left out
    expected = -log_probability - scipy.special.gammaln(COUNTS.numpy() + 1)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=2e-5, atol=2e-5)


def test_no_dispersion_is_poisson_in_loss_and_draws() -> None:
    shape, decoded = torch.full((1, 1), -30.0), on_counts(math.log(2.0))
    counts = COUNTS[None, :, None]
    loss, poisson = NegativeBinomial().loss(decoded, counts, shape), Poisson().loss(decoded, counts, shape)
    # dispersion is held above 0.0003: second-order terms in it remain
    torch.testing.assert_close(loss[0, :4], poisson[0, :4], rtol=0, atol=0.003)
    draws = NegativeBinomial().sample(torch.full((1, 200_000, 1), 2.0), shape, NONE, torch.Generator().manual_seed(0))
    expected = scipy.stats.poisson.pmf(np.arange(6), 2.0)
    found = np.bincount(draws.flatten().long().numpy(), minlength=6)[:6] / 200_000
    np.testing.assert_allclose(found, expected, atol=0.005)


@pytest.mark.parametrize("dispersion", [3e-4, 0.02, 0.5, 50.0])
def test_rising_products_keep_their_digits_in_float32(dispersion: float) -> None:
    expected = [np.log1p(np.arange(int(k)) * dispersion).sum() for k in COUNTS]
    found = log_rising(COUNTS, torch.tensor(dispersion))
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=2e-6)
    with_gradient = torch.tensor(dispersion, requires_grad=True)
    log_rising(COUNTS, with_gradient).sum().backward()
    slopes = [(np.arange(int(k)) / (1 + np.arange(int(k)) * dispersion)).sum() for k in COUNTS]
    assert with_gradient.grad is not None
    assert float(with_gradient.grad) == pytest.approx(sum(slopes), rel=1e-3)


def drawn(observation: Observation, mean: float, shape: float, way: str, count: int = 100_000) -> np.ndarray:
    generator, means = torch.Generator().manual_seed(3), torch.full((1, count, 1), mean)
    shapes, sds = torch.full((1, 1), shape), torch.ones(1, 1)
    if way == "sample":
        return observation.sample(means, shapes, sds, generator).flatten().numpy()
    noise = observation.noise(count, shapes[0], generator)
    return observation.outcome(means, noise.unsqueeze(1), shapes, sds).flatten().numpy()


@pytest.mark.parametrize("way", ["sample", "outcome"])
@pytest.mark.parametrize("dispersion", [0.05, 0.8, 4.0])
def test_negative_binomial_draws_have_their_mean_and_variance(dispersion: float, way: str) -> None:
    counts = drawn(NegativeBinomial(), 1.7, math.log(dispersion), way)
    variance = 1.7 + dispersion * 1.7**2
    assert counts.mean() == pytest.approx(1.7, abs=5 * math.sqrt(variance / len(counts)))
    assert counts.var() == pytest.approx(variance, rel=0.06)
    r, p = 1 / dispersion, 1 / (1 + dispersion * 1.7)
    found = np.bincount(counts.astype(int), minlength=4)[:4] / len(counts)
    np.testing.assert_allclose(found, scipy.stats.nbinom.pmf(np.arange(4), r, p), atol=0.007)


@pytest.mark.parametrize("way", ["sample", "outcome"])
def test_poisson_and_gaussian_draws(way: str) -> None:
    counts = drawn(Poisson(), 0.6, 0.0, way)
    found = np.bincount(counts.astype(int), minlength=4)[:4] / len(counts)
    np.testing.assert_allclose(found, scipy.stats.poisson.pmf(np.arange(4), 0.6), atol=0.006)
    values = drawn(Gaussian(), 2.0, math.log(0.5), way)
    assert (values.mean(), values.std()) == pytest.approx((2.0, 0.5), abs=0.01)


@pytest.mark.parametrize("observation", [Poisson(), NegativeBinomial(), Gaussian()], ids=lambda made: made.name)
def test_draws_depend_on_the_generator_alone(observation: Observation) -> None:
    for way in ("sample", "outcome"):
        np.testing.assert_array_equal(
            drawn(observation, 0.8, 0.0, way, 500), drawn(observation, 0.8, 0.0, way, 500), strict=True
        )


def test_counts_from_uniform_numbers_are_poisson_quantiles() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = 10 ** (torch.rand(20_000, generator=generator) * 5 - 3)  # 0.001 to 100
    uniform = torch.rand(20_000, generator=generator)
    expected = scipy.stats.poisson.ppf(uniform.double().numpy(), mean.double().numpy())
    found = poisson_quantile(mean, uniform).numpy()
    assert (found != np.maximum(expected, 0)).mean() < 1e-4  # a tie of rounding
    # the largest number that torch.rand gives in float32
    assert poisson_quantile(torch.tensor([0.0, 2.0]), torch.tensor(1 - 2**-24)).tolist() == [0.0, 13.0]
    assert scipy.stats.poisson.ppf(1 - 2**-24, 2.0) == 13.0
    many = poisson_quantile(torch.full((200_000,), 900.0), torch.rand(200_000, generator=generator)).numpy()
    assert (many.mean(), many.var()) == pytest.approx((900.0, 900.0), rel=0.01)


def test_softplus_rates() -> None:
    softplus = Poisson("softplus")
    mean = torch.tensor([1e-4, 0.02, 0.3, 4.0])
    torch.testing.assert_close(softplus.mean(softplus.initial_bias(mean), NONE, NONE), mean, rtol=1e-4, atol=0)
    decoded = torch.tensor([-60.0, -9.0, 0.5, 30.0], requires_grad=True)
    counts = torch.tensor([1.0, 0.0, 2.0, 28.0])
    loss = softplus.loss(decoded, counts, NONE)
    expected = -scipy.stats.poisson.logpmf(counts.numpy(), np.log1p(np.exp(decoded.detach().double().numpy())))
    expected -= scipy.special.gammaln(counts.numpy() + 1)
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-5)
    loss.sum().backward()
    assert decoded.grad is not None
    assert torch.isfinite(decoded.grad).all()
    assert float(decoded.grad[0]) == pytest.approx(-1.0)


def test_futures_teach_the_mean_and_not_the_spread() -> None:
    """A mean of several bins, which the latent does not determine, says nothing of the spread of one bin."""
    for observation in (NegativeBinomial(), Gaussian()):
        shape = torch.zeros(1, 1, requires_grad=True)
        decoded = torch.zeros(1, 5, 1, requires_grad=True)
        observation.future_loss(decoded, torch.rand(1, 5, 1), shape).sum().backward()
        assert shape.grad is None
        assert decoded.grad is not None


def test_z_scores_know_no_unit_and_say_nothing_of_what_never_varied() -> None:
    """Magnetic fields of 1e-13 T, and a unit that was constant in the train split and is not later."""
    signal = torch.tensor([[[1.5e-13, 2.0, 7.0]]])
    mean, sd = torch.tensor([[1e-13, 1.0, 5.0]]), torch.tensor([[1e-13, 0.5, 0.0]])
    expected = torch.tensor([[[0.5, 2.0, 0.0]]])
    rounded = sd + torch.tensor([[0.0, 0.0, 2e-7]])  # as sqrt(E[x^2] - E[x]^2) of a constant comes out
    torch.testing.assert_close(Gaussian().target(signal, mean, rounded), expected)
    torch.testing.assert_close(Gaussian().target(signal, mean, sd), expected)
    torch.testing.assert_close(
        Gaussian().summed_target(signal[0] * 3, torch.tensor([[3.0]]), mean, sd), 3 * expected[0]
    )
    assert torch.isfinite(Gaussian().transform(signal, mean, sd)).all()


@pytest.mark.parametrize(
    ("name", "modality", "rate", "text"),
    [
        ("auto", "calcium", "exp", "expected 'spikes' or 'continuous'"),
        ("gaussian", "spikes", "exp", "'gaussian' is for continuous signals"),
        ("poisson", "continuous", "exp", "'poisson' is for spike counts"),
        ("negative_binomial", "continuous", "exp", "'negative_binomial' is for spike counts"),
        ("auto", "continuous", "softplus", "rate: 'softplus' is for counts"),
        ("binomial", "spikes", "exp", "expected auto, poisson, negative_binomial or gaussian"),
    ],
)
def test_combinations_without_sense_are_refused(name: str, modality: str, rate: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        observation_for(name, modality, rate)  # type: ignore[arg-type]
    assert observation_for("auto", "spikes").name == "poisson"
    assert observation_for("auto", "continuous").name == "gaussian"
