"""Learning rates as closed forms of the step."""

import math
from itertools import pairwise

import pytest

from neurochorus.pretrain.config import StageSection
from neurochorus.pretrain.schedules import learning_rate


def rates(**settings: object) -> list[float]:
    section = StageSection(steps=100, learning_rate=2.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(step, section) for step in range(100)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_every_schedule_warms_up_in_equal_steps_to_the_full_rate(schedule: str) -> None:
    found = rates(schedule=schedule, warmup=0.1)
    assert found[:11] == pytest.approx([2.0 * (step + 1) / 11 for step in range(11)])
    assert max(found) == found[10] == 2.0
    assert rates(schedule=schedule, warmup=0.0)[0] == 2.0


def test_cosine_falls_to_zero() -> None:
    found = rates(warmup=0.1)
    assert found[55] == pytest.approx(1.0)
    assert found[10:] == pytest.approx([1 + math.cos(math.pi * (step - 10) / 90) for step in range(10, 100)])
    assert found[-1] < 0.001


def test_wsd_stays_and_then_falls_in_a_straight_line() -> None:
    found = rates(schedule="wsd", warmup=0.1, decay=0.25)
    assert set(found[10:76]) == {2.0}
    assert [before - after for before, after in pairwise(found[75:])] == pytest.approx([2.0 / 25] * 24)
    assert found[-1] == pytest.approx(2.0 / 25), "the step after the last would have none"


def test_wsd_runs_of_other_lengths_share_their_stretch_before_the_decay() -> None:
    """What it is for: a longer run can go on from the constant part of a shorter one."""
    short, long = (StageSection(steps=n, schedule="wsd", warmup=10 / n, decay=0.2) for n in (100, 200))
    assert [learning_rate(step, short) for step in range(81)] == [learning_rate(step, long) for step in range(81)]


def test_constant_stays() -> None:
    assert set(rates(schedule="constant", warmup=0.1)[10:]) == {2.0}


def test_a_decay_that_the_warm_up_leaves_no_room_for_is_named() -> None:
    for decay in (0.0, 0.95):
        (problem,) = StageSection(steps=100, schedule="wsd", warmup=0.1, decay=decay).problems()
        assert problem.startswith("decay: expected a share above 0 that leaves room for warmup 0.1")
    assert StageSection(steps=100, schedule="cosine", warmup=0.9, decay=0.2).problems() == []
