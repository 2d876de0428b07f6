"""Covariates (stimulus, behaviour) as the dynamics read them: a learned causal window of their past.

B batch, T bins, J tokens (one a patch of p bins), K covariate columns, D width.

A covariate known `ahead` (a stimulus) is read up to the last bin of the predicted patch, one known only in the `past`
(behaviour) up to the last bin before it. Each has one linear map a lag over (standardised value, is it known) pairs,
which is a causal convolution; the window holds `lag_bins` bins for every bin of a patch, lag_bins + p - 1 in all.
What is missing, not given or dropped reads as (0, 0), so it adds nothing, while the same parameters are touched.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings

if TYPE_CHECKING:
    from neurochorus.models.dynamics.sequence import LatentSequence


@settings
class CovariateConfig:
    known: Literal["ahead", "past"] = "past"
    """ahead: a stimulus, whose value in the predicted bin may be read; past: behaviour, read up to the bin before."""
    lag_bins: int = 1
    """How many bins back it acts directly, the newest readable one included."""
    columns: int | None = None
    """Number of columns; null: taken from the data by pretraining."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "lag_bins")
        return found + (at_least(self, 1, "columns") if self.columns is not None else [])


class CovariateReader(nn.Module):
    """Drive of the tokens by all covariates, whose columns stand side by side in the order of the settings."""

    def __init__(self, configs: Mapping[str, CovariateConfig], columns: Mapping[str, int], width: int, patch_bins: int):
        super().__init__()
        if list(configs) != list(columns):
            raise ValueError(f"covariates {', '.join(columns) or 'none'} given; the settings name {', '.join(configs)}")
        self.configs, self.columns, self.width, self.patch_bins = dict(configs), dict(columns), width, patch_bins
        self.maps = nn.ModuleList(
            nn.Linear(2 * columns[name] * self._window(config), width, bias=False) for name, config in configs.items()
        )
        self.register_buffer("mean", torch.zeros(sum(columns.values())))
        self.register_buffer("sd", torch.ones(sum(columns.values())))

    mean: Tensor
    sd: Tensor

    def set_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Mean and sd (K,) of each column on the train split; a constant column keeps its unit.

        Raises ValueError for another number of columns or values that are not finite.
        """
        mean, sd = (torch.as_tensor(values, dtype=torch.float32) for values in (mean, sd))
        if mean.shape != self.mean.shape or sd.shape != self.sd.shape:
            raise ValueError(f"statistics of {len(mean)} covariate columns; expected {len(self.mean)}")
        if not bool(torch.isfinite(mean).all() and torch.isfinite(sd).all()):
            raise ValueError("covariate statistics are not finite: was every column missing in the train split?")
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))

    def forward(self, sequence: "LatentSequence", bins: int) -> Tensor:
        """What the covariates add to the tokens of the patches in the first `bins` bins, (B, J, D).

        Covariates that end earlier are missing from there on. Raises ValueError for another number of columns.
        """
        values_BTK, known_BTK = sequence.covariates_BTK, sequence.covariate_mask_BTK
        if values_BTK.shape[2] != len(self.mean):
            raise ValueError(
                f"{values_BTK.shape[2]} covariate columns given; this model reads {len(self.mean)} "
                f"({', '.join(f'{name}: {count}' for name, count in self.columns.items())})"
            )
        values_BTK = torch.where(known_BTK, (values_BTK - self.mean) / self.sd, 0.0)
        lack = bins - values_BTK.shape[1]
        values_BTK, known_BTK = (F.pad(part, (0, 0, 0, lack)) for part in (values_BTK, known_BTK.float()))
        widths = list(self.columns.values())
        driven = [
            each(self._windows(torch.cat((values, known), dim=-1), config))
            for each, config, values, known in zip(
                self.maps, self.configs.values(), values_BTK.split(widths, -1), known_BTK.split(widths, -1), strict=True
            )
        ]
        return torch.stack(driven).sum(dim=0)

    def with_endings(self, sequence: "LatentSequence", share: float) -> "LatentSequence":
        """The same with covariates known in the past missing from a random bin on, in a share of the samples."""
        known_BTK = sequence.covariate_mask_BTK
        batch, bins, columns = known_BTK.shape
        past = [config.known == "past" for name, config in self.configs.items() for _ in range(self.columns[name])]
        if not share or columns != len(past) or not any(past):
            return sequence
        past_K = torch.tensor(past, device=known_BTK.device)
        ends_B = torch.randint(1, bins + 1, (batch,), device=known_BTK.device)
        ends_B = torch.where(torch.rand(batch, device=known_BTK.device) < share, ends_B, bins)
        over_BT = torch.arange(bins, device=known_BTK.device) >= ends_B.unsqueeze(1)
        return replace(sequence, covariate_mask_BTK=known_BTK & ~(over_BT.unsqueeze(2) & past_K))

    def _window(self, config: CovariateConfig) -> int:
        return config.lag_bins + self.patch_bins - 1

    def _windows(self, pairs_BTK: Tensor, config: CovariateConfig) -> Tensor:
        """The readable window of each patch, flattened, (B, J, 2 K window)."""
        window, patch = self._window(config), self.patch_bins
        newest = patch if config.known == "ahead" else 0  # bins of the predicted patch that may be read
        bins = pairs_BTK.shape[1] // patch * patch
        padded = F.pad(pairs_BTK[:, : bins - patch + newest], (0, 0, window - newest, 0))
        return padded.unfold(1, window, patch).flatten(2)
