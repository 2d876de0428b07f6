"""Changing how a trained model samples."""

import numpy as np
import pytest

from neurochorus.models import NeuralModel, set_sampling
from neurochorus.models.dynamics.denoising import DiffusionConfig
from tests.models.conftest import small_model


def generated(model: NeuralModel) -> np.ndarray:
    return model.rollout(model.context("b_s1", np.zeros((2, 0, 8))), 6, 1, seed=0).latents.numpy()


def test_diffusion_takes_the_named_sampler() -> None:
    model = small_model(order="diffusion", target="level", diffusion=DiffusionConfig(sampling_steps=3))
    before = generated(model)
    set_sampling(model, ["dynamics.diffusion.sampler=ddim", "dynamics.diffusion.sampling_steps=2"])
    assert (model.config.dynamics.diffusion.sampler, model.config.dynamics.diffusion.sampling_steps) == ("ddim", 2)
    assert not np.array_equal(before, generated(model))
    with pytest.raises(ValueError, match=r"sampler: .*found 'euler'"):
        set_sampling(model, ["dynamics.diffusion.sampler=euler"])


def test_a_flow_takes_the_named_solver() -> None:
    model = small_model("flow")
    before = generated(model)
    set_sampling(model, [])
    np.testing.assert_array_equal(generated(model), before)
    set_sampling(model, ["heads.flow.solver=rk4", "heads.flow.steps=32"])
    fine = generated(model)
    set_sampling(model, ["heads.flow.solver=midpoint", "heads.flow.steps=32"])
    assert np.abs(generated(model) - fine).max() < 0.05 * np.abs(before - fine).max()


def test_the_share_of_the_usual_rate_in_a_forecast() -> None:
    model = small_model()
    rollout = model.rollout(model.context("b_s1", np.ones((2, 5, 8))), 6, 4, seed=0)
    set_sampling(model, ["dynamics.usual_share=0.5"])
    other = model.rollout(model.context("b_s1", np.ones((2, 5, 8))), 6, 4, seed=0)
    np.testing.assert_array_equal(other.rates, rollout.rates)
    assert rollout.usual is not None
    np.testing.assert_allclose(other.expected_rate, (rollout.mean_rate + rollout.usual) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("heads.flow.width=8", "cannot be changed on a trained model"),
        ("heads.flow.steps=4", "not read by this model, whose head is energy"),
        ("dynamics.masked.steps=4", "not read by this model, whose order is causal"),
    ],
)
def test_what_would_have_no_effect_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_sampling(small_model(), [setting])
