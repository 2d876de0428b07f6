"""Augmentations do what they say, at the rate they are given, the same for the same seed and sample."""

import dataclasses

import numpy as np
import pytest
import torch

from neurochorus.data_shards.augment import (
    AugmentStep,
    augmented,
    coordinated_dropout,
    generator_for,
    shifts,
    unit_dropout,
)
from neurochorus.data_shards.batch import Batch, Collate
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry


@pytest.fixture
def one_session(corpus, registry) -> Batch:
    rows = corpus.rows_of("a2", "train")[:6]
    return Collate(corpus.sessions, registry)([corpus.read(int(row)) for row in rows])


@pytest.fixture
def mixed(corpus, registry) -> Batch:
    rows = [int(row) for name in ("a1", "b1", "a2") for row in corpus.rows_of(name, "train")[:3]]
    return Collate(corpus.sessions, registry)([corpus.read(row) for row in rows])


def test_a_unit_that_is_left_out_is_padding_for_all_samples_of_its_session(one_session):
    left_out = 0
    for number in range(300):
        batch = unit_dropout(one_session, generator_for(0, number), 0.25)
        gone_C = ~batch.unit_mask_BC[0]
        left_out += int(gone_C.sum())
        assert not batch.signal_BTC[:, :, gone_C].any()
        assert torch.equal(batch.signal_BTC[:, :, ~gone_C], one_session.signal_BTC[:, :, ~gone_C])
        assert torch.equal(batch.unit_rows_BC[0, ~gone_C], one_session.unit_rows_BC[0, ~gone_C])
    assert one_session.unit_mask_BC.all(), "the batch it was made from is as it was"
    assert left_out / (300 * 9) == pytest.approx(0.25, abs=0.03)


def test_at_least_one_unit_stays_and_padding_is_none(mixed):
    for number in range(50):
        batch = unit_dropout(mixed, generator_for(1, number), 0.95)
        assert (batch.unit_mask_BC.sum(dim=1) >= 1).all()
        assert not (batch.unit_mask_BC & ~mixed.unit_mask_BC).any()
    assert not torch.equal(batch.unit_mask_BC[0], batch.unit_mask_BC[1]) or len(batch) > 1


@pytest.mark.parametrize("span", [1, 4])
def test_hidden_stretches_have_their_share_and_length_and_the_data_stay(one_session, span):
    shares = []
    for number in range(200):
        batch = coordinated_dropout(one_session, generator_for(2, number), 0.3, span)
        assert batch.hidden_BTC is not None
        assert torch.equal(batch.signal_BTC, one_session.signal_BTC)
        shares.append(float(batch.hidden_BTC.float().mean()))
        inside = batch.hidden_BTC[0, :, 0].tolist()
        runs = "".join("x" if hidden else " " for hidden in inside).strip().split()
        within = runs[1:-1] if inside[0] or inside[-1] else runs
        assert all(len(run) >= span for run in within)
    assert np.mean(shares) == pytest.approx(0.3, abs=0.015)


def test_jitter_moves_windows_by_less_than_a_bin_and_not_out_of_their_sample():
    step = [AugmentStep(name="bin_jitter")]
    slack_N = np.tile([0, 1, 2, 30], 500)
    moved_N = np.asarray(shifts(step, generator_for(3, 0), slack_N, 3))
    for slack, places in ((0, 1), (1, 2), (2, 3), (30, 3)):
        counts = np.bincount(moved_N[slack_N == slack], minlength=3)
        assert (counts[places:] == 0).all()
        assert counts[:places].min() > 500 / places * 0.75
    assert shifts(step, generator_for(3, 0), slack_N, 1) == 0
    assert shifts([AugmentStep(name="unit_dropout")], generator_for(3, 0), slack_N, 3) == 0


def test_jittered_windows_are_re_binned_from_the_stored_bins(data_path):
    corpus, stored = Corpus(data_path, bin_s=0.06), Corpus(data_path)
    plan = SamplePlan.from_corpus(corpus, "train", seed=5, group=4, window_bins=2)
    registry = UnitRegistry.from_sessions(corpus.sessions)
    batches = training_batches(corpus, plan, registry, micro_batch=4, augment=[AugmentStep(name="bin_jitter")])
    samples = {stored.read(row).key: stored.read(row).signal_TC.astype(int) for row in range(len(stored))}
    shifts_seen = set()
    for _ in range(40):
        batch = next(batches)
        for i, name in enumerate(batch.sample_ids):
            key, _, start = name.partition("+")
            fine = [samples[key][3 * int(start or 0) + s :][:6] for s in range(3)]
            sums = [part.reshape(2, 3, -1).sum(axis=1) for part in fine if len(part) == 6]
            fits = [s for s, wide in enumerate(sums) if np.array_equal(batch.signal_BTC[i], wide)]
            assert fits
            shifts_seen.add(fits[0])
    assert shifts_seen == {0, 1, 2}


def test_steps_follow_each_other_and_depend_on_seed_and_sample_alone(corpus, registry):
    plan = SamplePlan.from_corpus(corpus, "train", seed=5, group=2)
    steps = [AugmentStep(name="unit_dropout", share=0.4), AugmentStep(name="coordinated_dropout", share=0.4)]
    options = {"micro_batch": 4, "augment": steps}
    whole = training_batches(corpus, plan, registry, **options)
    ranks = [training_batches(corpus, plan, registry, rank=r, world=2, workers=r, **options) for r in range(2)]
    for number in range(8):
        one, other = next(whole), next(ranks[number % 2])
        for field in dataclasses.fields(Batch):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            assert ours.equal(theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    for rank in ranks:
        rank.close()
    assert augmented(one, [], generator_for(0, 0)) is one


@pytest.mark.parametrize(("values", "text"), [({"share": 1.0}, "share: expected"), ({"span_bins": 0}, "span_bins")])
def test_settings_that_make_no_sense_are_named(values, text):
    assert text in AugmentStep(name="unit_dropout", **values).problems()[0]
