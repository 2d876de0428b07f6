"""Wider bins at read time: what comes out is what the same recording written in those bins would have given."""

import dataclasses

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.rebinning import rebinned_covariates, rebinned_signal
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset


def test_counts_add_and_do_not_overflow():
    counts = np.full((2, 7, 3), 255, dtype=np.uint8)
    wide = rebinned_signal(counts, 3)
    assert wide.shape == (2, 2, 3)
    assert wide.dtype == np.int32
    assert (wide == 765).all()
    assert (rebinned_signal(counts.astype(np.uint16) * 257, 7) == 7 * 65535).all()
    assert rebinned_signal(counts, 1) is counts


def test_continuous_values_are_averaged_and_missing_covariates_left_out():
    values = np.array([[[1.0], [3.0], [np.nan], [5.0], [np.nan], [np.nan]]], dtype=np.float32)
    np.testing.assert_array_equal(rebinned_covariates(values, 2)[0, :, 0], [2.0, 5.0, np.nan])
    assert rebinned_covariates(values, 2).dtype == np.float32
    signal = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    np.testing.assert_array_equal(rebinned_signal(signal, 3)[0], [[2, 3], [8, 9]])


def test_a_corpus_says_and_gives_wider_bins_everywhere(data_path):
    fine, wide = Corpus(data_path), Corpus(data_path, bin_s=0.06)
    assert wide.bin_s == 0.06
    assert {entry.bin_s for entry in wide.sessions} == {0.06}
    assert wide.hash() != fine.hash()
    assert Corpus(data_path, bin_s=0.02).hash() == fine.hash()
    for entry in fine.sessions:
        name = entry.session_id
        assert wide.bins_of(name, "train").tolist() == (fine.bins_of(name, "train") // 3).tolist()
        np.testing.assert_allclose(wide.session(name).unit_mean, 3 * np.array(entry.unit_mean))
        assert wide.session(name).unit_hash == entry.unit_hash
        row = int(fine.rows_of(name, "train")[4])
        before, after = fine.read(row), wide.read(row)
        whole = len(before.signal_TC) // 3
        sums = before.signal_TC[: 3 * whole].astype(int).reshape(whole, 3, -1).sum(axis=1)
        np.testing.assert_array_equal(after.signal_TC, sums)
        assert (after.covariates_TK is None) == (before.covariates_TK is None)


def test_batches_hold_wider_bins_and_windows_count_them(data_path):
    corpus = Corpus(data_path, bin_s=0.04)
    registry = UnitRegistry.from_sessions(corpus.sessions)
    assert registry.bin_s == 0.04
    plan = SamplePlan.from_corpus(corpus, "train", seed=3, group=4, window_bins=3)
    batches = training_batches(corpus, plan, registry, micro_batch=4, covariates=["speed"])
    by_key = {corpus.read(int(row)).key: corpus.read(int(row)) for row in range(len(corpus))}
    for _ in range(30):
        batch = next(batches)
        assert batch.signal_BTC.shape[1] == 3
        for i, name in enumerate(batch.sample_ids):
            key, _, start = name.partition("+")
            first = int(start or 0)
            window = slice(first, first + 3)
            np.testing.assert_array_equal(batch.signal_BTC[i], by_key[key].signal_TC[window])
    seen = sum(int(batch.signal_BTC.sum()) for batch in evaluation_batches(corpus, registry, "test", window_bins=4))
    assert seen == sum(
        int(corpus.read(int(row)).signal_TC.sum(dtype=np.int64))
        for entry in corpus.sessions
        for row in corpus.rows_of(entry.session_id, "test")
    )


def test_sessions_of_different_bins_are_brought_to_one_width_or_refused(data_path, make_recording, tmp_path):
    other = dataclasses.replace(make_recording("c1", "cleo", 4, 12, 8), bin_s=0.03)
    write_dataset([other], tmp_path / "other", name="other", sample_bins=12)
    paths = [data_path, tmp_path / "other"]
    with pytest.raises(DatasetError, match=r"'c1' has bin_s 0\.03, .* has 0\.02: set data\.bin_s"):
        Corpus(paths)
    with pytest.raises(DatasetError, match=r"other: session 'c1' is stored in bins of 0\.03 s.*whole bins of 0\.04 s"):
        Corpus(paths, bin_s=0.04)
    with pytest.raises(DatasetError, match=r"'a1' is stored in bins of 0\.02 s"):
        Corpus(paths, bin_s=0.01)
    corpus = Corpus(paths, bin_s=0.06)
    assert [corpus.factor_of(name) for name in ("a1", "c1")] == [3, 2]
    assert corpus.bins_of("c1", "train").max() == 6
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=2, window_bins=2)
    registry = UnitRegistry.from_sessions(corpus.sessions)
    mixed = next(training_batches(corpus, plan, registry, micro_batch=16))
    assert mixed.bin_mask_BT.all()
    with pytest.raises(ValueError, match=r"'c1': bins of the data are 0\.06 s, the model was trained on 0\.03 s"):
        UnitRegistry.from_sessions(Corpus(paths[1:]).sessions).rows(corpus.session("c1"))


def test_samples_too_short_for_one_wide_bin_are_no_windows(data_path):
    corpus = Corpus(data_path, bin_s=0.16)  # 8 of the stored bins; every fifth sample has 7
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=2)
    long = {name: int((Corpus(data_path).bins_of(name, "train") >= 8).sum()) for name in plan.session_ids}
    assert plan.windows == long
    registry = UnitRegistry.from_sessions(corpus.sessions)
    batches = training_batches(corpus, plan, registry, micro_batch=2)
    assert all(next(batches).bin_mask_BT.all() for _ in range(40))
