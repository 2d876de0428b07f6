"""The energy head: its temperatures and its settings."""

import math
from typing import Any

import pytest
import torch

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models.heads import EnergyHead, EnergyHeadConfig
from tests.models.head_training import HIDDEN, randomise, samples_of


def make(**settings: Any) -> EnergyHead:
    torch.manual_seed(0)
    head = EnergyHead(EnergyHeadConfig(width=16, blocks=1, noise=4, **settings), HIDDEN, 3)
    randomise(head)
    return head


def test_temperature_scales_the_noise_or_only_its_shift() -> None:
    generator, hidden = torch.Generator(), torch.zeros(1, HIDDEN)
    noise, shift = make(), make(temperature_acts_on="shift")
    shift.load_state_dict(noise.state_dict())
    torch.testing.assert_close(samples_of(noise), samples_of(shift))
    cold = noise.sample(hidden, 50, generator.manual_seed(0), temperature=0.0)
    assert float(cold.std(dim=0).max().detach()) < 1e-6, "no noise, no spread"
    half = shift.sample(hidden, 50, generator.manual_seed(0), temperature=0.5).detach()
    assert float(half.std(dim=0).min()) > 0, "scale and gate still have their noise"
    # by hand: halve the shift that the noise makes in the residual block, and nothing else
    steer = shift.get_submodule("blocks.0.steer")
    assert isinstance(steer, torch.nn.Linear)
    with torch.no_grad():
        steer.weight[:16] *= 0.5
        steer.bias[:16] *= 0.5
    torch.testing.assert_close(shift.sample(hidden, 50, generator.manual_seed(0)).detach(), half)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("beta", 2.0, "strictly proper for 0 < beta < 2"),
        ("train_temperature", 1.01, "no lower bound"),
        ("train_temperature", 0.0, "no lower bound"),
        ("bandwidths", [], "one or more positive"),
        ("bandwidths", [1.0, -1.0], "one or more positive"),
        ("variogram_weight", -1.0, "expected 0 or more"),
        ("marginal_weight", -1.0, "expected 0 or more"),
        ("samples", 1, "expected 2 or more"),
        ("rule", "brier", "energy"),
    ],
)
def test_settings_that_cannot_work_are_named(key: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parse_settings(EnergyHeadConfig, {key: value}, "test")
    assert key in str(caught.value)


def test_a_variogram_needs_two_channels() -> None:
    with pytest.raises(ValueError, match="two latent channels"):
        EnergyHead(EnergyHeadConfig(variogram_weight=1.0), HIDDEN, 1)


def test_marginal_scores_see_how_wide_a_narrow_channel_is() -> None:
    """Of two independent channels of sd 1 and 0.02, the loss of halving the spread of the second."""
    generator = torch.Generator().manual_seed(0)
    sd = torch.tensor([1.0, 0.02])
    samples, target = torch.randn(8, 20_000, 2, generator=generator) * sd, torch.randn(20_000, 2, generator=generator)
    narrow = samples * torch.tensor([1.0, 0.5])

    def lost(weight: float) -> float:
        head = EnergyHead(EnergyHeadConfig(marginal_weight=weight), HIDDEN, 2)
        scores = [head._score(drawn, (target * sd).unsqueeze(0)).mean() for drawn in (narrow, samples)]
        return float(scores[0] - scores[1])

    # CRPS of N(0, s^2) where N(0, 1) is true: sqrt(2 (1 + s^2) / pi) - s / sqrt(pi); the loss is twice the mean of both
    crps = {s: math.sqrt(2 * (1 + s**2) / math.pi) - s / math.sqrt(math.pi) for s in (0.5, 1.0)}
    assert lost(1.0) - lost(0.0) == pytest.approx(0.02 * (crps[0.5] - crps[1.0]), rel=0.1)
    assert lost(1.0) > 5 * abs(lost(0.0))
