"""The ragged unit table: one row a unit for all sessions, gathered by row number.

A session's read-in matrix is its rows. Since every batch gathers from the same parameter, all ranks
touch the same parameters in the same order whatever sessions they hold; one module a session trains
silently wrong under ZeRO-1, 2 and 3 (tests/pretrain/test_zero_stages.py).
B batch, T bins, C units, D width, L latent channels, K history bins.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Table(nn.Module):
    """Rows of a learned table: row numbers (...) -> (..., columns). Row 0 is padding and stays zero.

    Rows below `frozen_rows` get no gradient, so that new rows can be fitted beside them. `decays` says whether
    weight decay is meant for this table at all: it is for directions, not for rates, gains and sessions.
    """

    kept: Tensor | None
    "The frozen rows as they were, which are read instead of those in `weight`: weight decay shrinks these too."

    def __init__(self, rows: int, columns: int, std: float = 0.02, decays: bool = False):
        super().__init__()
        self.decays = decays
        weight = torch.randn(rows, columns) * std
        weight[0] = 0.0
        self.weight = nn.Parameter(weight)
        self.frozen_rows = 0
        self.register_buffer("kept", None, persistent=False)

    def forward(self, row_numbers: Tensor) -> Tensor:
        rows = F.embedding(row_numbers, self.weight, padding_idx=0)
        if self.frozen_rows:
            frozen = row_numbers < self.frozen_rows
            old = rows.detach() if self.kept is None else F.embedding(row_numbers * frozen, self.kept)
            rows = torch.where(frozen.unsqueeze(-1), old, rows)
        return rows

    @torch.no_grad()
    def freeze(self, rows: int, keep: bool = False) -> None:
        """Freeze the first rows; with `keep` they are read as they are now even if the optimizer decays them."""
        self.frozen_rows = rows
        self.kept = self.weight[:rows].clone() if keep and rows else None

    @torch.no_grad()
    def append(self, new_rows: Tensor) -> None:
        """Add rows below the present ones; must happen before the optimizer and DeepSpeed see the table."""
        self.weight = nn.Parameter(torch.cat((self.weight, new_rows.to(self.weight))))


@dataclass
class UnitRows:
    """What belongs to the units of a batch; the batch dimension is 1 when all samples share a session."""

    read_in_BCD: Tensor
    read_out_BCL: Tensor
    bias_BC: Tensor
    gain_BC: Tensor
    shape_BC: Tensor
    "shape of the observation around its mean: log dispersion (negative binomial), log sd (Gaussian)"
    history_BCK: Tensor
    "weights of the unit's own last bins, the newest first; K is 0 without spike history"
    mean_BC: Tensor
    "mean per bin on the train split"
    sd_BC: Tensor
    mask_BC: Tensor
    start_BC: Tensor
    """mean of the target from which the slow gain starts: what earlier activity tells, or that of the train split; B is
    that of the batch where earlier activity is read"""
    earlier_BC: Tensor | None
    "share of the shift told by earlier activity that lasts; None in a model that reads none"


def read_in(signal_BTC: Tensor, rows_BCD: Tensor) -> Tensor:
    """einsum("btc,bcd->btd"); one batch row of `rows_BCD` serves the whole batch (one session)."""
    return signal_BTC @ (rows_BCD[0] if rows_BCD.shape[0] == 1 else rows_BCD)


def read_out(latent_BTL: Tensor, rows_BCL: Tensor) -> Tensor:
    """einsum("btl,bcl->btc"); one batch row of `rows_BCL` serves the whole batch (one session)."""
    rows = rows_BCL[0] if rows_BCL.shape[0] == 1 else rows_BCL
    return latent_BTL @ rows.transpose(-1, -2)
