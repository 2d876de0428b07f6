"""Padding and masks: every entry of a batch is where it belongs, and what is not data is 0 and says so."""

import dataclasses

import numpy as np
import pytest
import torch

from neurochorus.data_shards.batch import Batch, Collate, covariate_widths
from neurochorus.data_shards.dataset import Sample
from neurochorus.data_shards.registry import UnitRegistry

COVARIATES = {"speed": 1, "position": 2}


@pytest.fixture
def collate(corpus, registry) -> Collate:
    return Collate(corpus.sessions, registry, COVARIATES)


def rows_of_all(corpus) -> list[int]:
    """Samples of all three sessions, of both lengths."""
    return [int(row) for session in ("a1", "b1", "a2") for row in corpus.rows_of(session, "test")[:3]]


def test_a_mixed_batch_holds_every_sample_in_its_place(corpus, registry, collate):
    samples = [corpus.read(row) for row in rows_of_all(corpus)]
    batch = collate(samples)
    assert batch.signal_BTC.shape == (8, 12, 9)
    assert batch.signal_BTC.dtype == torch.int32
    assert batch.covariates_BTK.shape == (8, 12, 3)
    assert batch.sample_ids == [sample.key for sample in samples]
    assert len(batch) == 8
    lengths = {len(sample.signal_TC) for sample in samples}
    assert lengths == {7, 12}
    for i, sample in enumerate(samples):
        bins, units = sample.signal_TC.shape
        entry = corpus.session(sample.session_id)
        np.testing.assert_array_equal(batch.signal_BTC[i, :bins, :units], sample.signal_TC)
        assert batch.signal_BTC[i].sum() == sample.signal_TC.sum()
        assert batch.bin_mask_BT[i].tolist() == [True] * bins + [False] * (12 - bins)
        assert batch.unit_rows_BC[i, :units].tolist() == registry.rows(entry).tolist()
        assert batch.unit_rows_BC[i, units:].tolist() == [0] * (9 - units)
        assert batch.unit_mask_BC[i].sum() == units
        assert batch.session_B[i] == registry.session_index(sample.session_id)
        assert batch.subject_B[i] == registry.subject_index(entry.subject_id)


def test_covariates_come_in_the_chosen_order_with_their_mask(corpus, collate):
    samples = [corpus.read(row) for row in rows_of_all(corpus)]
    batch = collate(samples)
    assert torch.isfinite(batch.covariates_BTK).all()
    for i, sample in enumerate(samples):
        values = np.full((12, 3), np.nan, dtype=np.float32)
        bins = len(sample.signal_TC)
        if sample.session_id == "a1":  # in the shard: position (2 columns), then speed
            assert sample.covariates_TK is not None
            values[:bins] = sample.covariates_TK[:, [2, 0, 1]]
        if sample.session_id == "a2":
            values[:bins, 0] = 1.0
        np.testing.assert_array_equal(batch.covariate_mask_BTK[i], ~np.isnan(values))
        np.testing.assert_array_equal(batch.covariates_BTK[i], np.nan_to_num(values))
    speed_of_a1 = batch.covariate_mask_BTK[:3, :, 0]
    assert speed_of_a1.any()
    assert not speed_of_a1[batch.bin_mask_BT[:3]].all()


def test_columns_are_found_by_sorted_names_whatever_the_order_in_the_manifest(corpus, registry, collate):
    entry = corpus.session("a1")
    turned = dataclasses.replace(entry, covariates=dict(sorted(entry.covariates.items(), reverse=True)))
    sample = corpus.read(0)
    turned_batch = Collate([turned], registry, COVARIATES)([sample])
    assert torch.equal(turned_batch.covariates_BTK, collate([sample]).covariates_BTK)


def test_a_batch_of_one_session_keeps_its_type_and_has_no_padding(corpus, registry):
    collate = Collate(corpus.sessions, registry)
    a1 = collate([corpus.read(int(row)) for row in corpus.rows_of("a1", "train")[:3]])
    assert a1.signal_BTC.dtype == torch.uint8
    assert a1.signal_BTC.shape == (3, 12, 5)
    assert a1.unit_mask_BC.all()
    assert a1.bin_mask_BT.all()
    assert a1.covariates_BTK.shape == (3, 12, 0)
    assert a1.covariate_mask_BTK.shape == (3, 12, 0)


def test_windows_cut_signal_and_covariates_alike(corpus, collate):
    sample = corpus.read(int(corpus.rows_of("a1", "train")[0]))
    batch = collate([sample, sample], starts=[2, 7], window_bins=5)
    for i, start in enumerate((2, 7)):
        np.testing.assert_array_equal(batch.signal_BTC[i], sample.signal_TC[start : start + 5])
        assert sample.covariates_TK is not None
        np.testing.assert_array_equal(batch.covariates_BTK[i, :, 1:], sample.covariates_TK[start : start + 5, :2])
    short = corpus.read(int(corpus.rows_of("a1", "test")[0]))
    assert len(short.signal_TC) == 7
    mixed = collate([sample, short], starts=[0, 0], window_bins=9)
    assert mixed.bin_mask_BT.sum(1).tolist() == [9, 7]
    assert collate([sample]).signal_BTC.shape[1] == 12


def test_a_continuous_signal_stays_float32(corpus, registry, collate):
    signal = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
    batch = collate([Sample("a1-0", "a1", signal, None, {})])
    assert batch.signal_BTC.dtype == torch.float32
    np.testing.assert_array_equal(batch.signal_BTC[0], signal)
    assert not batch.covariate_mask_BTK.any()


def test_pinning_without_a_device_and_moving_are_safe(corpus, collate, monkeypatch):
    batch = collate([corpus.read(0)])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert batch.pin_memory() is batch
    moved = batch.to("meta", non_blocking=True)
    assert isinstance(moved, Batch)
    plain = ("sample_ids", "hidden_BTC", "units_missing", "earlier_BC", "earlier_bins_B")
    tensors = [field.name for field in dataclasses.fields(Batch) if field.name not in plain]
    assert all(getattr(moved, name).device.type == "meta" for name in tensors)
    assert moved.sample_ids == batch.sample_ids
    assert batch.signal_BTC.device.type == "cpu"


def test_every_tensor_is_pinned_where_there_is_a_device(corpus, collate, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = collate([corpus.read(0)])
    assert batch.pin_memory().sample_ids == batch.sample_ids
    assert len(pinned) == 7


def test_widths_are_looked_up_in_the_given_order(corpus):
    assert list(covariate_widths(corpus.sessions, ["speed", "position"]).items()) == [("speed", 1), ("position", 2)]
    with pytest.raises(ValueError, match=r"covariate 'sped'.*'speed'"):
        covariate_widths(corpus.sessions, ["sped"])
    wide = dataclasses.replace(corpus.session("a2"), covariates={"speed": 3})
    with pytest.raises(ValueError, match="'speed' has 3 columns in session 'a2' and 1"):
        covariate_widths([corpus.session("a1"), wide], ["speed"])


def test_what_does_not_fit_is_refused_before_any_sample(corpus, registry):
    with pytest.raises(ValueError, match="'a1': covariate 'position' has 2 columns, expected 4"):
        Collate(corpus.sessions, registry, {"position": 4})
    with pytest.raises(ValueError, match="does not know session 'b1'"):
        Collate(corpus.sessions, UnitRegistry.from_sessions(corpus.sessions[:2]))
