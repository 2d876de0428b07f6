import numpy as np
import pytest

from neurochorus.data_shards.splits import SplitRecipe, block_bounds, random_splits


@pytest.mark.parametrize("count", [1, 9, 10, 114, 251, 447, 1000])
@pytest.mark.parametrize("seed", [0, 7])
def test_random_splits_are_those_of_the_published_floor(count: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(count)
    expected = np.empty(count, dtype=object)
    expected[order[: int(0.7 * count)]] = "train"
    expected[order[int(0.7 * count) : int(0.8 * count)]] = "valid"
    expected[order[int(0.8 * count) :]] = "test"
    assert random_splits(count, SplitRecipe(seed=seed)) == expected.tolist()


def test_blocks_cover_a_recording_but_for_their_gaps() -> None:
    assert block_bounds(25, SplitRecipe(method="blocks", block_bins=10)) == [(0, 10), (10, 20), (20, 25)]
    gaps = SplitRecipe(method="blocks", block_bins=10, gap_bins=3)
    assert block_bounds(22, gaps) == [(3, 10), (13, 20)]  # the last block would be all gap
