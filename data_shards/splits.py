"""Which part of a session is for training, validation and test."""

from dataclasses import field
from typing import Literal

import numpy as np

from neurochorus.data_shards.recording import SPLITS
from neurochorus.data_shards.settings import settings


@settings
class SplitRecipe:
    method: Literal["random", "blocks", "given"] = "random"
    "random: trials at random. blocks: stretches of a continuous recording at random. given: read from the file."
    fractions: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    "Shares of train, valid and test, for random and blocks; they add up to 1."
    seed: int = 0
    "The same seed is used for every session, so that a session's split does not depend on which others there are."
    block_bins: int | None = None
    "Length of a block, for blocks."
    gap_bins: int = 0
    "Bins left out at the start of every block, so that slow signals do not leak from one split into another."
    key: str | None = None
    "For given: a text array in the file with train, valid or test for each trial; none beside signal.split_keys."

    def problems(self) -> list[str]:
        found = []
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            found.append(f"fractions: {list(self.fractions)}; expected three shares that add up to 1")
        if self.seed < 0:
            found.append(f"seed: {self.seed}; expected 0 or more")
        if (self.method == "blocks") != (self.block_bins is not None):
            found.append("block_bins: set it for the method blocks, and only for it")
        if self.block_bins is not None and self.block_bins <= max(self.gap_bins, 0):
            found.append(f"block_bins: {self.block_bins}; expected at least 1 and more than gap_bins ({self.gap_bins})")
        if self.gap_bins < 0 or (self.gap_bins and self.method != "blocks"):
            found.append(f"gap_bins: {self.gap_bins}; expected 0 or more, and only for the method blocks")
        if self.method != "given" and self.key is not None:
            found.append("key: set it for the method given, and only for it")
        return found


def random_splits(count: int, recipe: SplitRecipe) -> list[str]:
    """Return a split name for each of `count` trials or blocks.

    `default_rng(seed).permutation(count)` is cut at int(share * count), with the running shares rounded to 9
    digits: 0.7 + 0.1 must be 0.8, not 0.7999..., or the cut moves by one.
    """
    order = np.random.default_rng(recipe.seed).permutation(count)
    cuts = [int(round(share, 9) * count) for share in np.cumsum(recipe.fractions)[:2].tolist()]
    names = np.empty(count, dtype=object)
    for name, members in zip(SPLITS, np.split(order, cuts)):
        names[members] = name
    return names.tolist()


def block_bounds(bins: int, recipe: SplitRecipe) -> list[tuple[int, int]]:
    """Return [start, stop) of consecutive blocks of `block_bins` bins; the last may be shorter. Gaps are taken off."""
    assert recipe.block_bins is not None
    starts = range(0, bins, recipe.block_bins)
    bounds = [(start + recipe.gap_bins, min(start + recipe.block_bins, bins)) for start in starts]
    return [(start, stop) for start, stop in bounds if stop > start]
