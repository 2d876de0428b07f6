"""The loss of each source (subject or session), without a word between ranks or devices until it is asked for.

B samples of a batch.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.pretrain.distributed import Ranks

SourceKind = Literal["subject", "session", "none"]


class SourceLosses:
    """Sums of losses by source since they were last asked for. A micro-batch counts for the source of its first sample,
    which is that of all of them: they come from one session."""

    def __init__(self, kind: SourceKind, registry: UnitRegistry, ranks: Ranks):
        self._kind, self._ranks = kind, ranks
        names: dict[SourceKind, Sequence[str]] = {
            "subject": registry.subjects,
            "session": [session.session_id for session in registry.sessions],
            "none": [],
        }
        self._names = names[kind]
        self._sums_S2 = torch.zeros(1 + len(self._names), 2, dtype=torch.float64, device=ranks.device)

    def add(self, batch: Batch, loss: Tensor, bins: Tensor) -> None:
        """Count in a micro-batch: its loss summed over `bins` valid bins, both on the device."""
        if self._kind == "none":
            return
        numbers_B = batch.subject_B if self._kind == "subject" else batch.session_B
        row = torch.stack((loss.detach().double(), bins.double()))
        self._sums_S2.index_add_(0, numbers_B[:1], row.unsqueeze(0))

    def take(self) -> dict[str, float]:
        """Mean loss a bin of each source seen since the last call, over all ranks, which must all call it."""
        if self._kind == "none":
            return {}
        losses, bins = self._ranks.sum(self._sums_S2).T[:, 1:].cpu()
        self._sums_S2 = torch.zeros_like(self._sums_S2)
        return {name: float(losses[i] / bins[i]) for i, name in enumerate(self._names) if bins[i] > 0}
