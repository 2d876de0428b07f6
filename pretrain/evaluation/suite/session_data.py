"""What the suite reads of a session: windows of all splits, the trial and labels of each, and latents, rates, rollouts.

N windows, T bins (context and horizon), H horizon bins, C units, L latent channels, S samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.recording import SPLITS
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.scored_forecast import batch_of, chunks
from neurochorus.pretrain.evaluation.suite.tables import Undefined
from neurochorus.pretrain.evaluation.windows import Windows, read_windows


@dataclass(frozen=True)
class Trial:
    """The stretch that a sample was cut from."""

    segment: int
    labels: Mapping[str, str | float]


@dataclass(frozen=True)
class Generated:
    """Free-running continuations of the contexts of windows."""

    latents_SNHL: np.ndarray
    counts_SNHC: np.ndarray


@dataclass
class SessionData:
    """Windows are read when they are first asked for; covariates are those of the session, whatever models read."""

    corpus: Corpus
    session_id: str
    split: str
    forecast: ForecastSection
    seed: int = 0
    _windows: dict[str, Windows] = field(default_factory=dict)
    _latents: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    @property
    def bins(self) -> int:
        return self.forecast.context_bins + self.forecast.horizon_bins

    @property
    def spikes(self) -> bool:
        return self.corpus.modality == "spikes"

    def windows(self, split: str) -> Windows:
        if split not in self._windows:
            covariates = self.corpus.session(self.session_id).covariates
            self._windows[split] = read_windows(
                self.corpus, self.session_id, split, self.bins, covariates, self.forecast.stride_bins
            )
        return self._windows[split]

    def trials(self, split: str) -> list[Trial]:
        """The trial of each window."""
        samples = self._samples[split]
        return [samples[key.partition("+")[0]] for key in self.windows(split).keys]

    def groups(self, split: str) -> np.ndarray:
        """A number a window, the same for windows of one trial (or one unbroken stretch), (N,)."""
        return np.array([trial.segment for trial in self.trials(split)])

    @cached_property
    def _samples(self) -> dict[str, dict[str, Trial]]:
        """Split -> key of a sample -> its trial."""
        found: dict[str, dict[str, Trial]] = {}
        for split in SPLITS:
            samples = (self.corpus.read(row) for row in self.corpus.rows_of(self.session_id, split))
            found[split] = {
                sample.key: Trial(int(sample.meta["segment"]), sample.meta.get("labels", {})) for sample in samples
            }
        return found

    @property
    def no_spikes(self) -> str | None:
        """Why there is no score per spike: counts without any to learn a rate from, or to be forecast."""
        if not self.spikes:
            return None
        if not self.windows("train").signal_NTC.any():
            return "no spike in its train windows"
        if not self.windows(self.split).signal_NTC[:, self.forecast.context_bins :].any():
            return f"no spike in the horizons of its {self.split} windows"
        return None

    @property
    def aligned(self) -> bool:
        return self.why_not_aligned is None

    def require_aligned(self) -> None:
        """Raise Undefined unless bin t of every window is the same moment of a trial of its own."""
        if self.why_not_aligned is not None:
            raise Undefined(self.why_not_aligned)

    @cached_property
    def why_not_aligned(self) -> str | None:
        segments = [trial.segment for samples in self._samples.values() for trial in samples.values()]
        if len(set(segments)) < len(segments):
            return "its samples are stretches of a longer recording, not trials aligned to an event"
        if any("+" in key for split in SPLITS for key in self.windows(split).keys):
            return "context and horizon are shorter than half a trial, so that windows start at other moments of it"
        return None

    def latents(self, model: NeuralModel, split: str) -> np.ndarray:
        """Whitened latents of the windows, (N, T, L)."""
        place = (id(model), split)
        if place not in self._latents:
            windows = self.windows(split)
            parts = [
                model.encode(batch_of(model, self.session_id, windows, chunk)).cpu().numpy()
                for chunk in chunks(windows)
            ]
            self._latents[place] = np.concatenate(parts)
        return self._latents[place]

    def rates(self, model: NeuralModel, split: str) -> np.ndarray:
        """Expected signal that the autoencoder gives for the windows, (N, T, C)."""
        windows = self.windows(split)
        parts = [
            model.reconstruct(batch_of(model, self.session_id, windows, chunk)).cpu().numpy()
            for chunk in chunks(windows)
        ]
        return np.concatenate(parts)

    def generated(
        self, model: NeuralModel, split: str, samples: int, head: str | None = None, places: np.ndarray | None = None
    ) -> Generated:
        """Rollouts over the horizon from the contexts of windows (None: all), knowing what a forecast may know."""
        windows = self.windows(split) if places is None else self.windows(split).chosen(places)
        latents, counts = [], []
        for chunk in chunks(windows, self.forecast.horizon_bins * samples):
            context = batch_of(model, self.session_id, windows, chunk, self.forecast.context_bins)
            rollout = model.rollout(context, self.forecast.horizon_bins, samples, self.seed, head=head)
            latents.append(rollout.latents.cpu().numpy())
            counts.append(rollout.counts.to(torch.int32 if self.spikes else torch.float32).cpu().numpy())
        return Generated(np.concatenate(latents, axis=1), np.concatenate(counts, axis=1))
