"""Crossing gaps: bins in which nothing, or too little for the encoder, was observed.

From left to right: particles go through a gap as the dynamics simulate it from the latents before it, and on through
the bins after it. Each is weighted by the likelihood of what was observed there, and samples are drawn by weight
(sequential importance resampling; particles.py says how many bins weigh them). Behind the gap the encoder reads each
sample's own counts in it. Bins up to the next gap weigh a gap once; those after the next gap weigh both together.

A gap in which some entries were observed is crossed in pieces that these entries weigh: a particle filter, which can
read a few units where an encoder trained on most of them cannot. Its means are right as far as the dynamics are; after
many pieces the samples descend from a few, so that their spread far back in a long gap is too small.

Dynamics in masked order know both sides: after that they can fill gaps without observed entries again given the latents
around them, some times over (Gibbs sweeps). A causal encoder reads the latents behind a gap from the counts of the last
filling, which they then confirm: on Lorenz spikes two sweeps after a forecast gave 0.62 bits/spike and two after the
particles 0.61, where the particles alone gave 0.68 (24 gaps of 20 bins, one model), so there are none by default.

S samples, T bins, C units, L latent channels, G bins of a gap, H of a gap and those after it that weigh it;
N lineages: 1 before the first gap, S after it; R particles, equally many for each lineage.
"""

import math

import torch
from torch import Tensor

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.dynamics import Dynamics
from neurochorus.models.dynamics.masked import MaskedDynamics
from neurochorus.models.partial_recording import PartialRecording
from neurochorus.models.particles import bearable, effective_number, resample

VALUES_AT_ONCE = 2**24


@settings
class ImputationSettings:
    look_ahead_bins: int = 10
    """Bins after a gap whose observed entries weigh the particles."""
    particles: int = 256
    """Particles a gap is crossed with; at least as many as samples."""
    least_effective: float = 0.1
    """Bins of the look-ahead are taken in while this share of the particles stays effective; 0: all of them."""
    least_share: float = 0.0
    """Bins of which a smaller share (of expected power) was observed are gaps too, whose observed entries weigh the
    particles; 0: only those without anything."""
    piece_bins: int = 5
    """Such a gap is crossed in pieces of so many bins, or fewer, drawing particles by weight after each."""
    sweeps: int = 0
    """Times that dynamics in masked order then fill the gaps from both sides."""
    temperature: float = 1.0
    head: str | None = None
    """gaussian: the companion head of the same model."""
    guidance: float = 1.0

    def problems(self) -> list[str]:
        found = at_least(self, 1, "particles", "piece_bins")
        found += at_least(self, 0, "look_ahead_bins", "sweeps", "temperature")
        return found + [
            f"{name}: expected a share from 0 to 1, found {getattr(self, name)}"
            for name in ("least_effective", "least_share")
            if not 0 <= getattr(self, name) <= 1
        ]


def refuse_gaps_that_cannot_be_crossed(causal: bool, order: str, gaps: list[tuple[int, int]]) -> None:
    later = [f"{start}:{stop}" for start, stop in gaps if start > 0]
    if later and order == "diffusion":
        raise ValueError(
            f"bins {', '.join(later)} are missing: dynamics in order diffusion make whole windows from nothing and "
            "fill no gaps; train with model.dynamics.order causal or masked"
        )
    if later and order == "causal" and not causal:
        raise ValueError(
            f"bins {', '.join(later)} are missing: this model was trained with autoencoder.causal: false, so its "
            "latents before a gap would know what is in it; it fills missing units only. Train one with causal: "
            "true, or with model.dynamics.order masked"
        )


def cross_gaps(
    dynamics: Dynamics,
    recording: PartialRecording,
    samples: int,
    settings: ImputationSettings,
    generator: torch.Generator,
) -> list[tuple[int, int, float, float]]:
    """Fill all gaps, in pieces where something was observed: (start, stop, effective, weighing bins) of each."""
    crossed = []
    nexts = [start for start, _ in recording.gaps[1:]] + [len(recording.observed_TC)]
    for (start, stop), next_start in zip(recording.gaps, nexts, strict=False):
        whole = stop - start
        longest = settings.piece_bins if bool(recording.observed_TC[start:stop].any()) else whole
        while start < stop:
            piece_stop = min(start + longest, stop)
            last = min(next_start, stop + settings.look_ahead_bins) if piece_stop == stop else piece_stop
            crossing = _cross(dynamics, recording, (start, piece_stop, last), samples, settings, generator)
            crossed.append((start, *crossing))
            start = crossing[0]
    if isinstance(dynamics, MaskedDynamics):
        _sweep(dynamics, recording, settings, generator)
    return crossed


