"""Imputation against exact posteriors, and what it must never do: change, leak, or depend on its neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neurochorus.data_shards.settings import SettingsError
from neurochorus.models import Imputation, NeuralModel
from neurochorus.models.particles import bearable, effective_number, resample
from tests.models.ar1_model import NOISE_SD, READ_OUT, UNITS, ar1_model, posterior, simulate
from tests.models.conftest import small_model

ROWS, BINS = 4, 30
BOTH = [(5, 11), (18, 24)]


def observed(*gaps: tuple[int, int]) -> np.ndarray:
    mask = np.ones((ROWS, BINS, UNITS), dtype=bool)
    for start, stop in gaps:
        mask[:, start:stop] = False
    return mask


def exact(signal: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = [posterior(signal_TC, mask_TC) for signal_TC, mask_TC in zip(signal, mask, strict=True)]
    return np.stack([mean for mean, _ in rows]), np.stack([sd for _, sd in rows])


def imputed(signal: np.ndarray, mask: np.ndarray, samples: int = 256, **settings: float) -> Imputation:
    model = ar1_model()
    batch = model.context("a_s1", signal.astype(np.float32))
    return model.impute(batch, torch.from_numpy(mask), samples, 0, **settings)


def error(made: Imputation, mean: np.ndarray, bins: list[int]) -> float:
    return float(np.sqrt(np.mean((made.latents.numpy().mean(axis=0) - mean)[:, bins] ** 2)))


@pytest.mark.parametrize("gaps", [[(10, 18)], [(0, 6)], BOTH], ids=["inside", "at the start", "two"])
def test_gaps_are_filled_as_the_kalman_smoother_would(gaps: list[tuple[int, int]]) -> None:
    """The mean and spread of the latents in gaps are those of the exact posterior; without look-ahead far from it."""
    _, signal = simulate(ROWS, BINS, seed=0)
    mask = observed(*gaps)
    mean, sd = exact(signal, mask)
    bins = [bin_ for start, stop in gaps for bin_ in range(start, stop)]
    made = imputed(signal, mask, particles=4096, least_effective=0.02)
    assert error(made, mean, bins) < 0.1
    assert (made.latents.std(dim=0).numpy() / sd)[:, bins].mean() == pytest.approx(1.0, abs=0.1)
    forward = imputed(signal, mask, look_ahead_bins=0)
    assert error(forward, mean, bins) > 4 * error(made, mean, bins)
    assert (forward.latents.std(dim=0).numpy() / sd)[:, bins].mean() > 1.3
    assert [(gap.row, gap.start, gap.stop) for gap in made.gaps] == [(row, *gap) for row in range(ROWS) for gap in gaps]
    assert all(80 < gap.effective < 4096 and 0 < gap.weighing_bins <= 10 for gap in made.gaps)


def test_the_end_is_a_forecast() -> None:
    _, signal = simulate(ROWS, BINS, seed=1)
    mask = observed((24, 30))
    mean, sd = exact(signal, mask)
    made = imputed(signal, mask, samples=1024)
    bins = list(range(24, 30))
    assert error(made, mean, bins) < 0.1
    assert (made.latents.std(dim=0).numpy() / sd)[:, bins].mean() == pytest.approx(1.0, abs=0.05)
    assert all(np.isnan(gap.effective) and gap.weighing_bins == 0 for gap in made.gaps)
    assert made.rates.shape == made.counts.shape == (1024, ROWS, BINS, UNITS)
    # what is drawn has the noise of the observation on top of that of the rates
    spread = (made.counts - made.rates)[:, :, 24:].std()
    assert float(spread) == pytest.approx(NOISE_SD, rel=0.02)
    low, high = made.interval(0.9)
    torch.testing.assert_close(low[0], made.rates[:, 0].quantile(0.05, dim=0))
    torch.testing.assert_close(high[0], made.rates[:, 0].quantile(0.95, dim=0))
    truth = torch.from_numpy(mean @ READ_OUT.T)[:, 24:]
    assert bool(((low[:, 24:] < truth) & (truth < high[:, 24:])).all())
    assert bool((made.rate_sd[:, 24:] > 0).all())
    torch.testing.assert_close(made.mean_rate, made.rates.mean(dim=0))


def test_a_few_units_weigh_particles_where_the_encoder_cannot_read_them() -> None:
    """Two of eight units, read by a particle filter bin by bin: the exact posterior again."""
    _, signal = simulate(2, BINS, seed=2)
    mask = observed()[:2]
    mask[:, :, 2:] = False
    mean, sd = exact(signal, mask)
    everywhere = list(range(BINS))
    made = imputed(signal, mask, particles=512, least_effective=0.0, least_share=1.0, piece_bins=1)
    assert error(made, mean, everywhere) < 0.05
    late = (made.latents.std(dim=0).numpy() / sd)[:, -5:].mean()
    assert late == pytest.approx(1.0, abs=0.15)
    assert error(imputed(signal, mask), mean, everywhere) > 10 * error(made, mean, everywhere)
    assert torch.equal(made.counts[..., :2], torch.from_numpy(signal).float()[..., :2].expand(256, -1, -1, -1))


def case(counts: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """A mask with missing units, bins, entries and gaps at both ends, and keyword arguments of a quick imputation."""
    mask = torch.ones(counts.shape, dtype=torch.bool)
    mask[:, 6:10] = False
    mask[1, :, 2] = False
    mask[0, 15:] = False
    mask[2, :2] = False
    mask[2, 12, :5] = False
    return mask, {"samples": 3, "seed": 4, "particles": 24, "sweeps": 2}


def tampered(counts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, counts, counts + 3)


MODELS = {
    "causal": {},
    "patches": {"patch_bins": 3},
    "masked": {"order": "masked", "target": "level"},
    "gru": {"backbone": "gru"},
}


@pytest.mark.parametrize(("kind", "modality"), [("causal", "continuous"), *((kind, "spikes") for kind in MODELS)])
def test_observed_entries_stay_and_hidden_ones_are_never_read(counts: torch.Tensor, kind: str, modality: str) -> None:
    model = small_model("energy", modality, **MODELS[kind])
    mask, arguments = case(counts)
    made = model.impute(model.context("b_s1", counts.numpy()), mask, **arguments)
    again = model.impute(model.context("b_s1", tampered(counts, mask).numpy()), mask, **arguments)
    for name in ("latents", "rates", "counts"):
        assert torch.equal(getattr(made, name), getattr(again, name)), name
        assert bool(torch.isfinite(getattr(made, name)).all()), name
    assert torch.equal(made.counts[:, mask], counts[mask].expand(3, -1))
    assert not torch.equal(made.counts[0], made.counts[1])
    before_any_gap = made.rates[:, 0, :6]
    assert torch.equal(before_any_gap[0], before_any_gap[1])
    assert float(made.rate_sd[0, 6:10].min()) > 0


def test_spike_history_reads_the_counts_in_gaps_and_never_hidden_ones(counts: torch.Tensor) -> None:
    config = small_model().config
    config = replace(config, autoencoder=replace(config.autoencoder, history_bins=3))
    torch.manual_seed(0)
    model = NeuralModel(config, small_model().registry).eval()
    assert model.autoencoder.history_rows is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.autoencoder.unit_mean[1:] = 0.3
    mask, arguments = case(counts)
    made = model.impute(model.context("b_s1", counts.numpy()), mask, **arguments)
    again = model.impute(model.context("b_s1", tampered(counts, mask).numpy()), mask, **arguments)
    assert torch.equal(made.rates, again.rates)
    with torch.no_grad():
        model.autoencoder.history_rows.weight[1:] = 0.0
    without = model.impute(model.context("b_s1", counts.numpy()), mask, **arguments)
    assert not torch.allclose(made.rates[:, 1, 6:10], without.rates[:, 1, 6:10])


def test_rows_and_seeds(counts: torch.Tensor) -> None:
    """A row alone is the row in a batch, bit for bit; another seed is another sample."""
    model = small_model("flow")
    mask, arguments = case(counts)
    together = model.context("b_s1", counts.numpy())
    alone = model.context("b_s1", counts[1:2].numpy())
    alone.sample_ids = together.sample_ids[1:2]
    many = model.impute(together, mask, **arguments)
    one = model.impute(alone, mask[1:2], **arguments)
    for name in ("latents", "rates", "counts"):
        assert torch.equal(getattr(one, name)[:, 0], getattr(many, name)[:, 1]), name
    other = model.impute(alone, mask[1:2], **{**arguments, "seed": 5})
    assert not torch.equal(one.latents, other.latents)


def test_everything_observed_gives_what_the_encoder_gives(counts: torch.Tensor) -> None:
    model = small_model()
    batch = model.context("b_s1", counts.numpy())
    made = model.impute(batch, torch.ones(counts.shape, dtype=torch.bool), samples=2)
    assert torch.equal(made.counts, counts.expand(2, -1, -1, -1))
    torch.testing.assert_close(made.latents[0], model.encode(batch), rtol=1e-5, atol=1e-5)
    assert made.gaps == []


def test_hidden_units_are_read_as_in_training(counts: torch.Tensor) -> None:
    """What is left is scaled by the share of the expected power that is hidden, not of the number of units."""
    model = small_model()
    batch = model.context("b_s1", counts.numpy())
    mask = torch.ones(counts.shape, dtype=torch.bool)
    mask[:, :, [0, 7]] = False
    made = model.impute(batch, mask, samples=1)
    autoencoder = model.autoencoder
    units = autoencoder.units(batch.unit_rows_BC)
    share = units.mean_BC[0, 1:7].sum() / units.mean_BC.sum()
    keep = mask.float() / share
    expected = model.whitening(autoencoder.encode(batch.signal_BTC, units, batch.session_B, keep))
    torch.testing.assert_close(made.latents[0], expected, rtol=1e-4, atol=1e-5)


def test_a_slow_gain_is_told_by_all_other_observed_bins(counts: torch.Tensor) -> None:
    autoencoder = small_model().autoencoder
    with torch.no_grad():
        units = autoencoder.units(torch.arange(6, 14)[None])
    mask = torch.rand(counts.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, :, 3] = False
    level = autoencoder.slow_level(counts, units, mask).detach()
    assert bool((level[:, :, 3] == 0).all())
    strength = torch.nn.functional.softplus(autoencoder.gain_strength).item()
    row, bin_, unit = 1, 7, 5
    others = mask[row, :, unit].clone()
    others[bin_] = False
    rate = float(units.mean_BC[0, unit])
    gain = (float(counts[row, others, unit].sum()) + strength * rate) / ((int(others.sum()) + strength) * rate)
    assert float(level[row, bin_, unit]) == pytest.approx(float(units.gain_BC[0, unit]) * np.log(gain), rel=1e-4)


def test_bad_masks_and_settings_are_refused(counts: torch.Tensor) -> None:
    model = small_model()
    batch = model.context("b_s1", counts.numpy())
    mask = torch.ones(counts.shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"bool tensor of shape \(3, 20, 8\).*found torch.bool of shape \(3, 19, 8\)"):
        model.impute(batch, mask[:, :19])
    with pytest.raises(ValueError, match=r"found torch\.float32"):
        model.impute(batch, mask.float())
    nothing = mask.clone()
    nothing[1] = False
    with pytest.raises(ValueError, match=r"nothing is observed in 1 of 3 rows, the first is row 1 \(b_s1-000001\)"):
        model.impute(batch, nothing)
    with pytest.raises(SettingsError, match="particels: unknown key; did you mean 'particles'"):
        model.impute(batch, mask, particels=3)
    with pytest.raises(SettingsError, match="least_share: expected a share from 0 to 1, found 2"):
        model.impute(batch, mask, least_share=2.0)
    padded = model.context("b_s1", counts.numpy())
    padded.bin_mask_BT[0, -1] = False
    with pytest.raises(ValueError, match="padded bins"):
        model.impute(padded, mask)
    with pytest.raises(ValueError, match="level is 90"):
        model.impute(batch, mask, samples=2).interval(90)


@pytest.mark.parametrize("kind", ["order diffusion", "autoencoder.causal: false"])
def test_gaps_that_a_model_cannot_cross(counts: torch.Tensor, kind: str) -> None:
    if kind == "order diffusion":
        model = small_model(order="diffusion", target="level")
    else:
        config = small_model().config
        config = replace(config, autoencoder=replace(config.autoencoder, causal=False))
        model = NeuralModel(config, small_model().registry).eval()
    batch = model.context("b_s1", counts.numpy())
    mask = torch.ones(counts.shape, dtype=torch.bool)
    mask[:, :, 0] = False
    assert bool(torch.isfinite(model.impute(batch, mask, samples=1).rates).all())
    mask[:, 6:10] = False
    with pytest.raises(ValueError, match=f"bins 6:10 are missing: .*{kind}"):
        model.impute(batch, mask)


def test_bins_weigh_particles_while_enough_stay_effective() -> None:
    generator = torch.Generator().manual_seed(0)
    log_likelihood = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    log_weights, bins = bearable(log_likelihood, least_effective=0.0)
    assert bins == 6
    torch.testing.assert_close(log_weights, log_likelihood.sum(dim=1))
    log_weights, bins = bearable(log_likelihood, least_effective=50.0)
    assert 1 < bins < 3
    assert effective_number(log_weights) == pytest.approx(50.0, rel=1e-3)
    whole = log_likelihood[:, : int(bins)].sum(dim=1)
    torch.testing.assert_close(log_weights, whole + (bins - int(bins)) * log_likelihood[:, int(bins)])


def test_particles_are_drawn_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.5, 0.26, 0.0, 0.14, 0.1])
    chosen = resample(weights.log(), 100, torch.Generator().manual_seed(3))
    number = torch.bincount(chosen, minlength=5)
    assert bool(((number - 100 * weights).abs() < 1).all())
    assert torch.equal(chosen, chosen.sort().values)
    assert effective_number(torch.zeros(7)) == pytest.approx(7.0)
