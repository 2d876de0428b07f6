"""Fitting the rows of one session on windows of it, with the trunk as it is.

What is minimised is the autoencoder's training loss and a Gaussian prior around the rows that the session came with:

    mean loss of a bin + w / 2 sum((row - row_0)^2 / (drift * spread)^2) / (bins * expected spikes a bin)

w is the sum of the decoders' weights, since the loss counts each bin once for every decoder. `spread` is the standard
deviation of a table's column over all known units, `drift` how far rows are expected to move in units of it. A bin's
loss is in nats per expected spike, so the sum is the posterior of the rows but for a factor: little data moves them
little.
N windows, T bins, C units.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch, earlier_fields
from neurochorus.data_shards.earlier import Earlier
from neurochorus.models.autoencoder import Autoencoder
from neurochorus.pretrain.adaptation.session_rows import Rows

CHECKS = 4
"Looks at the held-back windows in the course of a fit."


@dataclass(frozen=True)
class Refit:
    """What came of one refit. Losses are those of the held-back windows, a bin and expected spike in nats."""

    accepted: bool
    loss_before: float
    loss_after: float
    "Of the best rows that were found, taken over or not."
    steps: int
    seconds: float
    bins: int
    "Bins that the rows were fitted on."


@dataclass(frozen=True)
class RecentWindows:
    """Windows of a recording, and what came before each, if the model reads it."""

    signal_NTC: Tensor
    earlier: Earlier | None

    def at(self, places: slice | Tensor) -> "RecentWindows":
        of_arrays = places if isinstance(places, slice) else places.numpy()
        return RecentWindows(self.signal_NTC[places], None if self.earlier is None else self.earlier[of_arrays])

    @property
    def bins(self) -> int:
        return self.signal_NTC.shape[0] * self.signal_NTC.shape[1]


class RowFit:
    """One fit. `autoencoder` is of the session alone (`autoencoder_of_session`) and has the rows to start from."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        anchor: Rows,
        spread: Rows,
        drift: float,
        batch_windows: int,
        generator: torch.Generator,
    ):
        """`anchor`: the rows that the fitted ones are held to."""
        self.autoencoder, self.anchor, self.spread, self.drift = autoencoder, anchor, spread, drift
        self.batch_windows, self.generator = batch_windows, generator
        self.parameters: Rows = {name: getattr(autoencoder, name).weight for name in anchor}

    def run(
        self,
        fitted: RecentWindows,
        held: RecentWindows,
        *,
        learning_rate: float,
        begun: float,
        seconds: float,
        steps: int,
    ) -> tuple[Refit, Rows]:
        """Fit on `fitted`; the rows that are best on `held`, and whether they are better than those at the start.

        Ends after `steps` steps or `seconds` after `begun` (`time.monotonic`), but for one step and one look at `held`.
        """
        optimizer = torch.optim.Adam(self.parameters.values(), lr=learning_rate, betas=(0.9, 0.95))
        looked = time.monotonic()
        before = self.loss(held)
        look_s = time.monotonic() - looked
        best, best_loss, done, checked, progress = self._rows(), before, 0, 0, 0.0
        while progress < 1:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - progress)
            self._step(optimizer, fitted)
            done += 1
            # what remains must do for one more look
            progress = max(done / steps, (time.monotonic() - begun + look_s) / seconds)
            if progress * CHECKS >= checked + 1:
                checked = int(progress * CHECKS)
                loss = self.loss(held)
                if loss < best_loss:
                    best, best_loss = self._rows(), loss
        return Refit(best_loss < before, before, best_loss, done, time.monotonic() - begun, fitted.bins), best

    @torch.no_grad()
    def loss(self, windows: RecentWindows) -> float:
        """Loss of a bin without dropout."""
        self.autoencoder.eval()
        total, bins = 0.0, 0
        for first in range(0, len(windows.signal_NTC), 4 * self.batch_windows):
            chunk = windows.at(slice(first, first + 4 * self.batch_windows))
            loss, count, _ = self.autoencoder(self._batch(chunk))
            total, bins = total + float(loss), bins + int(count)
        return total / bins

    def _rows(self) -> Rows:
        return {name: weight.detach()[1:].clone() for name, weight in self.parameters.items()}

    def _step(self, optimizer: torch.optim.Optimizer, fitted: RecentWindows) -> None:
        self.autoencoder.train()
        windows = len(fitted.signal_NTC)
        chosen = torch.randint(windows, (min(self.batch_windows, windows),), generator=self.generator)
        batch = self._batch(fitted.at(chosen))
        loss, count, _ = self.autoencoder(batch)
        units = self.autoencoder.units(batch.unit_rows_BC)
        scale = self.autoencoder.observation.loss_scale(units.mean_BC, units.mask_BC).sum()
        held = self.autoencoder.config.decoders_weight * self._distance() / (fitted.bins * scale)
        # the trunk gets no gradients: it may be in use by others
        gradients = torch.autograd.grad(loss / count + held, list(self.parameters.values()))
        for weight, gradient in zip(self.parameters.values(), gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    def _distance(self) -> Tensor:
        """Minus the log of the prior, in nats up to a constant."""
        parts = [
            ((weight[1:] - self.anchor[name].to(weight)) / (self.drift * self.spread[name])).square().sum()
            for name, weight in self.parameters.items()
            if weight.numel()
        ]
        return 0.5 * torch.stack(parts).sum()

    def _batch(self, chosen: RecentWindows) -> Batch:
        windows, bins, units = chosen.signal_NTC.shape
        return Batch(
            signal_BTC=chosen.signal_NTC,
            unit_rows_BC=torch.arange(1, units + 1)[None],
            bin_mask_BT=torch.ones(windows, bins, dtype=torch.bool),
            session_B=torch.ones(windows, dtype=torch.long),
            subject_B=torch.ones(windows, dtype=torch.long),
            covariates_BTK=torch.zeros(windows, bins, 0),
            covariate_mask_BTK=torch.zeros(windows, bins, 0, dtype=torch.bool),
            sample_ids=[f"window-{number:06d}" for number in range(windows)],
            **earlier_fields(chosen.earlier),
        ).to(next(iter(self.parameters.values())).device)