def _cross(
    dynamics: Dynamics,
    recording: PartialRecording,
    edges: tuple[int, int, int],
    samples: int,
    settings: ImputationSettings,
    generator: torch.Generator,
) -> tuple[int, float, float]:
    """Fill a gap, or less of it, those before it being filled.

    `edges`: its first bin, the one after its last, and after the last that may weigh it. Where the particles cannot
    bear all observed bins inside the gap, it is filled up to the first that they cannot. Returns the bin after the last
    that was filled, the effective number of particles, and how many bins weighed them.
    """
    start, stop, last = edges
    weighing = (start + recording.observed_TC[start:last].any(dim=-1).nonzero()[:, 0]).tolist()
    last = max([stop, *(bin_ + 1 for bin_ in weighing)])
    wanted = max(settings.particles, samples) if weighing else samples
    each = -(-wanted // len(recording.signal_NTC))
    context = recording.sequence(recording.latents(start))
    sampling = settings.temperature, settings.head, settings.guidance
    path_RHL = dynamics.simulate(context, last - start, each, generator, *sampling).flatten(0, 1)
    # with spike history the bins after the gap depend on the counts in it; otherwise those of the chosen will do
    counts_RGC = recording.draw_gap(path_RHL[:, : stop - start], start, generator) if recording.history_bins else None
    chosen_S, effective, bins = torch.arange(samples), math.nan, 0.0  # nothing to weigh: as many as samples, all alike
    if weighing:
        log_likelihood_RH = _log_likelihood(recording, path_RHL, counts_RGC, start)
        log_likelihood_RH = log_likelihood_RH[:, [bin_ - start for bin_ in weighing]].cpu()
        log_weights_R, bins = bearable(log_likelihood_RH, settings.least_effective * len(path_RHL))
        inside = sum(bin_ < stop for bin_ in weighing)
        if 1 <= bins < inside:
            bins = int(bins)
            stop, log_weights_R = weighing[bins], log_likelihood_RH[:, :bins].sum(dim=1)
        elif bins < inside:
            stop = weighing[0] + 1
        chosen_S, effective = resample(log_weights_R, samples, generator), effective_number(log_weights_R)
    chosen_S = chosen_S.to(path_RHL.device)
    gap = slice(0, stop - start)
    counts_SGC = None if counts_RGC is None else counts_RGC[chosen_S, gap]
    recording.go_on(chosen_S // each, start, path_RHL[chosen_S, gap], counts_SGC, generator)
    return stop, effective, float(bins)


def _log_likelihood(recording: PartialRecording, path_RHL: Tensor, counts_RGC: Tensor | None, start: int) -> Tensor:
    """Log likelihood (R, H) of what was observed in the bins of the particles' paths, less what is common to all.

    `counts_RGC`: of the particles in the gap, if the units' own history matters.
    """
    horizon = path_RHL.shape[1]
    autoencoder, units = recording.autoencoder, recording.units
    observed_HC = recording.observed_TC[start : start + horizon] & units.mask_BC
    history_NTC = recording.history(start, start + horizon)
    before, each = history_NTC.shape[1] - horizon, len(path_RHL) // len(history_NTC)
    target_1HC = autoencoder.observation.target(
        recording.signal_NTC[:1, start : start + horizon], units.mean_BC, units.sd_BC
    )
    at_once = max(1, VALUES_AT_ONCE // observed_HC.numel())
    parts = []
    for first in range(0, len(path_RHL), at_once):
        rows = torch.arange(first, min(first + at_once, len(path_RHL)), device=path_RHL.device)
        signal_RTC = history_NTC[rows // each]
        if counts_RGC is not None:
            signal_RTC[:, before : before + counts_RGC.shape[1]] = counts_RGC[rows]
        decoded_RHC = recording.decode(path_RHL[rows], signal_RTC, start)
        loss_RHC = autoencoder.observation.loss(decoded_RHC, target_1HC, units.shape_BC.float())
        parts.append(-(loss_RHC * observed_HC).sum(dim=2, dtype=torch.float64))
    return torch.cat(parts)


def _sweep(
    dynamics: MaskedDynamics,
    recording: PartialRecording,
    settings: ImputationSettings,
    generator: torch.Generator,
) -> None:
    """Fill all gaps in which nothing was observed again, from both sides."""
    empty_T = ~recording.observed_TC.any(dim=-1)
    gaps = [(start, stop) for start, stop in recording.gaps if bool(empty_T[start:stop].all())]
    known_NT = torch.ones_like(empty_T).expand(len(recording.signal_NTC), -1).clone()
    for start, stop in gaps:
        known_NT[:, start:stop] = False
    for _ in range(settings.sweeps if gaps else 0):
        sequence = recording.sequence(recording.latents(known_NT.shape[1]))
        filled_NTL = dynamics.fill(
            sequence, known_NT, 1, generator, settings.temperature, settings.head, settings.guidance
        )[:, 0]
        lineage_N = torch.arange(len(filled_NTL), device=filled_NTL.device)
        for start, stop in gaps:
            recording.go_on(lineage_N, start, filled_NTL[:, start:stop], None, generator)
