"""The order of samples: a pure function, complete epochs, true proportions, random access."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurochorus.data_shards.plan import SamplePlan, keyed_permutation
from neurochorus.data_shards.seeds import keyed_bits

sizes_of_sessions = st.lists(st.integers(1, 40), min_size=1, max_size=6)
groups = st.integers(1, 9)
seeds = st.integers(0, 2**40)


def make_plan(sizes: list[int], seed: int = 0, group: int = 4, alpha: float = 1.0, **more) -> SamplePlan:
    """Sessions s0, s1, ... with so many windows."""
    return SamplePlan({f"s{i}": size for i, size in enumerate(sizes)}, seed=seed, group=group, alpha=alpha, **more)


def first_groups(plan: SamplePlan, count: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(numbers.tolist())) for name, numbers in (plan.group_windows(m) for m in range(count))]


@given(sizes=sizes_of_sessions, seed=seeds, group=groups, alpha=st.floats(0, 1.5))
@settings(max_examples=60, deadline=None)
def test_every_epoch_of_every_session_holds_each_window_once(sizes, seed, group, alpha):
    plan = make_plan(sizes, seed, group, alpha)
    streams: dict[str, list[int]] = {name: [] for name in plan.session_ids}
    for name, rows in first_groups(plan, 120):
        streams[name] += rows
    for name, stream in streams.items():
        own = list(range(plan.windows[name]))
        for epoch in range(len(stream) // len(own)):
            assert sorted(stream[epoch * len(own) : (epoch + 1) * len(own)]) == own
        tail = stream[len(stream) // len(own) * len(own) :]
        assert len(set(tail)) == len(tail)


@given(sizes=sizes_of_sessions, seed=seeds, group=groups, data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_access_equals_going_through(sizes, seed, group, data):
    one_by_one = first_groups(make_plan(sizes, seed, group), 150)
    numbers = data.draw(st.lists(st.integers(0, 149), min_size=1, max_size=20))
    plan = make_plan(sizes, seed, group)
    for number in numbers:
        name, rows = plan.group_windows(number)
        assert (name, tuple(rows.tolist())) == one_by_one[number]
        assert plan.sample_window(number * group + group - 1) == (name, rows[-1])


@given(
    sizes=sizes_of_sessions,
    seed=seeds,
    micro_batch_groups=st.integers(1, 3),
    runs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_the_global_sequence_does_not_depend_on_ranks_accumulation_or_restarts(sizes, seed, micro_batch_groups, runs):
    """A run is cut into parts, each on another number of ranks, with other accumulation, for some steps."""
    group = 3
    micro_batch = group * micro_batch_groups
    sequence: list[tuple[str, int]] = []
    for world, accumulation, steps in runs:
        plan = make_plan(sizes, seed, group)  # a new process
        seen = len(sequence)
        per_rank = [itertools.count(seen + rank * micro_batch, world * micro_batch) for rank in range(world)]
        taken: dict[int, tuple[str, int]] = {}
        for _ in range(steps * accumulation):
            for first_samples in per_rank:
                first = next(first_samples)
                taken |= {number: plan.sample_window(number) for number in range(first, first + micro_batch)}
        assert sorted(taken) == list(range(seen, seen + steps * accumulation * world * micro_batch))
        sequence += [taken[number] for number in sorted(taken)]
    whole = make_plan(sizes, seed, group)
    assert sequence == [whole.sample_window(number) for number in range(len(sequence))]


@given(
    sizes=sizes_of_sessions, seed=seeds, alpha=st.floats(0, 1.5), factor=st.floats(0.1, 10), count=st.integers(0, 900)
)
@settings(max_examples=60, deadline=None)
def test_shares_follow_the_weights_at_every_moment(sizes, seed, alpha, factor, count):
    plan = make_plan(sizes, seed, 2, alpha, overrides={"s0": factor})
    weights = np.array([size**alpha for size in sizes])
    weights[0] *= factor
    shares = weights / weights.sum()
    np.testing.assert_allclose([plan.shares[f"s{i}"] for i in range(len(sizes))], shares, rtol=1e-12)
    had = Counter(name for name, _ in first_groups(plan, count))
    for i, share in enumerate(shares):
        # rounds behind us are exact to one group a session; the one under way, 4 groups a session, is in any order
        assert abs(had[f"s{i}"] - count * share) <= 2 + share * 6 * len(sizes)
    for name, epochs in plan.epochs(2 * count).items():
        assert epochs == pytest.approx(2 * had[name] / plan.windows[name])


def test_no_session_waits_longer_than_two_rounds():
    plan = make_plan([50] * 12, group=5)
    for start in range(0, 400, 7):
        names = {plan.group_windows(m)[0] for m in range(start, start + 2 * 4 * 12 + 12)}
        assert len(names) == 12


def test_a_plan_starts_far_into_a_run_at_once():
    plan = make_plan([1000, 3, 77], group=8)
    name, rows = plan.group_windows(10**12)
    assert name in plan.session_ids
    assert len(rows) == 8
    assert plan.epochs(8 * 10**12)[name] == pytest.approx(8 * 10**12 / 1080, rel=1e-6)


def test_seed_sessions_and_weights_change_order_and_fingerprint():
    base = make_plan([20, 30], seed=1)
    same = SamplePlan({"s1": 30, "s0": 20}, seed=1, group=4)
    assert first_groups(base, 60) == first_groups(same, 60)
    assert base.fingerprint() == same.fingerprint()
    others = [
        make_plan([20, 30], seed=2),
        make_plan([20, 31], seed=1),
        make_plan([20, 30], seed=1, alpha=0.5),
        make_plan([20, 30], seed=1, group=2),
        make_plan([20, 30], seed=1, overrides={"s1": 2.0}),
    ]
    prints = {plan.fingerprint() for plan in [base, *others]}
    assert len(prints) == 6
    assert all(first_groups(base, 60) != first_groups(other, 60) for other in others)


def test_another_seed_is_another_order_within_each_epoch():
    streams = []
    for seed in range(5):
        plan = make_plan([200], seed=seed, group=200)
        streams += [tuple(plan.group_windows(epoch)[1].tolist()) for epoch in range(3)]
    assert len(set(streams)) == 15


def test_the_order_is_the_same_on_every_machine_and_version():
    """Written down once: a change of these numbers changes the order of every run that is to be resumed."""
    assert keyed_bits(0, "round", 1) == 0x11395C397D1DDC2747250C2AE34E2AB7
    assert keyed_permutation(8, 0, "epoch", "a", 0).tolist() == [5, 1, 6, 3, 0, 2, 4, 7]
    assert first_groups(make_plan([5, 9], seed=7, group=3), 6) == [
        ("s1", (3, 1, 0)),
        ("s1", (8, 6, 2)),
        ("s1", (7, 4, 5)),
        ("s0", (3, 2, 0)),
        ("s1", (7, 2, 6)),
        ("s1", (3, 8, 4)),
    ]


def test_a_plan_is_pickled_small_and_goes_on_alike():
    plan = make_plan([5000, 3000], group=16)
    before = first_groups(plan, 50)
    data = pickle.dumps(plan)
    assert len(data) < 1500
    assert first_groups(pickle.loads(data), 50) == before


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SamplePlan({}, 0, 4), "at least one session"),
        (lambda: make_plan([4, 0]), "'s1'.*exclude"),
        (lambda: make_plan([4], group=0), "group is 0"),
        (lambda: make_plan([4], alpha=float("nan")), "alpha is nan"),
        (lambda: make_plan([4, 4], overrides={"t*": 2.0}), "'t\\*' matches no session"),
        (lambda: make_plan([4, 4], overrides={"s*": 0.0}), "positive factor"),
        (lambda: make_plan([4, 4], overrides={"s1": 1e-14}), "'s1'.*too small"),
        (lambda: make_plan([4]).group_windows(-1), "count from 0"),
    ],
)
def test_what_cannot_be_planned_is_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()
