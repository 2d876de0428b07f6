"""Two plans read as one: exact shares in every stretch, and each in its own order."""

import pickle

import numpy as np
import pytest

from neurochorus.data_shards.interleaved_plan import InterleavedPlan
from neurochorus.data_shards.plan import SamplePlan


def plans() -> tuple[SamplePlan, SamplePlan]:
    return SamplePlan({"n1": 40, "n2": 10}, seed=3, group=4), SamplePlan({"o1": 30, "o2": 90}, seed=5, group=4)


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 0.9])
def test_every_stretch_has_its_share_and_each_plan_its_order(share: float) -> None:
    main, other = plans()
    both = InterleavedPlan(main, other, share)
    drawn = [both.group_windows(number) for number in range(200)]
    of_other = np.array([session in other.session_ids for session, _ in drawn])
    for stretch in (4, 10):
        counts = np.convolve(of_other, np.ones(stretch, int), "valid")
        assert set(counts) <= {np.floor(stretch * share), np.ceil(stretch * share)}
    for plan, chosen in ((other, of_other), (main, ~of_other)):
        for number, place in enumerate(np.flatnonzero(chosen)):
            session, windows = plan.group_windows(number)
            assert drawn[place][0] == session
            np.testing.assert_array_equal(drawn[place][1], windows)
    counted = {name: sum(session == name for session, _ in drawn[:120]) * 4 for name in both.session_ids}
    assert both.drawn(480) == counted
    assert sum(both.shares[name] for name in other.session_ids) == pytest.approx(share)
    again = pickle.loads(pickle.dumps(both))
    assert again.sample_window(333) == both.sample_window(333)


def test_what_changes_the_order_changes_the_fingerprint() -> None:
    main, other = plans()
    found = {InterleavedPlan(main, other, share).fingerprint() for share in (0.25, 0.5)}
    found.add(InterleavedPlan(main, SamplePlan({"o1": 30}, seed=5, group=4), 0.25).fingerprint())
    assert len({*found, main.fingerprint()}) == 4


def test_plans_that_do_not_fit_are_refused() -> None:
    main, other = plans()
    with pytest.raises(ValueError, match="above 0 and below 1"):
        InterleavedPlan(main, other, 1.0)
    with pytest.raises(ValueError, match="'n1' is in both plans"):
        InterleavedPlan(main, main, 0.5)
    with pytest.raises(ValueError, match="differ in group: 4 and 2"):
        InterleavedPlan(main, SamplePlan({"o1": 30}, seed=5, group=2), 0.5)
