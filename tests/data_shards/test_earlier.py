"""What came before a window: earlier train samples only, the recent ones counting most."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards import Corpus, SamplePlan, UnitRegistry, evaluation_batches, training_batches
from neurochorus.data_shards.earlier import Earlier, EarlierActivity
from neurochorus.data_shards.thinning import ThinnedCorpus

MEMORY = 30.0


def told(corpus: Corpus, session_id: str, row: int) -> tuple[np.ndarray, float]:
    """The same, bin by bin over all train samples before the row, by how long before it each bin was recorded."""
    start = float(corpus.read(row).meta["start"]) / corpus.factor_of(session_id)
    sums_C, worth = np.zeros(len(corpus.session(session_id).units)), 0.0
    for other in corpus.rows_of(session_id, "train").tolist():
        if other < row:
            sample = corpus.read(other)
            first = float(sample.meta["start"]) / corpus.factor_of(session_id)
            weight_T = np.exp(-(start - 1 - first - np.arange(len(sample.signal_TC))) / MEMORY)
            sums_C, worth = sums_C + weight_T @ sample.signal_TC, worth + weight_T.sum()
    return sums_C, worth


@pytest.mark.parametrize("bin_s", [None, 0.04])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_sums_are_those_of_all_earlier_train_bins(two_sessions: Path, split: str, bin_s: float | None) -> None:
    corpus = Corpus(two_sessions, bin_s)
    rows = corpus.rows_of("a1", split)[::-1]
    found = EarlierActivity(corpus, MEMORY).before("a1", rows)
    for place, row in enumerate(rows.tolist()):
        sums_C, bins = told(corpus, "a1", row)
        np.testing.assert_allclose(found.sums_NC[place], sums_C, rtol=1e-4, atol=1e-5)
        assert found.bins_N[place] == pytest.approx(bins, rel=1e-4)
    assert found.bins_N.max() > MEMORY / 2


def test_nothing_is_known_before_the_first_sample(two_sessions: Path) -> None:
    corpus = Corpus(two_sessions)
    found = EarlierActivity(corpus, MEMORY).before("a1", corpus.rows_of("a1", "train")[:1])
    assert not found.sums_NC.any()
    assert not found.bins_N.any()


def test_samples_that_a_thinned_corpus_leaves_out_say_nothing(two_sessions: Path) -> None:
    thinned = ThinnedCorpus(two_sessions, None, ["a1"], 0.2)
    row = int(thinned.rows_of("a1", "test")[-1])
    found = EarlierActivity(thinned, MEMORY).before("a1", np.array([row]))
    np.testing.assert_allclose(found.sums_NC[0], told(thinned, "a1", row)[0], rtol=1e-4)
    assert found.bins_N[0] < EarlierActivity(Corpus(two_sessions), MEMORY).before("a1", np.array([row])).bins_N[0]


def test_batches_of_training_and_evaluation_tell_it(two_sessions: Path) -> None:
    corpus = Corpus(two_sessions)
    registry = UnitRegistry.from_sessions(corpus.sessions)
    activity = EarlierActivity(corpus, MEMORY)
    row_of = {corpus.read(row).key: row for row in range(len(corpus))}
    for batch in evaluation_batches(corpus, registry, "test", batch_size=4, earlier_memory=MEMORY):
        session_id = batch.sample_ids[0].rpartition("-")[0]
        expected = activity.before(session_id, np.array([row_of[key.partition("+")[0]] for key in batch.sample_ids]))
        assert batch.earlier_BC is not None
        assert batch.earlier_bins_B is not None
        np.testing.assert_array_equal(batch.earlier_BC.numpy(), expected.sums_NC)
        np.testing.assert_array_equal(batch.earlier_bins_B.numpy(), expected.bins_N)
    plan = SamplePlan.from_corpus(corpus, "train", group=2, window_bins=None, seed=0)
    mixed = next(training_batches(corpus, plan, registry, micro_batch=8, earlier_memory=MEMORY))
    assert mixed.earlier_BC is not None
    assert mixed.earlier_BC.shape == (8, 5)
    for place, key in enumerate(mixed.sample_ids):
        session_id, units = (("a1", 5), ("b1", 4))[key.startswith("b1")]
        sums_C, _ = told(corpus, session_id, row_of[key])
        np.testing.assert_allclose(mixed.earlier_BC[place, :units].numpy(), sums_C, rtol=1e-4, atol=1e-5)
        assert not mixed.earlier_BC[place, units:].any()
    assert next(training_batches(corpus, plan, registry, micro_batch=2)).earlier_BC is None


def test_sums_are_made_again_where_they_were_dropped(two_sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(two_sessions)
    activity = EarlierActivity(corpus, MEMORY)
    rows = {name: corpus.rows_of(name, "test") for name in ("a1", "b1")}
    kept = {name: activity.before(name, rows[name]) for name in rows}
    monkeypatch.setattr("neurochorus.data_shards.earlier.BYTES_KEPT", 1)
    tight = pickle.loads(pickle.dumps(activity))
    for name in ("a1", "b1", "a1"):
        np.testing.assert_array_equal(tight.before(name, rows[name]).sums_NC, kept[name].sums_NC)
        assert list(tight._kept) == [name]


def test_a_signal_in_hand_and_a_memory_that_makes_no_sense(two_sessions: Path) -> None:
    signal_TC = np.arange(12).reshape(6, 2)
    found = Earlier.of(signal_TC, 2.0)
    weight_T = np.exp(-np.array([5, 4, 3, 2, 1, 0]) / 2.0)
    np.testing.assert_allclose(found.sums_NC[0], weight_T @ signal_TC, rtol=1e-6)
    assert found.bins_N[0] == pytest.approx(weight_T.sum(), rel=1e-6)
    with pytest.raises(ValueError, match=r"memory of earlier activity is 0 bins; expected a positive number"):
        EarlierActivity(Corpus(two_sessions), 0)
