"""Windows: inside their sample, each once an epoch, anywhere that fits, and for evaluation every bin once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from neurochorus.data_shards.windows import (
    WindowTable,
    evaluation_starts,
    keyed_draws,
    window_starts,
    windows_in,
)

seeds = st.integers(0, 2**40)


@given(seed=seeds, first=st.integers(0, 2**50), bins=st.integers(1, 5000), window=st.integers(1, 500))
def test_windows_stay_inside_their_share_of_the_sample(seed, first, bins, window):
    count = int(windows_in(np.array([bins]), window)[0])
    assert count == max(1, bins // window)
    slots = np.arange(count)
    starts = window_starts(seed, first, np.full(count, bins), slots, window)
    assert starts.tolist() == window_starts(seed, first, np.full(count, bins), slots, window).tolist()
    assert (starts >= 0).all()
    assert (starts + min(window, bins) <= bins).all()
    assert (np.diff(starts) > 0).all(), "shares do not overlap"


@given(seed=seeds, first=st.integers(0, 2**45), count=st.integers(1, 40), later=st.integers(0, 39))
def test_draws_are_by_number(seed, first, count, later):
    whole = keyed_draws(seed, "window", first, 80)
    np.testing.assert_array_equal(keyed_draws(seed, "window", first + later, count), whole[later : later + count])


def test_starts_are_uniform_over_all_places_and_depend_on_seed_and_number():
    numbers, bins = np.arange(4000), np.full(4000, 14)
    starts = window_starts(3, 0, bins, numbers % 2, 6)  # 9 places; the shares of two windows are 4 and 5 of them
    counts = np.bincount(starts, minlength=9)
    assert np.abs(counts[:4] - 500).max() < 95  # over 4 standard deviations
    assert np.abs(counts[4:] - 400).max() < 85
    assert starts.tolist() != window_starts(4, 0, bins, numbers % 2, 6).tolist()
    assert starts.tolist() != window_starts(3, 1, bins, numbers % 2, 6).tolist()
    assert not window_starts(3, 0, bins, np.zeros(4000, dtype=int), None).any()


def test_starts_are_the_same_on_every_machine_and_version():
    assert window_starts(7, 123456, np.full(4, 100), np.arange(4) % 3, 30).tolist() == [21, 45, 49, 15]


@given(bins=st.integers(0, 300), window=st.integers(1, 60))
def test_evaluation_windows_hold_every_bin_once(bins, window):
    seen = Counter(b for start in evaluation_starts(bins, window) for b in range(start, min(start + window, bins)))
    assert seen == dict.fromkeys(range(bins), 1)


@given(bins=st.integers(1, 300), window=st.integers(1, 60), data=st.data())
def test_with_a_stride_windows_overlap_and_none_is_in_vain(bins, window, data):
    stride = data.draw(st.integers(1, window))
    starts = list(evaluation_starts(bins, window, stride))
    assert starts == list(range(0, stride * len(starts), stride))
    covered = [b for start in starts for b in range(start, min(start + window, bins))]
    assert set(covered) == set(range(bins))
    assert len(starts) == 1 or starts[-2] + window < bins, "the last window holds bins that no other one does"


@given(window=st.integers(1, 15))
@hypothesis_settings(max_examples=15, deadline=None)
def test_a_table_finds_every_window_of_every_sample(window, whole_corpus):
    table = WindowTable(whole_corpus, "train", window)
    for name in ("a1", "a2", "b1"):
        rows, bins = whole_corpus.rows_of(name, "train"), whole_corpus.bins_of(name, "train")
        found = table.find(name, np.arange(table.count(name)))
        expected = [(r, b, s) for r, b in zip(rows.tolist(), bins.tolist()) for s in range(max(1, b // window))]
        assert list(zip(*(column.tolist() for column in found))) == expected


def test_a_window_of_no_bins_is_refused(whole_corpus):
    with pytest.raises(ValueError, match="window_bins is 0"):
        WindowTable(whole_corpus, "train", 0)
