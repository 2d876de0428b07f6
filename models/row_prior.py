"""What is known of new units' rows before their data are seen: a Gaussian prior, as one more part of the loss.

The loss of a bin is the negative log likelihood over all units divided by a scale, so a pass over a session's train
bins costs -log p(data) / scale, and the prior of its rows must cost -log p(rows) / scale in all: a bin bears the share
1 / (train bins x scale). Rates have a gamma prior of a pseudo-spikes, as many as they were shrunk with at the start;
with d the log of a unit's rate over its prior mean it costs a (exp(d) - d - 1), which together with Poisson counts is
least at (spikes + a) / (bins + a / mean).
B batch, C units, R new units, K columns of a table.
"""

import torch
from torch import Tensor, nn

from neurochorus.models.units import UnitRows

ROW_TABLES = ("read_in", "read_out", "gain", "history", "earlier")
"Rows that have a Gaussian prior; the last two only in models with spike history, or with a memory of earlier samples."


class RowPrior(nn.Module):
    """Prior of the rows from `first_row` on. Its buffers are no part of a model's state: it is not saved.

    `means[name]` (R, K) and `precisions[name]` (K,) or (K, K) for the names of ROW_TABLES; `bias` (R,): what the
    decoder gives at a unit's prior rate, and `pseudo_spikes` (R,) what it is worth (or one number for all units);
    `bins` (R,): train bins of each unit's session. `gamma`: counts, with a log rate; otherwise the bias has a Gaussian
    prior of precision `pseudo_spikes`.
    """

    def __init__(
        self,
        first_row: int,
        means: dict[str, Tensor],
        precisions: dict[str, Tensor],
        bias: Tensor,
        pseudo_spikes: Tensor | float,
        bins: Tensor,
        gamma: bool,
        strength: float = 1.0,
    ):
        super().__init__()
        self.first_row, self.gamma, self.strength = first_row, gamma, strength
        self.tables = [name for name in ROW_TABLES if name in means]
        for name in self.tables:
            self.register_buffer(f"mean_{name}", means[name].float(), persistent=False)
            self.register_buffer(f"precision_{name}", precisions[name].float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)
        self.register_buffer("bins", bins.float(), persistent=False)
        worth_R = torch.as_tensor(pseudo_spikes).float().expand(len(bias)).clone()
        self.register_buffer("pseudo_spikes", worth_R, persistent=False)

    bias: Tensor
    pseudo_spikes: Tensor
    bins: Tensor

    def forward(self, rows_BC: Tensor, units: UnitRows, scale_B: Tensor) -> Tensor:
        """What a valid bin of each sample bears of the prior of its session's new rows, (B,) or (1,)."""
        place_BC = (rows_BC - self.first_row).clamp_min(0)
        new_BC = rows_BC >= self.first_row
        found = {
            "read_in": units.read_in_BCD,
            "read_out": units.read_out_BCL,
            "gain": units.gain_BC.unsqueeze(-1),
            "history": units.history_BCK,
        }
        if units.earlier_BC is not None:
            found["earlier"] = units.earlier_BC.unsqueeze(-1)
        cost_BC = self.pseudo_spikes[place_BC] * self._of_bias(units.bias_BC.float() - self.bias[place_BC])
        for name in self.tables:
            away_BCK = found[name].float() - getattr(self, f"mean_{name}")[place_BC]
            precision = getattr(self, f"precision_{name}")
            weighed_BCK = away_BCK @ precision if precision.ndim == 2 else away_BCK * precision
            cost_BC = cost_BC + 0.5 * (weighed_BCK * away_BCK).sum(dim=-1)
        share_BC = self.strength / self.bins[place_BC] * new_BC
        return (cost_BC * share_BC).sum(dim=-1) / scale_B

    def _of_bias(self, away_BC: Tensor) -> Tensor:
        """What a bias costs so far from that of the prior rate, a pseudo-spike."""
        if not self.gamma:
            return 0.5 * away_BC.square()
        limited_BC = away_BC.clamp(max=20.0)
        return limited_BC.exp() - limited_BC - 1
