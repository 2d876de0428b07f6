"""The table of transfer: means, paired comparisons, where curves meet, and its text and picture."""

import json

import numpy as np
import pytest

from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.transfer import (
    over_seeds,
    reaches,
    summary,
    transfer_comparisons,
    transfer_markdown,
    transfer_results,
)
from neurochorus.pretrain.evaluation.transfer_picture import transfer_picture

FRACTIONS = [0.1, 0.5, 1.0]
SESSIONS = [f"s{number}" for number in range(8)]


def results() -> dict:
    rng = np.random.default_rng(0)
    level = {session: rng.normal(0, 0.05) for session in SESSIONS}

    def arm(means: list[float]) -> dict:
        return {
            text: {session: [mean + level[session] + rng.normal(0, 0.002) for _ in range(2)] for session in SESSIONS}
            for text, mean in zip(("0.1", "0.5", "1"), means, strict=True)
        }

    arms = {"pretrained, rows": arm([0.10, 0.16, 0.18]), "scratch, jointly": arm([0.02, 0.14, 0.17]),
            "scratch, per session": arm([0.0, 0.16, 0.19])}  # fmt: skip
    baselines = {"ridge": {text: dict.fromkeys(SESSIONS, 0.08) for text in ("0.1", "0.5", "1")}}
    trials = {text: dict.fromkeys(SESSIONS, count) for text, count in (("0.1", 10), ("0.5", 50), ("1", 100))}
    return transfer_results("bits_per_spike", FRACTIONS, [0, 1], arms, trials, baselines)


def test_comparisons_are_paired_over_sessions_and_name_the_winner() -> None:
    made = {(one["fraction"], one["than_row"], one["better_row"]): one for one in results()["comparisons"]}
    assert len(made) == 3 * 2
    one = made[0.1, "scratch, jointly", "pretrained, rows"]
    # sessions differ by 0.05, but the differences do not
    assert one["difference"] == pytest.approx(0.08, abs=0.005)
    assert one["low"] > 0.07
    assert (one["wins"], one["sessions"]) == (8, 8)
    assert one["p"] == 2.0**-7
    assert (1.0, "pretrained, rows", "scratch, per session") in made


def test_seeds_are_averaged_and_missing_values_left_out() -> None:
    assert over_seeds({"a": [1.0, 3.0], "b": [None, 2.0], "c": [float("nan")]}) == {"a": 2.0, "b": 2.0, "c": None}
    assert summary({"a": 1.0, "b": None}) == (1.0, 1.0, 1.0)
    assert summary({"a": None}) is None
    mean, low, high = summary(dict(enumerate([0.0, 1.0, 2.0, 3.0])))  # type: ignore[misc, arg-type]
    assert low < mean == 1.5 < high
    arms = {"pretrained, rows": {"0.5": {"a": [1.0]}}, "scratch, jointly": {"0.5": {"b": [1.0]}}}
    assert transfer_comparisons(arms, [0.5]) == []


@pytest.mark.parametrize(
    ("values", "target", "share"),
    [
        ([0.0, 0.1, 0.2], 0.15, 0.5 * 2**0.5),  # half way from 0.5 to 1 in the logarithm
        ([0.2, 0.1, 0.2], 0.15, 0.5 * 2**0.5),  # what it loses again does not count
        ([0.2, 0.3, 0.4], 0.15, 0.1),
        ([0.2, 0.3, 0.1], 0.15, None),
        ([None, 0.3, 0.4], 0.15, 0.5),
        ([0.1, 0.2, 0.3], None, None),
    ],
)
def test_with_what_share_of_the_data_a_curve_reaches_a_target(values: list, target: float | None, share) -> None:
    assert reaches(FRACTIONS, values, target) == (None if share is None else pytest.approx(share))


def test_the_file_is_plain_json_and_the_text_says_what_it_holds() -> None:
    made = results()
    assert json.loads(json.dumps(made, allow_nan=False))["fractions"] == FRACTIONS
    # rows are at 0.16 with half of the data and 0.18 with all: joint training's 0.17 lies between
    assert 0.5 < made["reaches"]["pretrained, rows"] < 1
    text = transfer_markdown(made)
    assert "mean over 8 sessions and 2 seeds" in text
    assert "| | 10 % (10 trials) | 50 % (50 trials) | 100 % (100 trials) |" in text
    assert "| *ridge* | 0.0800 (0.0800 to 0.0800)" in text
    assert "| 10 % | pretrained, rows | scratch, jointly | 0.0" in text
    share = 100 * made["reaches"]["pretrained, rows"]
    assert f"pretrained, rows reaches what training from scratch reaches on all data with {share:.0f} % of the" in text


def test_the_picture_has_a_curve_for_every_arm_and_baseline() -> None:
    made = results()
    figure = transfer_picture(made)
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines}
    rows = lines["pretrained, rows"]
    assert np.asarray(rows.get_xdata()).tolist() == [10, 50, 100]
    middle = summary(over_seeds(made["arms"]["pretrained, rows"]["0.5"]))
    assert middle is not None
    assert np.asarray(rows.get_ydata())[1] == pytest.approx(middle[0])
    assert rows.get_linestyle() == "-"
    assert lines["scratch, jointly"].get_linestyle() == "--"
    assert len(axes.collections) == 3  # bands
    assert [text.get_text() for text in axes.texts] == ["ridge"]
    assert png_bytes(figure)[:4] == b"\x89PNG"
