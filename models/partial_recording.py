"""One recording with missing entries, as far as it has been filled: what encoder and decoder make of it.

N lineages: fillings so far of the same recording. T bins, C units, L latent channels, G bins of a gap.
"""

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.models.autoencoder import Autoencoder
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.observations.spike_history import filtered_past
from neurochorus.models.observing import observe
from neurochorus.models.whitening import Whitening


class PartialRecording:
    """Signals and latents (N, T, ...) of one row of a batch; N is 1 until a gap is filled in several ways."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        whitening: Whitening,
        row: Batch,
        observed_TC: Tensor,
        least_share: float,
        scale: Tensor | float = 1.0,
    ):
        """`row`: a batch of one; where `observed_TC` is False its values are not read.

        `scale` is on all that the encoder reads, for units of the session that `row` has no column of.
        Bins without anything observed, or with less than `least_share` of the expected power, belong to gaps.
        """
        self.autoencoder, self.whitening, self.row = autoencoder, whitening, row
        self.units = self.autoencoder.units_of(row)
        self.history_bins = self.autoencoder.config.history_bins
        self.observed_TC = observed_TC
        self.signal_NTC = torch.where(observed_TC, row.signal_BTC.float(), 0.0)
        self.latent_NTL = torch.zeros(1, len(observed_TC), len(self.whitening.mean), device=observed_TC.device)
        share_T = self._observed_share()
        self.in_gap_T = ~observed_TC.any(dim=-1) | (share_T < least_share)
        self.known_TC = observed_TC | self.in_gap_T.unsqueeze(-1)
        self._keep_TC = scale * torch.where(self.in_gap_T.unsqueeze(-1), 1.0, observed_TC / share_T.unsqueeze(-1))
        self.slow_1TC = self.autoencoder.slow_level(self.signal_NTC, self.units, observed_TC.unsqueeze(0))

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """First bin and the one after the last of each gap."""
        edges = torch.diff(self.in_gap_T.int().cpu(), prepend=torch.zeros(1).int(), append=torch.zeros(1).int())
        return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))

    def _observed_share(self) -> Tensor:
        """Share of each bin's expected power that was observed, (T,); above zero."""
        scale, mean_B1C = self.autoencoder.observation.loss_scale, self.units.mean_BC.unsqueeze(1)
        present_1TC = (self.observed_TC & self.units.mask_BC).unsqueeze(0)
        return (scale(mean_B1C, present_1TC) / scale(mean_B1C, self.units.mask_BC.unsqueeze(1)))[0]

    def latents(self, bins: int, generator: torch.Generator | None = None) -> Tensor:
        """Whitened latents (N, bins, L) of the first bins: in gaps as filled, elsewhere as the encoder gives them.

        The encoder reads the counts in the gaps as filled. `generator`: a draw for each lineage if the encoder is
        variational, not the mean.
        """
        session_N = self.row.session_B.expand(len(self.signal_NTC))
        keep_TC = self._keep_TC[:bins]
        posterior = self.autoencoder.posterior(self.signal_NTC[:, :bins], self.units, session_N, keep_TC)
        latent_NTL = posterior.mean_BTL
        if generator is not None and posterior.log_sd_BTL is not None:
            noise_NTL = torch.randn(latent_NTL.shape, generator=generator).to(latent_NTL)
            latent_NTL = latent_NTL + posterior.log_sd_BTL.exp() * noise_NTL
        return torch.where(self.in_gap_T[:bins, None], self.latent_NTL[:, :bins], self.whitening(latent_NTL))

    def sequence(self, latent_NTL: Tensor) -> LatentSequence:
        """What the dynamics read: these latents of the first bins, and covariates of all."""
        lineages = len(latent_NTL)
        return LatentSequence(
            latent_NTL,
            torch.ones(latent_NTL.shape[:2], dtype=torch.bool, device=latent_NTL.device),
            self.row.session_B.expand(lineages),
            self.row.subject_B.expand(lineages),
            self.row.covariates_BTK.expand(lineages, -1, -1),
            self.row.covariate_mask_BTK.expand(lineages, -1, -1),
        )

    def decode(self, latent_NTL: Tensor, signal_NTC: Tensor, start: int) -> Tensor:
        """The decoder's output (N, bins, C) for whitened latents of the bins from `start` on.

        `signal_NTC` is what the units' own history is read from: of the same bins and, if the model reads it, of the
        `history_bins` before them (fewer at the beginning).
        """
        bins = latent_NTL.shape[1]
        own = self.slow_1TC[:, start : start + bins]
        if self.history_bins:
            past_NTC = self.autoencoder.past(signal_NTC, self.units)
            own = own + filtered_past(past_NTC, self.units.history_BCK.float())[:, -bins:]
        return self.autoencoder.decode(self.whitening.undo(latent_NTL), self.units, own)

    def history(self, start: int, stop: int) -> Tensor:
        """Signals (N, ..., C) of bins [start, stop) and the `history_bins` before them, for `decode`.

        A missing entry outside gaps is its unit's mean there, which to the history filters says nothing.
        """
        first = max(0, start - self.history_bins)
        mean_C = self.units.mean_BC[0]
        return torch.where(self.known_TC[first:stop], self.signal_NTC[:, first:stop], mean_C)

    def draw_gap(self, latent_RGL: Tensor, start: int, generator: torch.Generator) -> Tensor:
        """Counts (R, G, C) of particles in a gap, as recorded where observed; each N-th of them is of one lineage.

        With spike history an entry that was observed inside the gap acts on those after it as it was drawn.
        """
        rows, stop = len(latent_RGL), start + latent_RGL.shape[1]
        lineages = len(self.signal_NTC)
        raw_KNGL = self.whitening.undo(latent_RGL).unflatten(0, (lineages, -1)).transpose(0, 1)
        slow_1GC = self.slow_1TC[:, start:stop]
        before_NTC = self.history(start, start)
        drawn = observe(self.autoencoder, raw_KNGL, self.units, before_NTC, [generator] * rows, slow=slow_1GC)[1]
        assert drawn is not None
        counts_RGC = drawn.transpose(0, 1).flatten(0, 1)
        return torch.where(self.observed_TC[start:stop], self.signal_NTC[:1, start:stop], counts_RGC)

    def go_on(
        self,
        lineage_S: Tensor,
        start: int,
        latent_SGL: Tensor,
        counts_SGC: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        """Put a filled gap into the given lineages, which take the place of all; counts are drawn if there are none."""
        gap = slice(start, start + latent_SGL.shape[1])
        self.signal_NTC, self.latent_NTL = self.signal_NTC[lineage_S], self.latent_NTL[lineage_S]
        self.latent_NTL[:, gap] = latent_SGL
        self.signal_NTC[:, gap] = self.draw_gap(latent_SGL, start, generator) if counts_SGC is None else counts_SGC
