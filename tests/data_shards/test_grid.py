import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from neurochorus.data_shards.importers.grid import Grid, bins_inside, intersect, merge, runs

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)), max_size=12)


def as_intervals(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array([[start, start + length] for start, length in pairs], dtype=float).reshape(-1, 2)


def covered(intervals: np.ndarray) -> set[int]:
    return {unit for start, stop in intervals for unit in range(int(start), int(stop))}


@given(INTERVALS, INTERVALS)
@settings(max_examples=60, deadline=None)
def test_intervals_are_merged_and_intersected_as_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    merged = merge(as_intervals(one))
    assert covered(merged) == covered(as_intervals(one))
    assert (merged[1:, 0] > merged[:-1, 1]).all()
    both = intersect(as_intervals(one), as_intervals(other))
    assert covered(both) == covered(as_intervals(one)) & covered(as_intervals(other))


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), min_size=1, max_size=6),
    st.sampled_from([0.001, 0.02, 0.1, 1 / 3]),
)
@settings(max_examples=60, deadline=None)
def test_each_bin_holds_its_own_middle_and_the_time_that_opens_it(gaps: list[tuple[float, int]], bin_s: float) -> None:
    starts, bins, now = [], [], 0.0
    for gap, length in gaps:
        now += gap
        starts.append(now)
        bins.append(length)
        now += length * bin_s + bin_s
    grid = Grid.of(np.array([[start, start + n * bin_s] for start, n in zip(starts, bins)]), bin_s)
    assert grid.bins.tolist() == bins
    centers = grid.centers()
    assert grid.index(centers).tolist() == list(range(grid.total))
    assert grid.index(centers - bin_s / 2).tolist() == list(range(grid.total))
    ends = grid.starts_s + grid.bins * bin_s
    assert grid.index(ends).tolist() == [-1] * len(ends)
    assert grid.index(np.array([starts[0] - bin_s, now + bin_s, -1e300, 1e300])).tolist() == [-1] * 4


def test_bins_lie_inside_intervals_only_as_a_whole() -> None:
    centers = 0.05 + 0.1 * np.arange(10)
    inside = bins_inside(centers, 0.1, np.array([[0.0, 0.25], [0.25, 0.4], [0.55, 0.9]]))
    assert np.flatnonzero(inside).tolist() == [0, 1, 2, 3, 6, 7, 8]
    assert not bins_inside(centers, 0.1, np.zeros((0, 2))).any()
    assert runs(inside).tolist() == [[0, 4], [6, 9]]
    assert runs(np.zeros(3, dtype=bool)).tolist() == []
