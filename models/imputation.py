"""Imputation: what was not recorded, filled by the model with its uncertainty.

Missing units where others were observed: the encoder reads those, rescaled as in training, and the decoder gives all.
The scale is 1 / (their share of the population's expected power), not of its number of units: with the busiest half of
the units hidden on steinmetz2019 that was worth 0.10 bits/spike (4 sessions, one seed), and nothing on Lorenz spikes.

Missing bins: gap_crossing.py.

A unit's slow gain is that of all other bins in which it was observed, before and after.
S samples, B batch, T bins, C units, L latent channels.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.seeds import seed_number
from neurochorus.models.autoencoder import Autoencoder
from neurochorus.models.dynamics import Dynamics
from neurochorus.models.gap_crossing import ImputationSettings, cross_gaps, refuse_gaps_that_cannot_be_crossed
from neurochorus.models.partial_recording import PartialRecording
from neurochorus.models.whitening import Whitening


@dataclass(frozen=True)
class Gap:
    """How a row of the batch got across bins [start, stop)."""

    row: int
    start: int
    stop: int
    effective: float
    "Effective number of particles, as weighted by what was observed; NaN where nothing was that could weigh them."
    weighing_bins: float
    "Bins that weighed them: those of the look-ahead that leave enough effective; a part for one that just does not."


@dataclass(frozen=True)
class Imputation:
    """Samples of everything, given what was observed.

    Their spread is that of the gaps, and behind them of what the encoder makes of the gaps. Elsewhere a deterministic
    encoder gives one latent, so there the rates of missing units are point estimates; their counts are draws always.
    """

    latents: Tensor  # (S, B, T, L), whitened
    rates: Tensor  # (S, B, T, C), counts per bin, or the signal's own unit
    counts: Tensor  # (S, B, T, C), as recorded where observed
    gaps: list[Gap]

    @property
    def mean_rate(self) -> Tensor:
        """Mean over samples, (B, T, C)."""
        return self.rates.mean(dim=0)

    @property
    def rate_sd(self) -> Tensor:
        """Standard deviation over samples, (B, T, C); 0 with one sample."""
        return self.rates.std(dim=0, correction=0)

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of the rates over samples, (B, T, C) each."""
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; expected a fraction between 0 and 1 such as 0.9")
        # Tensor.quantile refuses more than 2^24 values
        ordered_SBTC, last = self.rates.sort(dim=0).values, len(self.rates) - 1

        def quantile(share: float) -> Tensor:
            below = int(share * last)
            return ordered_SBTC[below].lerp(ordered_SBTC[min(below + 1, last)], share * last - below)

        return quantile((1 - level) / 2), quantile((1 + level) / 2)


@torch.no_grad()
def impute(
    autoencoder: Autoencoder,
    whitening: Whitening,
    dynamics: Dynamics,
    batch: Batch,
    observed_BTC: Tensor,
    samples: int,
    seed: int,
    settings: ImputationSettings,
    scale_B11: Tensor | None = None,
) -> Imputation:
    """Fill what `observed_BTC` (bool) says was not observed; what the batch holds there is never read.

    `scale_B11`: of units that the batch has no column of, see missing_units.py.

    A row depends on (seed, its sample id, samples, settings) and its own data only, bit for bit. Raises ValueError for
    a mask of another shape or type, a row without anything observed, padded bins, and gaps that the model cannot fill.
    """
    observed_BTC = _checked(batch, observed_BTC, samples)
    rows, gaps = [], []
    for row, sample_id in enumerate(batch.sample_ids):
        generator = torch.Generator().manual_seed(seed_number(f"{seed}/{sample_id}/imputation"))
        recording = PartialRecording(
            autoencoder,
            whitening,
            _one_row(batch, row),
            observed_BTC[row],
            settings.least_share,
            1.0 if scale_B11 is None else scale_B11[row, 0, 0],
        )
        refuse_gaps_that_cannot_be_crossed(autoencoder.config.causal, dynamics.config.order, recording.gaps)
        gaps += [Gap(row, *crossed) for crossed in cross_gaps(dynamics, recording, samples, settings, generator)]
        rows.append(_finish(recording, samples, generator))
    latents, rates, counts = (torch.stack(parts, dim=1) for parts in zip(*rows, strict=True))
    return Imputation(latents, rates, counts, gaps)


def _finish(recording: PartialRecording, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (S, T, L), rates and counts (S, T, C) of a recording whose gaps are filled."""
    bins = len(recording.observed_TC)
    lineage_S = torch.arange(samples, device=recording.observed_TC.device) % len(recording.signal_NTC)
    recording.signal_NTC, recording.latent_NTL = recording.signal_NTC[lineage_S], recording.latent_NTL[lineage_S]
    latent_STL = recording.latents(bins, generator)
    units, autoencoder = recording.units, recording.autoencoder
    rates_STC = autoencoder.mean(recording.decode(latent_STL, recording.history(0, bins), 0), units)
    shape_SC, sd_SC = (values_BC.cpu().expand(samples, -1) for values_BC in (units.shape_BC.float(), units.sd_BC))
    drawn_STC = autoencoder.observation.sample(rates_STC.cpu(), shape_SC, sd_SC, generator).to(rates_STC)
    # lines of descent share the counts of bins that particles were drawn in again and again: each sample gets its own
    as_drawn_T = recording.in_gap_T if recording.history_bins else ~recording.observed_TC.any(dim=-1)
    kept_TC = recording.observed_TC | as_drawn_T.unsqueeze(-1)
    return latent_STL, rates_STC, torch.where(kept_TC, recording.signal_NTC, drawn_STC)


def _checked(batch: Batch, observed_BTC: Tensor, samples: int) -> Tensor:
    """The mask without padded units, on the batch's device."""
    expected = tuple(batch.signal_BTC.shape)
    if observed_BTC.dtype != torch.bool or tuple(observed_BTC.shape) != expected:
        raise ValueError(
            f"observed: expected a bool tensor of shape {expected} like the signal, True where it was recorded; found "
            f"{observed_BTC.dtype} of shape {tuple(observed_BTC.shape)}"
        )
    if not bool(batch.bin_mask_BT.all()):
        raise ValueError("the batch has padded bins: put samples of equal length into a batch")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, found {samples}")
    observed_BTC = observed_BTC.to(batch.signal_BTC.device) & batch.unit_mask_BC.unsqueeze(1)
    empty = (~observed_BTC.flatten(1).any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"nothing is observed in {len(empty)} of {len(observed_BTC)} rows, the first is row {empty[0]} "
            f"({batch.sample_ids[empty[0]]}): leave them out, or make activity from nothing with `rollout`"
        )
    return observed_BTC


def _one_row(batch: Batch, row: int) -> Batch:
    one = slice(row, row + 1)
    return replace(
        batch,
        signal_BTC=batch.signal_BTC[one],
        unit_rows_BC=batch.unit_rows_BC[one] if len(batch.unit_rows_BC) > 1 else batch.unit_rows_BC,
        bin_mask_BT=batch.bin_mask_BT[one],
        session_B=batch.session_B[one],
        subject_B=batch.subject_B[one],
        covariates_BTK=batch.covariates_BTK[one],
        covariate_mask_BTK=batch.covariate_mask_BTK[one],
        sample_ids=batch.sample_ids[one],
        earlier_BC=None if batch.earlier_BC is None else batch.earlier_BC[one],
        earlier_bins_B=None if batch.earlier_bins_B is None else batch.earlier_bins_B[one],
    )
