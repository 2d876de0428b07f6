"""Paired bootstrap over sessions against its closed form, and what it may claim of few sessions."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp, wilcoxon

from neurochorus.pretrain.evaluation.suite.paired import (
    compare_rows,
    comparisons_of,
    paired_bootstrap,
    student_interval,
)
from neurochorus.pretrain.evaluation.suite.tables import SuiteTable, TableSpec

DIFFERENCES = np.random.default_rng(1).normal(0.02, 0.05, size=40)


def test_the_interval_is_that_of_the_normal_limit():
    """The bootstrap distribution of a mean of 40 has sd s / sqrt(n), s with n in the denominator."""
    found = paired_bootstrap(DIFFERENCES)
    assert found["interval"] == "bootstrap"
    half = 1.96 * DIFFERENCES.std() / np.sqrt(40)
    assert found["difference"] == pytest.approx(DIFFERENCES.mean())
    assert found["low"] == pytest.approx(DIFFERENCES.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(DIFFERENCES.mean() + half, abs=0.1 * half)
    wins = int((DIFFERENCES > 0).sum())
    assert (found["sessions"], found["wins"]) == (40, wins)
    assert found["sign_p"] == pytest.approx(binomtest(wins, 40).pvalue)
    assert found["wilcoxon_p"] == pytest.approx(np.asarray(wilcoxon(DIFFERENCES))[1])


def test_p_is_seldom_small_where_there_is_no_difference():
    rng = np.random.default_rng(2)
    found = np.array([paired_bootstrap(rng.normal(size=30), draws=400)["p"] for _ in range(200)], dtype=float)
    assert 0.02 < np.mean(found < 0.05) < 0.11  # a percentile bootstrap of 30 is a little too eager


@pytest.mark.parametrize("sessions", [2, 3, 6])
def test_few_sessions_cannot_claim_more_than_their_signs_tell(sessions: int):
    found = paired_bootstrap(np.linspace(1.0, 1.1, sessions))
    assert found["p"] == pytest.approx(2.0 ** (1 - sessions))
    assert found["sign_p"] == pytest.approx(2.0 ** (1 - sessions))


@pytest.mark.parametrize("sessions", [3, 7])
def test_students_interval_holds_the_mean_as_often_as_it_says(sessions: int):
    rng = np.random.default_rng(5)
    draws = rng.normal(size=(2000, sessions))
    student = [student_interval(values) for values in draws]
    assert np.mean([found is not None and found[0] <= 0 <= found[1] for found in student]) == pytest.approx(
        0.95, abs=0.015
    )
    shown = [paired_bootstrap(values) for values in draws[:3]]
    assert [(one["interval"], (one["low"], one["high"])) for one in shown] == [("student", one) for one in student[:3]]
    assert shown[0]["p"] == pytest.approx(max(np.asarray(ttest_1samp(draws[0], 0.0))[1], 2.0 ** (1 - sessions)))
    plain = [paired_bootstrap(values, draws=400, student_below=0) for values in draws[:300]]
    assert np.mean([one["low"] <= 0 <= one["high"] for one in plain]) < 0.9
    assert student_interval(np.array([1.0])) is None


def test_students_p_is_as_often_small_as_it_says() -> None:
    """A bootstrap of six sessions would say p < 0.05 in 13 % of cases without a difference."""
    draws = np.random.default_rng(3).normal(size=(1000, 6))
    small = np.mean([paired_bootstrap(values)["p"] < 0.05 for values in draws])
    assert 0.03 < small < 0.07
    found = paired_bootstrap(np.array([0.01] * 5 + [1.0]))
    assert found["low"] < 0
    assert found["p"] > 0.05  # an interval that holds 0 and the p agree


def test_one_session_claims_nothing_and_equal_rows_are_equal():
    one = paired_bootstrap(np.array([0.3]))
    assert (one["difference"], one["wins"], one["p"], one["low"], one["interval"]) == (0.3, 1, None, None, None)
    same = paired_bootstrap(np.zeros(5))
    assert (same["p"], same["wins"], same["low"], same["sign_p"]) == (1.0, 0, 0.0, None)
    for values in ([], [0.1, np.nan]):
        with pytest.raises(ValueError, match="expected finite numbers"):
            paired_bootstrap(np.array(values))


def test_the_same_seed_gives_the_same_interval():
    assert paired_bootstrap(DIFFERENCES, seed=3) == paired_bootstrap(DIFFERENCES, seed=3)
    assert paired_bootstrap(DIFFERENCES, seed=3)["low"] != paired_bootstrap(DIFFERENCES, seed=4)["low"]


def test_the_better_row_comes_first_in_either_direction():
    rows = {"a": {"s1": 1.0, "s2": 2.0, "s3": None}, "b": {"s1": 1.5, "s2": 3.0, "s3": 9.0}}
    higher = compare_rows("t", "higher", rows, "a", "b")
    lower = compare_rows("t", "lower", rows, "b", "a")
    assert higher is not None
    assert lower is not None
    assert (higher["better_row"], higher["than_row"], higher["sessions"]) == ("b", "a", 2)
    assert (lower["better_row"], lower["than_row"]) == ("a", "b")
    assert higher["difference"] == lower["difference"] == pytest.approx(0.75)
    assert compare_rows("t", "higher", {"a": {"s1": 1.0}, "b": {"s2": 1.0}}, "a", "b") is None


def test_a_table_compares_its_main_row_and_its_pairs_and_says_what_is_missing():
    spec = TableSpec("t", "title", "r2", "what it is", main="model", pairs=(("x", "y"), ("x", "absent")))
    table = SuiteTable(spec, {"s1": {"model": 1.0, "x": 0.5, "y": 0.25}, "s2": {"model": 2.0, "x": float("nan")}})
    table.notes = {"s3": "no trials", "s4": "no trials", "s5": "no label"}
    made = table.to_json()
    assert made["rows"]["model"] == {"mean": 1.5, "sem": 0.5, "sessions": {"s1": 1.0, "s2": 2.0}}
    assert made["rows"]["x"] == {"mean": 0.5, "sem": None, "sessions": {"s1": 0.5, "s2": None}}
    assert made["note"] == "left out: s3, s4: no trials; left out: s5: no label"
    pairs = [(entry["better_row"], entry["than_row"], entry["sessions"]) for entry in comparisons_of(table)]
    assert pairs == [("model", "x", 1), ("model", "y", 1), ("x", "y", 1)]
