"""What a run reads does not depend on ranks, accumulation, worker processes or restarts, and no window is missed."""

import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurochorus.data_shards.augment import AugmentStep
from neurochorus.data_shards.batch import Batch, Collate
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import MicroBatches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.windows import WindowTable

MIXTURES = {
    "windows": st.sampled_from([None, 1, 4, 5, 12, 40]),
    "alpha": st.floats(0, 1.5),
    "mixture": st.sampled_from(["session", "subject", "dataset"]),
    "overrides": st.dictionaries(st.sampled_from(["a1", "subject:anna", "dataset:small", "b*"]), st.floats(0.2, 5)),
}
AUGMENT = [AugmentStep(name="unit_dropout", share=0.3), AugmentStep(name="coordinated_dropout", share=0.2, span_bins=2)]


def new_process(corpus: Corpus, seed: int, settings: dict, groups: int = 1) -> MicroBatches:
    """What a rank, or a worker of it, sets up: everything anew, or as it comes out of a pickle."""
    plan = SamplePlan.from_corpus(corpus, "train", seed=seed, group=3, **settings)
    collate = Collate(corpus.sessions, UnitRegistry.from_sessions(corpus.sessions))
    return pickle.loads(pickle.dumps(MicroBatches(corpus, plan, collate, 3 * groups, AUGMENT)))


def same(one: Batch, other: Batch) -> bool:
    tensors = ("signal_BTC", "unit_rows_BC", "bin_mask_BT", "hidden_BTC")
    equal = all(getattr(one, name).equal(getattr(other, name)) for name in tensors)
    return equal and one.sample_ids == other.sample_ids


@given(
    seed=st.integers(0, 2**40),
    runs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    workers=st.integers(1, 3),
    **MIXTURES,
)
@settings(max_examples=15, deadline=None)
def test_the_sequence_does_not_depend_on_ranks_workers_or_restarts(
    whole_corpus, seed, runs, workers, windows, alpha, mixture, overrides
):
    """A run is cut into parts, each on another number of ranks, with other accumulation, for some steps."""
    chosen = {"window_bins": windows, "alpha": alpha, "mixture": mixture, "overrides": overrides}
    sequence: list[Batch] = []
    for world, accumulation, steps in runs:
        copies = [new_process(whole_corpus, seed, chosen) for _ in range(workers)]
        seen, count = len(sequence), steps * accumulation * world
        by_rank = [range(seen + rank, seen + count, world) for rank in range(world)]
        taken = {
            number: copies[turn % workers][3 * number]
            for numbers in by_rank
            for turn, number in enumerate(numbers)  # torch hands micro-batches to workers in turns
        }
        sequence += [taken[number] for number in range(seen, seen + count)]
    whole = new_process(whole_corpus, seed, chosen)
    assert all(same(batch, whole[3 * number]) for number, batch in enumerate(sequence))


@given(seed=st.integers(0, 2**40), **MIXTURES)
@settings(max_examples=25, deadline=None)
def test_every_window_of_every_epoch_is_seen_once(whole_corpus, seed, windows, alpha, mixture, overrides):
    plan = SamplePlan.from_corpus(
        whole_corpus,
        "train",
        seed=seed,
        group=3,
        window_bins=windows,
        alpha=alpha,
        mixture=mixture,
        overrides=overrides,
    )
    table = WindowTable(whole_corpus, "train", windows)
    streams: dict[str, list[tuple[int, int]]] = {name: [] for name in plan.session_ids}
    for number in range(150):
        name, numbers = plan.group_windows(number)
        rows, _, slots = table.find(name, numbers)
        streams[name] += zip(rows.tolist(), slots.tolist())
    for name, stream in streams.items():
        bins = zip(whole_corpus.rows_of(name, "train").tolist(), whole_corpus.bins_of(name, "train").tolist())
        slots = {(row, i) for row, b in bins for i in range(1 if windows is None else max(1, b // windows))}
        for first in range(0, len(stream), len(slots)):
            epoch = Counter(stream[first : first + len(slots)])
            assert set(epoch.values()) == {1}
            assert set(epoch) == slots or (first + len(slots) > len(stream) and set(epoch) < slots)
    drawn = plan.drawn(450)
    assert drawn == {name: len(stream) for name, stream in streams.items()}


@pytest.mark.parametrize("mixture", ["session", "subject", "dataset"])
def test_alpha_acts_on_the_mixture(whole_corpus, mixture):
    plan = SamplePlan.from_corpus(whole_corpus, "train", seed=0, group=2, alpha=0.5, mixture=mixture, window_bins=6)
    n = plan.windows
    anna = (n["a1"] + n["a2"]) ** 0.5
    expected = {
        "session": {name: count**0.5 for name, count in n.items()},
        "subject": {
            "a1": anna * n["a1"] / (n["a1"] + n["a2"]),
            "a2": anna * n["a2"] / (n["a1"] + n["a2"]),
            "b1": n["b1"] ** 0.5,
        },
        "dataset": n,
    }[mixture]
    total = sum(expected.values())
    assert plan.shares == pytest.approx({name: weight / total for name, weight in expected.items()})
