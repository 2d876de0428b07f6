"""The shortcut variant of the flow head: any power of two of steps, one of them too."""

import dataclasses

import pytest
import torch

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models.heads import FlowHead, FlowHeadConfig
from neurochorus.models.heads.gaussian_path import average_velocity_factor, variance, velocity_factor
from neurochorus.models.heads.shortcut import draw_steps, two_half_steps
from tests.models.head_training import HIDDEN, bimodal_step, distance_to_quantiles, in_the_middle, samples_of, train

SHORTCUT = FlowHeadConfig(width=48, blocks=2, variant="shortcut", steps=1, source="standard", solver="euler")


@pytest.mark.parametrize("steps", [1, 2, 4, 64, 256])
def test_untrained_shortcut_is_exact_for_gaussian_targets_at_every_step_size(steps: int) -> None:
    config = dataclasses.replace(SHORTCUT, residual_sd=0.3, steps=steps)
    noise = torch.randn(200, 1, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(samples_of(FlowHead(config, HIDDEN, 4), 200), 0.3 * noise[:, 0])


def test_gaussian_path() -> None:
    t, step = torch.linspace(0, 0.9, 10), torch.tensor(0.1)
    factor = average_velocity_factor(t, step, 0.3)
    torch.testing.assert_close((1 + step * factor).square() * variance(t, 0.3), variance(t + step, 0.3))
    torch.testing.assert_close(
        average_velocity_factor(t, torch.tensor(1e-3), 0.3), velocity_factor(t, 0.3), atol=0.02, rtol=0.01
    )


def test_untrained_shortcut_agrees_with_its_own_half_steps() -> None:
    head = FlowHead(dataclasses.replace(SHORTCUT, residual_sd=0.3), HIDDEN, 4)
    torch.manual_seed(0)
    t, step = draw_steps(300, 64, torch.device("cpu"))
    x, condition = torch.randn(300, 4), torch.zeros(300, SHORTCUT.width)
    goal = two_half_steps(head.average_velocity, x, t, step, condition)
    torch.testing.assert_close(head.average_velocity(x, t, step, condition), goal, atol=2e-5, rtol=1e-4)


def test_steps_are_powers_of_two_on_their_own_grid() -> None:
    torch.manual_seed(0)
    t, step = draw_steps(4000, 16, torch.device("cpu"))
    sizes, seen = step.unique(return_counts=True)
    torch.testing.assert_close(sizes, torch.tensor([0.125, 0.25, 0.5, 1.0]))
    assert int(seen.min()) > 850
    torch.testing.assert_close(t / step, (t / step).round())
    assert float((t + step).max()) <= 1 + 1e-6


def test_one_step_of_a_shortcut_is_nearly_as_good_as_many() -> None:
    """On the bimodal step; the plain velocity head, as large, sends one step to the middle."""
    errors: dict[str, float] = {}
    for variant in ("shortcut", "velocity"):
        torch.manual_seed(0)
        head = FlowHead(dataclasses.replace(SHORTCUT, variant=variant), HIDDEN, 1)
        train(head, bimodal_step, steps=800 if variant == "shortcut" else 400, learning_rate=4e-3, tokens=192)
        for steps in (1, 2, 4, 8, 32):
            head.config = dataclasses.replace(head.config, steps=steps)
            samples = samples_of(head, 4000)
            errors[f"{variant} {steps}"] = distance_to_quantiles(samples, bimodal_step)
            if variant == "shortcut":
                assert in_the_middle(samples) < 0.08, f"{steps} steps"
    assert errors["shortcut 1"] < 0.1
    assert errors["shortcut 1"] < errors["shortcut 32"] + 0.05
    assert errors["velocity 1"] > 5 * errors["shortcut 1"]


@pytest.mark.parametrize(("key", "value"), [("steps", 3), ("shortcut_finest", 48), ("shortcut_share", 1.0)])
def test_settings_that_cannot_work_are_named(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=key):
        parse_settings(FlowHeadConfig, {"variant": "shortcut", key: value}, "test")
