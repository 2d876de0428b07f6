"""A share of the samples: nested, the same everywhere, and all that statistics are made of."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.thinning import ThinnedCorpus


def test_less_is_a_subset_of_more_and_test_samples_stay(two_sessions: Path) -> None:
    whole = Corpus(two_sessions)
    thinned = {share: ThinnedCorpus(two_sessions, None, ["a1"], share) for share in (0.01, 0.1, 0.25, 0.5, 1.0)}
    for split in ("train", "valid"):
        rows = [set(corpus.rows_of("a1", split).tolist()) for corpus in thinned.values()]
        assert all(less <= more for less, more in itertools.pairwise(rows))
        everything = whole.rows_of("a1", split)
        assert len(rows[0]) == 1
        assert rows[-1] == set(everything.tolist())
        assert len(rows[3]) == round(0.5 * len(everything))
        assert (np.diff(thinned[0.5].rows_of("a1", split)) > 0).all()
    assert np.array_equal(thinned[0.1].rows_of("a1", "test"), whole.rows_of("a1", "test"))
    assert np.array_equal(thinned[0.1].rows_of("b1", "train"), whole.rows_of("b1", "train"))


def test_which_samples_depends_on_the_seed_and_not_on_other_sessions(two_sessions: Path) -> None:
    one, both = (ThinnedCorpus(two_sessions, None, names, 0.3) for names in (["b1"], ["a1", "b1"]))
    other = ThinnedCorpus(two_sessions, None, ["b1"], 0.3, seed=1)
    assert np.array_equal(one.rows_of("b1", "train"), both.rows_of("b1", "train"))
    assert not np.array_equal(one.rows_of("b1", "train"), other.rows_of("b1", "train"))


@pytest.mark.parametrize("bin_s", [None, 0.04])
def test_statistics_are_those_of_the_chosen_train_samples(two_sessions: Path, bin_s: float | None) -> None:
    corpus = ThinnedCorpus(two_sessions, bin_s, ["a1"], 0.2, seed=3)
    signal = np.concatenate([corpus.read(row).signal_TC for row in corpus.rows_of("a1", "train").tolist()])
    entry = corpus.session("a1")
    np.testing.assert_allclose(entry.unit_mean, signal.mean(axis=0))
    np.testing.assert_allclose(entry.unit_sd, signal.std(axis=0))
    assert entry.train_bins == len(signal) == corpus.bins_of("a1", "train").sum()
    assert corpus.sessions[0] == entry
    assert not np.allclose(entry.unit_mean, Corpus(two_sessions, bin_s).session("a1").unit_mean)


def test_a_worker_process_sees_the_same(two_sessions: Path) -> None:
    corpus = ThinnedCorpus(two_sessions, None, ["a1"], 0.2, seed=3)
    other = pickle.loads(pickle.dumps(corpus))
    assert np.array_equal(other.rows_of("a1", "train"), corpus.rows_of("a1", "train"))
    assert other.session("a1") == corpus.session("a1")
    joined = corpus.with_datasets([])
    assert isinstance(joined, ThinnedCorpus)
    assert joined.session("a1") == corpus.session("a1")


def test_plans_and_passes_keep_to_the_chosen_samples(two_sessions: Path) -> None:
    corpus = ThinnedCorpus(two_sessions, None, ["a1"], 0.25)
    chosen = len(corpus.rows_of("a1", "train"))
    assert SamplePlan.from_corpus(corpus, "train", ["a1"], seed=0, group=2).windows == {"a1": chosen}
    registry = UnitRegistry.from_sessions(corpus.sessions)
    names = [
        name
        for rank in range(3)
        for batch in evaluation_batches(corpus, registry, "train", ["a1"], batch_size=2, rank=rank, world=3)
        for name in batch.sample_ids
    ]
    assert len(names) == len(set(names)) == chosen


def test_no_share_at_all_is_refused(two_sessions: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.fraction is 0"):
        ThinnedCorpus(two_sessions, None, ["a1"], 0.0)
