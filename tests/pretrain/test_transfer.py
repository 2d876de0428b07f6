"""The table of transfer: means, paired comparisons, where curves meet, and its text and picture."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.transfer import (
    over_seeds,
    reaches,
    summary,
    transfer_comparisons,
    transfer_results,
)
from neurochorus.pretrain.evaluation.transfer_picture import transfer_picture
from neurochorus.pretrain.evaluation.transfer_text import transfer_markdown

SPIKES = {"metric": "bits_per_spike", "title": "forecasts", "definition": "In bits."}
SIGNAL = {"metric": "r2", "title": "speed decoded from latents", "definition": "Of variance."}
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
    return transfer_results(SPIKES, FRACTIONS, [0, 1], arms, trials, baselines)


def test_comparisons_are_paired_over_sessions_and_name_the_winner() -> None:
    made = {(one["fraction"], one["than_row"], one["better_row"]): one for one in results()["comparisons"]}
    assert len(made) == 3 * 4
    one = made[0.1, "scratch, jointly", "pretrained, rows"]
    # sessions differ by 0.05, but the differences do not
    assert one["difference"] == pytest.approx(0.08, abs=0.005)
    assert one["low"] > 0.07
    assert (one["wins"], one["sessions"]) == (8, 8)
    assert one["p"] == 2.0**-7
    assert one["by_seed"] == pytest.approx([one["difference"]] * 2, abs=0.004)
    assert np.mean(one["by_seed"]) == pytest.approx(one["difference"])
    assert (1.0, "pretrained, rows", "scratch, per session") in made


def test_adaptations_are_compared_with_each_other_and_with_the_best_baseline() -> None:
    given = results()
    arms = {**given["arms"], "pretrained, lora": given["arms"]["pretrained, rows"]}
    low, high = dict.fromkeys(SESSIONS, 0.07), dict.fromkeys(SESSIONS, 0.12)
    made = transfer_comparisons(arms, [0.1], {"ridge": {"0.1": high}, "psth": {"0.1": low}, "mean": {}})
    pairs = {frozenset((one["better_row"], one["than_row"])): one for one in made}
    scratch = ("scratch, jointly", "scratch, per session")
    expected = [("pretrained, rows", one) for one in scratch] + [("pretrained, lora", one) for one in scratch]
    expected += [("pretrained, rows", "pretrained, lora"), ("pretrained, rows", "ridge"), ("pretrained, lora", "ridge")]
    expected += [("scratch, jointly", "ridge")]
    assert pairs.keys() == {frozenset(one) for one in expected}
    lost = pairs[frozenset(("pretrained, rows", "ridge"))]
    means = [np.mean(values) for values in arms["pretrained, rows"]["0.1"].values()]
    assert lost["by_seed"] == []
    assert lost["difference"] == pytest.approx(abs(0.12 - np.mean(means)))


def test_a_baseline_of_some_sessions_is_not_the_best_of_all() -> None:
    given = results()
    some, every = {SESSIONS[0]: 0.9}, dict.fromkeys(SESSIONS, 0.1)
    made = transfer_comparisons(given["arms"], [0.1], {"psth": {"0.1": some}, "ridge": {"0.1": every}})
    assert {"ridge"} == {one[key] for one in made for key in ("better_row", "than_row")} - given["arms"].keys()


def test_seeds_are_averaged_and_missing_values_left_out() -> None:
    assert over_seeds({"a": [1.0, 3.0], "b": [None, 2.0], "c": [float("nan")]}) == {"a": 2.0, "b": 2.0, "c": None}
    assert summary({"a": 1.0, "b": None}) == (1.0, 1.0, 1.0)
    assert summary({"a": None}) is None
    mean, low, high = summary(dict(enumerate([0.0, 1.0, 2.0, 3.0])))  # type: ignore[misc, arg-type]
    assert low < mean == 1.5 < high
    arms = {"pretrained, rows": {"0.5": {"a": [1.0]}}, "scratch, jointly": {"0.5": {"b": [1.0]}}}
    assert transfer_comparisons(arms, [0.5], {}) == []


def test_of_few_sessions_the_interval_is_students() -> None:
    arms = {
        "pretrained, rows": {"0.5": {"a": [3.0, 1.0], "b": [2.0, None], "c": [4.0, 0.0]}},
        "scratch, jointly": {"0.5": {"a": [1.0, 1.0], "b": [1.0, 5.0], "c": [1.0, float("nan")]}},
    }
    (one,) = transfer_comparisons(arms, [0.5], {})
    gains = np.array([1.0, 2.0 - 3.0, 2.0 - 1.0])
    low, high = ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (one["low"], one["high"]) == pytest.approx((low, high))
    assert one["interval"] == "student"
    assert one["by_seed"] == [2.0, 0.0]  # of the second seed only a has both values
    many = {arm: {"0.5": {str(n): [n * w] for n in range(15)}} for arm, w in (("pretrained, x", 2), ("scratch, x", 1))}
    (one,) = transfer_comparisons(many, [0.5], {})
    assert one["interval"] == "bootstrap"
    assert one["high"] < ttest_1samp(np.arange(15), 0).confidence_interval(0.95).high
    mean, *ends = summary(dict(enumerate(gains.tolist())))  # type: ignore[misc, arg-type]
    assert (mean, *ends) == pytest.approx((gains.mean(), low, high))


def test_undefined_values_do_not_spoil_the_file() -> None:
    nan = float("nan")
    arms = {"pretrained, rows": {"1": {"a": [nan, 1.0]}}, "scratch, jointly": {"1": {"a": [0.5, 0.5]}}}
    made = transfer_results(SIGNAL, [1.0], [0, 1], arms, {"1": {"a": 3}}, {"ridge": {"1": {"a": nan}}})
    assert json.loads(json.dumps(made, allow_nan=False))["baselines"]["ridge"]["1"]["a"] is None
    assert made["arms"]["pretrained, rows"]["1"]["a"] == [None, 1.0]
    assert "| *ridge* |  |" in transfer_markdown(made)
    assert [line.get_label() for line in transfer_picture(made).axes[0].lines][:2] == [
        "pretrained, rows",
        "scratch, jointly",
    ]


def test_the_target_is_the_best_from_scratch_on_the_largest_share_given() -> None:
    arms = {
        "pretrained, rows": {"0.1": {"a": [0.3]}, "0.5": {"a": [0.4]}},
        "pretrained, full": {"0.1": {"a": [0.1]}, "0.5": {"a": [0.2]}},
        "scratch, jointly": {"0.1": {"a": [0.1]}, "0.5": {"a": [0.15]}},
        "scratch, per session": {"0.1": {"a": [0.1]}, "0.5": {"a": [0.25]}},
    }
    made = transfer_results(SIGNAL, [0.1, 0.5], [0], arms, {"0.1": {"a": 3}}, {})
    assert made["reaches_what"] == {"arm": "scratch, per session", "fraction": 0.5, "value": 0.25}
    assert made["reaches"] == {"pretrained, rows": 0.1, "pretrained, full": None}
    text = transfer_markdown(made)
    best = "scratch, per session (0.2500, the best from scratch) reaches on 50 %"
    assert f"pretrained, rows reaches what {best} with at most 10 % of the data" in text
    assert f"pretrained, full reaches what {best} with none of the fractions" in text


def test_the_text_says_how_trainings_ended() -> None:
    def ending(seed: int, best: int, stopped: int | None) -> dict:
        return {"arm": "scratch, jointly", "fraction": 1.0, "seed": seed, "sessions": SESSIONS, "stage": "autoencoder",
                "steps": 90, "best_step": best, "kept_step": best, "stopped_at": stopped}  # fmt: skip

    text = transfer_markdown(
        {**results(), "endings": [ending(0, 40, 70), ending(1, 90, None)], "stop": {"every": 10, "patience": 3}}
    )
    assert "scored on its valid split every 10 steps, and stopped after 3 scores without a new best" in text
    line = "- scratch, jointly: autoencoder kept step 40 to 90 of 90; 1 of 2 stopped early, the others ran to the end"
    assert f"{line} (1 were best at their last step)\n" in text


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
    # rows are at 0.18 with all of the data: joint training's 0.17 they would reach, that of one a session is at 0.19
    assert made["reaches"]["pretrained, rows"] is None
    text = transfer_markdown(made)
    assert "mean over 8 sessions and 2 seeds" in text
    assert "| | 10 % (10 trials) | 50 % (50 trials) | 100 % (100 trials) |" in text
    assert "| *ridge* | 0.0800 (0.0800 to 0.0800)" in text
    assert "| 10 % | pretrained, rows | scratch, jointly | 0.0" in text
    assert "Intervals and tests are over these sessions, given this pretrained model" in text
    assert "95 % interval over sessions (Student's t)" in text


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
