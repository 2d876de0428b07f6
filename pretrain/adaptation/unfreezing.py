"""Unfreezing by depth: the layers nearest the output move first (Howard & Ruder 2018, arXiv 1801.06146).

Groups of a part from the top (its output) downwards:

    0                head and final norm; of the autoencoder all that is behind the encoder's blocks
    1 ... blocks     the last block, the block before it, ...
    blocks + 1       what reads the input: latents, covariates, learned places (of the autoencoder only rows read it)

Until a group begins its learning rate is 0 and no weight decay acts on it. All have gradients from the first step on,
the same on all ranks, which fill Adam's averages and count in the norm that is clipped.
"""

import re

from torch import nn

from neurochorus.data_shards.settings import settings
from neurochorus.models.units import Table

BLOCK = re.compile(r"(?:encoder|transformer)\.blocks\.(\d+)\.|gru\.layers\.\w+_l(\d+)$")
BOTTOM = re.compile(r"(read|level|covariates)\.|(start|positions|hidden_token|buffer_vectors)$")


@settings
class UnfreezeSection:
    begins: list[float] | None = None
    """Share of a stage's steps at which each group begins to move, from the output downwards; groups beyond the list
    never do. null: evenly spaced from 0 to `last`."""
    last: float = 0.5
    """Share of the steps at which the lowest group begins, if `begins` is null."""

    def problems(self) -> list[str]:
        shares = [self.last] if self.begins is None else self.begins
        found = [f"begins: expected shares of the steps in [0, 1), found {s}" for s in shares if not 0 <= s < 1]
        if self.begins is not None and sorted(self.begins) != self.begins:
            found.append(f"begins: {self.begins}: a group cannot begin before one that is nearer the output")
        return found + ([] if shares else ["begins: expected one share or more, or null"])


def depths(part: nn.Module) -> dict[str, int]:
    """Name of each parameter that is no table's -> its group, 0 nearest the output; groups without any are left out."""
    tables = {f"{name}.weight" for name, module in part.named_modules() if isinstance(module, Table)}
    places: dict[str, float] = {}
    for name, _ in part.named_parameters():
        if name in tables:
            continue
        found = BLOCK.match(name)
        if found:
            places[name] = float(found[1] or found[2])
        else:
            places[name] = -1.0 if BOTTOM.match(name) else float("inf")
    order = sorted(set(places.values()), reverse=True)
    return {name: order.index(place) for name, place in places.items()}


def beginnings(part: nn.Module, section: UnfreezeSection) -> dict[str, float | None]:
    """Name of each parameter that is no table's -> share of the steps at which it begins to move; None: never."""
    groups = depths(part)
    count = 1 + max(groups.values(), default=0)
    begins = section.begins
    if begins is None:
        begins = [section.last * group / max(1, count - 1) for group in range(count)]
    return {name: begins[group] if group < len(begins) else None for name, group in groups.items()}
