"""How simulated latents become rates and counts, all samples of a rollout together or one after the other.

Each unit's slow gain is held at its value at the end of the context, or without bins where it starts. With spike
history the rate of a bin depends on the counts drawn before it: bins are then run one after the other, all samples and
units at once, and the filters go on from the last bins of the context (from nothing where there is none).
S samples, B batch, H horizon bins, L latent channels, C units, K history bins, D draws of noise an entry.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from neurochorus.models.autoencoder import Autoencoder
from neurochorus.models.units import UnitRows


def observe(
    autoencoder: Autoencoder,
    latents_SBHL: Tensor,
    units: UnitRows,
    context_signal_BTC: Tensor,
    generators: Sequence[torch.Generator],
    want_counts: bool = True,
    slow: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Rates and counts (S, B, H, C) that go on from a context, which may have no bins.

    The latents are not whitened. `generators`: one for each (row, sample), row-major; a sample's counts depend on its
    own only. The counts are None when not wanted; without spike history the generators are then left untouched.
    `slow`: the units' slow term over the horizon (broadcasting to (B, H, C)) in the place of the one held from the
    context.
    """
    slow_B1C = _held_slow_level(autoencoder, units, context_signal_BTC) if slow is None else slow
    return _observe(autoencoder, latents_SBHL, units, slow_B1C, context_signal_BTC, generators, want_counts)


def observe_each(
    autoencoder: Autoencoder,
    latents_SBHL: Tensor,
    units: UnitRows,
    context_signal_BTC: Tensor,
    generators: Sequence[torch.Generator],
) -> Iterator[Tensor]:
    """The rates of `observe` one sample after the other, each (B, H, C), in the memory of one."""
    slow_B1C = _held_slow_level(autoencoder, units, context_signal_BTC)
    samples = len(latents_SBHL)
    for number, latent_BHL in enumerate(latents_SBHL):
        own = generators[number::samples]
        yield _observe(autoencoder, latent_BHL[None], units, slow_B1C, context_signal_BTC, own, False)[0][0]


def _held_slow_level(autoencoder: Autoencoder, units: UnitRows, context_signal_BTC: Tensor) -> Tensor | float:
    if not context_signal_BTC.shape[1]:
        return autoencoder.earlier_level(units)
    return autoencoder.slow_level(context_signal_BTC, units)[:, -1:]


def _observe(
    autoencoder: Autoencoder,
    latents_SBHL: Tensor,
    units: UnitRows,
    slow_B1C: Tensor | float,
    context_signal_BTC: Tensor,
    generators: Sequence[torch.Generator],
    want_counts: bool,
) -> tuple[Tensor, Tensor | None]:
    decoded_SBHC = torch.stack([autoencoder.decode(latent_BHL, units, slow_B1C) for latent_BHL in latents_SBHL])
    if autoencoder.config.history_bins:
        rates_SBHC, counts_SBHC = _run(autoencoder, decoded_SBHC, units, context_signal_BTC, generators)
        return rates_SBHC, counts_SBHC if want_counts else None
    rates_SBHC = torch.stack([autoencoder.mean(decoded_BHC, units) for decoded_BHC in decoded_SBHC])
    return rates_SBHC, _draw(autoencoder, rates_SBHC, units, generators) if want_counts else None


def _draw(
    autoencoder: Autoencoder, rates_SBHC: Tensor, units: UnitRows, generators: Sequence[torch.Generator]
) -> Tensor:
    samples, batch = rates_SBHC.shape[:2]
    rates, counts = rates_SBHC.cpu(), torch.empty_like(rates_SBHC, device="cpu")
    shape_BC, sd_BC = units.shape_BC.cpu().expand(batch, -1), units.sd_BC.cpu().expand(batch, -1)
    for row in range(batch):
        one = slice(row, row + 1)
        for sample in range(samples):
            counts[sample, one] = autoencoder.observation.sample(
                rates[sample, one], shape_BC[one], sd_BC[one], generators[row * samples + sample]
            )
    return counts.to(rates_SBHC.device)


def _run(
    autoencoder: Autoencoder,
    decoded_SBHC: Tensor,
    units: UnitRows,
    context_signal_BTC: Tensor,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Rates and counts with spike history, bin by bin."""
    decoded_BSHC = decoded_SBHC.transpose(0, 1)
    batch, samples, horizon, channels = decoded_BSHC.shape
    lags, device = autoencoder.config.history_bins, decoded_SBHC.device
    oldest_first_B1KC = units.history_BCK.float().flip(-1).transpose(1, 2).unsqueeze(1)
    noise_DBSHC = _noise(autoencoder, units, batch, samples, horizon, generators).to(device)
    past_BSTC = torch.zeros(batch, samples, lags + horizon, channels, device=device)
    known = min(lags, context_signal_BTC.shape[1])
    if known:
        context_BTC = autoencoder.past(context_signal_BTC[:, -known:], units)
        past_BSTC[:, :, lags - known : lags] = context_BTC.unsqueeze(1)
    rates_BSHC, counts_BSHC = torch.empty(2, batch, samples, horizon, channels, device=device)
    for bin_ in range(horizon):
        # samples take the place of bins, as neither the mean nor the outcome of an entry depends on any other
        own_BSC = (past_BSTC[:, :, bin_ : bin_ + lags] * oldest_first_B1KC).sum(dim=2)
        rates_BSC = autoencoder.mean(decoded_BSHC[:, :, bin_] + own_BSC, units)
        counts_BSC = autoencoder.observation.outcome(
            rates_BSC, noise_DBSHC[:, :, :, bin_], units.shape_BC.float(), units.sd_BC
        )
        past_BSTC[:, :, lags + bin_] = autoencoder.past(counts_BSC, units)
        rates_BSHC[:, :, bin_], counts_BSHC[:, :, bin_] = rates_BSC, counts_BSC
    return rates_BSHC.transpose(0, 1), counts_BSHC.transpose(0, 1)


def _noise(
    autoencoder: Autoencoder,
    units: UnitRows,
    batch: int,
    samples: int,
    horizon: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """All chance of a rollout's counts, (D, B, S, H, C), each row and sample from its own generator, on the CPU."""
    shape_BC = units.shape_BC.float().cpu().expand(batch, -1)
    rows = [
        autoencoder.observation.noise(horizon, shape_BC[row], generators[row * samples + sample])
        for row in range(batch)
        for sample in range(samples)
    ]
    return torch.stack(rows, dim=1).unflatten(1, (batch, samples))
