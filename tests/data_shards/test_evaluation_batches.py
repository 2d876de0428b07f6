"""Evaluation: every window once on any number of ranks, which get equally many batches."""

import itertools

import numpy as np
import pytest
import torch

from neurochorus.data_shards.evaluation import evaluation_batches


def test_evaluation_gives_every_sample_once_in_order(corpus, registry):
    batches = list(evaluation_batches(corpus, registry, "valid", batch_size=3, covariates=["position"]))
    expected = [int(row) for name in ("a1", "a2", "b1") for row in corpus.rows_of(name, "valid")]
    assert [ids for batch in batches for ids in batch.sample_ids] == [corpus.read(row).key for row in expected]
    assert all(len(batch.session_B.unique()) == 1 and 1 <= len(batch) <= 3 for batch in batches)
    assert {batch.covariates_BTK.shape[2] for batch in batches} == {2}


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("window", [None, 5, 12])
def test_every_window_is_read_once_on_any_number_of_ranks(corpus, registry, world, window):
    ranks = [
        list(evaluation_batches(corpus, registry, "train", batch_size=4, window_bins=window, rank=rank, world=world))
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1, "a rank with fewer would leave the others waiting"
    in_turn = [batch for turn in itertools.zip_longest(*ranks) for batch in turn]
    alone = list(evaluation_batches(corpus, registry, "train", batch_size=4, window_bins=window))
    assert [batch.sample_ids for batch in in_turn if batch.sample_ids] == [batch.sample_ids for batch in alone]
    bins = sum(int(batch.bin_mask_BT.sum()) for batch in in_turn)
    counts = sum(int(batch.signal_BTC.sum()) for batch in in_turn)
    rows = [int(row) for name in ("a1", "a2", "b1") for row in corpus.rows_of(name, "train")]
    signals = [corpus.read(row).signal_TC for row in rows]
    assert bins == sum(map(len, signals))
    assert counts == sum(int(signal.sum(dtype=np.int64)) for signal in signals)
    for batch in in_turn[len(alone) :]:
        assert (batch.sample_ids, batch.signal_BTC.any(), batch.bin_mask_BT.any()) == ([], False, False)
        assert batch.signal_BTC.shape[0] == 1
        assert batch.unit_mask_BC.all()
        assert torch.equal(batch.session_B, alone[-1].session_B[:1])


def test_windows_are_padded_masked_and_named(corpus, registry):
    (batch,) = evaluation_batches(corpus, registry, "valid", ["b1"], window_bins=5)
    rows = corpus.rows_of("b1", "valid")
    cuts = [(int(row), start) for row in rows for start in range(0, len(corpus.read(int(row)).signal_TC), 5)]
    assert batch.sample_ids == [f"{corpus.read(row).key}+{start}" for row, start in cuts]
    for i, (row, start) in enumerate(cuts):
        window = corpus.read(row).signal_TC[start : start + 5]
        assert batch.bin_mask_BT[i].tolist() == [True] * len(window) + [False] * (5 - len(window))
        np.testing.assert_array_equal(batch.signal_BTC[i, : len(window)], window)
        assert not batch.signal_BTC[i, len(window) :].any()


def test_a_stride_makes_windows_overlap(corpus, registry):
    (batch,) = evaluation_batches(corpus, registry, "valid", ["b1"], window_bins=6, stride=3)
    first = [name.partition("+") for name in batch.sample_ids]
    key = first[0][0]
    assert [int(start) for name, _, start in first if name == key] == [0, 3, 6]


@pytest.mark.parametrize("options", [{"stride": 0}, {"window_bins": 0}, {"batch_size": 0}, {"rank": 2, "world": 2}])
def test_numbers_that_make_no_sense_are_refused_at_once(corpus, registry, options):
    with pytest.raises(ValueError, match=r"at least 1|ranks count from 0"):
        evaluation_batches(corpus, registry, "valid", **options)
