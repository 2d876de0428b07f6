"""Masked generation: what is hidden in training, and in which order and how many at a time tokens are drawn."""

import math
from itertools import pairwise

import pytest
import scipy.stats
import torch

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models.dynamics.unmasking import (
    MaskedConfig,
    cosine_counts,
    drawing_steps,
    masking_ratio,
    training_mask,
    windows,
)
from tests.models.test_masked import generators

CPU = torch.device("cpu")


def test_the_cosine_schedule_is_the_published_one() -> None:
    """The counts of reference 5b for 140 bins in 32 steps; one token a step when there are fewer tokens than steps."""
    published = [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 4, 6, 5, 6, 6, 6, 6, 6, 6, 7, 6, 7, 7, 7, 7, 6]
    assert cosine_counts(140, 32) == published
    assert cosine_counts(10, 32) == [1] * 10
    assert cosine_counts(24, 24) == [1] * 24
    assert cosine_counts(7, 1) == [7]
    assert cosine_counts(0, 4) == []
    for tokens in (1, 2, 5, 31, 100):
        counts = cosine_counts(tokens, 9)
        assert sum(counts) == tokens
        assert min(counts) >= 1
        assert len(counts) <= 9


def test_the_masking_ratio_is_a_truncated_normal() -> None:
    torch.manual_seed(0)
    ratio = masking_ratio(MaskedConfig(), 50_000, CPU)
    exact = scipy.stats.truncnorm((0.7 - 1.0) / 0.25, 0.0, loc=1.0, scale=0.25)
    assert float(ratio.mean()) == pytest.approx(exact.mean(), abs=0.002)
    assert float(ratio.std()) == pytest.approx(exact.std(), abs=0.002)
    assert 0.7 <= float(ratio.min()) <= float(ratio.max()) <= 1.0
    together = masking_ratio(MaskedConfig(ratio_per="batch"), 64, CPU)
    assert together.shape == (64, 1)
    assert len(together.unique()) == 1
    far = masking_ratio(MaskedConfig(ratio_mean=50.0, ratio_sd=0.1), 5, CPU)
    assert 0.69999 < float(far.min()) <= float(far.max()) <= 1.0


def test_training_hides_valid_tokens_only() -> None:
    torch.manual_seed(0)
    valid = torch.ones(300, 20, dtype=torch.bool)
    valid[100:, 12:] = False
    valid[200:] = False
    hidden = training_mask(MaskedConfig(), valid)
    assert not bool((hidden & ~valid).any())
    assert set(hidden[:100].sum(dim=1).tolist()) == set(range(15, 21))
    assert set(hidden[100:200].sum(dim=1).tolist()) == {9, 10, 11, 12}
    assert float(hidden[:100].float().mean(dim=0).min()) > 0.8  # every place alike


def test_a_known_start_hides_nothing_of_it() -> None:
    torch.manual_seed(0)
    config = MaskedConfig(known_start=1.0, ratio_lowest=1.0)
    hidden = training_mask(config, torch.ones(400, 10, dtype=torch.bool))
    starts = 10 - hidden.sum(dim=1)
    assert set(starts.tolist()) == set(range(10))  # at least one bin is hidden
    assert bool((hidden[:, 1:] | ~hidden[:, :-1]).all())  # once hidden, hidden to the end


@pytest.mark.parametrize("order", ["random", "spread", "left_to_right"])
def test_every_order_draws_each_unknown_token_once(order: str) -> None:
    unknown = torch.rand(6, 21, generator=torch.Generator().manual_seed(0)) < 0.7
    unknown[5] = False
    config = MaskedConfig(order=order, steps=5)  # type: ignore[arg-type]
    steps = drawing_steps(unknown, config, generators(6))
    assert torch.equal(steps >= 0, unknown)
    for row in range(6):
        counts = torch.bincount(steps[row][unknown[row]]).tolist()
        assert counts == cosine_counts(int(unknown[row].sum()), 5)
    alone = drawing_steps(unknown[2:3], config, generators(1, first=2))
    assert torch.equal(alone[0], steps[2])
    if order != "left_to_right":
        assert not torch.equal(steps, drawing_steps(unknown, config, generators(6, first=50)))


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 20, 24, 33, 140])
def test_a_level_has_an_earlier_token_between_any_two(tokens: int) -> None:
    unknown = torch.ones(30, tokens, dtype=torch.bool)
    steps = drawing_steps(unknown, MaskedConfig(order="spread", schedule="levels"), generators(30))
    assert int(steps.max()) == math.ceil(math.log2(tokens))
    for row in steps.tolist():
        for level in set(row):
            places = [place for place, step in enumerate(row) if step == level]
            for left, right in pairwise(places):
                assert min(row[left:right]) < level


def test_windows_cover_everything_and_overlap() -> None:
    assert windows(10, 12, 0.5) == [(0, 10)]
    assert windows(30, 12, 0.5) == [(0, 12), (6, 18), (12, 24), (18, 30)]
    assert windows(25, 12, 0.5) == [(0, 12), (6, 18), (12, 24), (13, 25)]
    assert windows(5, 2, 0.99) == [(0, 2), (1, 3), (2, 4), (3, 5)]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"ratio_lowest": 0.9, "ratio_highest": 0.8}, "ratio_lowest <= ratio_highest"),
        ({"ratio_sd": 0.0}, "ratio_sd: expected a positive number"),
        ({"known_start": 1.0}, r"known_start: expected a number in \[0, 1\)"),
        ({"steps": 0}, "steps: expected 1 or more"),
        ({"schedule": "levels", "order": "random"}, "levels are those of the order spread"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        parse_settings(MaskedConfig, values, "settings")
