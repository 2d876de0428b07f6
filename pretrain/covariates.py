"""Covariates on their way into the dynamics: their widths, from the data sets, and the scale that they are read in.

B batch, T bins, K covariate columns, those of all chosen covariates side by side in the order of the settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch, covariate_widths
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.models import ModelConfig
from neurochorus.pretrain.distributed import Ranks


def with_widths(config: ModelConfig, entries: Sequence[SessionEntry]) -> ModelConfig:
    """The settings with the number of columns of each covariate as the chosen sessions have it.

    Raises ValueError for a covariate that no session has, that has different widths in two sessions, or another one
    than the settings say.
    """
    chosen = config.dynamics.covariates
    widths = covariate_widths(entries, chosen)
    for name, width in widths.items():
        if chosen[name].columns not in (None, width):
            raise ValueError(
                f"model.dynamics.covariates.{name}.columns: {chosen[name].columns}, but the data sets have {width}: "
                "leave it out, it is taken from the data"
            )
    filled = {name: replace(covariate, columns=widths[name]) for name, covariate in chosen.items()}
    return replace(config, dynamics=replace(config.dynamics, covariates=filled))


def refuse_other_widths(entries: Iterable[SessionEntry], widths: Mapping[str, int]) -> None:
    """Raise ValueError for a session whose covariate is wider or narrower than the one that a model reads."""
    for entry in entries:
        for name, width in widths.items():
            found = entry.covariates.get(name, width)
            if found != width:
                raise ValueError(
                    f"session {entry.session_id!r}: covariate {name!r} has {found} columns; the model reads {width}: "
                    "give it another name in its recipe (it is then missing to the model), or write the same columns"
                )


def sessions_without(entries: Iterable[SessionEntry], names: Iterable[str]) -> dict[str, list[str]]:
    """Covariate -> sessions that lack it, of those that some session lacks."""
    entries = list(entries)
    without = {name: [entry.session_id for entry in entries if name not in entry.covariates] for name in names}
    return {name: sessions for name, sessions in without.items() if sessions}


@dataclass(frozen=True)
class CovariateStatistics:
    """Mean and sd of each covariate column over the bins of the train split in which it is known, (K,) float32."""

    mean_K: Tensor
    sd_K: Tensor
    "1 where a column never changes, within the precision of float32: it then stays as small as it is."

    @classmethod
    def of(cls, batches: Iterable[Batch], widths: Mapping[str, int], ranks: Ranks) -> "CovariateStatistics":
        """From this rank's share of the train split; all ranks must call it, and all get the same.

        Raises ValueError for a column that is known nowhere.
        """
        moments = _Moments(sum(widths.values()))
        for batch in batches:
            moments.add(batch.covariates_BTK, batch.covariate_mask_BTK)
        count_K, mean_K, sd_K = moments.joined(ranks)
        columns = [
            f"{name!r}" if width == 1 else f"{name!r} column {column}"
            for name, width in widths.items()
            for column in range(width)
        ]
        absent = [column for column, count in zip(columns, count_K, strict=True) if not count]
        if absent:
            raise ValueError(
                f"covariate {', '.join(absent)} is missing in every bin of the train split: take it out of "
                "model.dynamics.covariates, or choose sessions that have it"
            )
        constant_K = sd_K <= torch.finfo(torch.float32).eps * mean_K.abs()
        return cls(mean_K.float(), sd_K.masked_fill(constant_K, 1.0).float())


class _Moments:
    """Joined batch by batch as in Chan, Golub and LeVeque (1979), so that a column far from zero keeps its digits."""

    def __init__(self, columns: int):
        self.count_K = torch.zeros(columns, dtype=torch.float64)
        self.mean_K = torch.zeros(columns, dtype=torch.float64)
        self.squares_K = torch.zeros(columns, dtype=torch.float64)
        "Sum of squared distances from the mean."

    def add(self, covariates_BTK: Tensor, known_BTK: Tensor) -> None:
        values, known = covariates_BTK.double().flatten(0, 1), known_BTK.flatten(0, 1)
        count_K = known.sum(dim=0).double()
        mean_K = (values * known).sum(dim=0) / count_K.clamp_min(1)
        squares_K = ((values - mean_K) * known).square().sum(dim=0)
        total_K = (self.count_K + count_K).clamp_min(1)
        apart_K = mean_K - self.mean_K
        self.squares_K += squares_K + apart_K.square() * self.count_K * count_K / total_K
        self.mean_K += apart_K * count_K / total_K
        self.count_K += count_K

    def joined(self, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        """Known bins, mean and sd (K,) over all ranks."""
        count_K = ranks.sum(self.count_K.clone()).cpu()
        mean_K = ranks.sum(self.count_K * self.mean_K).cpu() / count_K.clamp_min(1)
        squares_K = ranks.sum(self.squares_K + self.count_K * (self.mean_K - mean_K).square()).cpu()
        return count_K, mean_K, (squares_K / count_K.clamp_min(1)).sqrt()
