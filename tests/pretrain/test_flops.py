"""The formula of training FLOPs against what PyTorch counts of a real step."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from neurochorus.models import HeadsConfig, NeuralModel
from neurochorus.models.backbones.transformer import TransformerConfig
from neurochorus.models.dynamics.joint import JointConfig
from neurochorus.models.dynamics.unmasking import MaskedConfig
from neurochorus.models.heads.flow import FlowHeadConfig
from neurochorus.pretrain.costs.flops import backbone_flops, dynamics_flops, training_flops
from neurochorus.pretrain.stages import Stage, autoencoder_stage, dynamics_stage, joint_stage
from tests.models.conftest import small_model
from tests.pretrain.test_memory import make_batch

SAMPLES, BINS, UNITS = 2, 40, 5
ENCODER = TransformerConfig(width=32, blocks=2, heads=2)


def model(head: str = "energy", autoencoder: Any = None, **dynamics: Any) -> NeuralModel:
    return small_model(head, autoencoder={"encoder": ENCODER, **(autoencoder or {})}, **dynamics)


def counted(stage: Stage) -> int:
    """Products of matrices in one step; attention as products, of which the fused kernel of CPUs is not counted."""
    whole = make_batch(SAMPLES)
    whole.signal_BTC, whole.unit_rows_BC = whole.signal_BTC[..., :UNITS], whole.unit_rows_BC[:, :UNITS]
    stage.train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss, *_ = stage(*stage.prepare(whole))
        loss.backward()
    return counter.get_total_flops()


def stated(stage: Stage) -> float:
    return sum(stage.flops(BINS, UNITS).values()) * SAMPLES * BINS


@pytest.mark.parametrize("settings", [{}, {"decoder_hidden": 16, "slow_gain": False}])
def test_of_an_autoencoder(settings: Any) -> None:
    stage = autoencoder_stage(model(autoencoder=settings), "fp32")
    assert stated(stage) == pytest.approx(counted(stage), rel=0.01)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("energy", {}),
        ("energy", {"patch_bins": 4}),
        ("energy", {"backbone": "gru"}),
        ("energy", {"order": "masked", "target": "level", "positions": 64, "masked": MaskedConfig(buffer_tokens=8)}),
        ("energy", {"order": "diffusion", "target": "level"}),
        ("flow", {}),
        ("langevin", {}),
        ("gaussian", {}),
    ],
)
def test_of_dynamics(head: str, settings: dict[str, Any]) -> None:
    stage = dynamics_stage(model(head, **settings), "fp32")
    assert stated(stage) == pytest.approx(counted(stage), rel=0.02)


@pytest.mark.parametrize("settings", [{"variant": "shortcut"}, {"source": "hidden"}, {"draws": 3}])
def test_of_flow_heads(settings: Any) -> None:
    base = small_model("flow")
    config = HeadsConfig(flow=FlowHeadConfig(**{"width": 48, **settings}))
    made = type(base)(type(base.config)(head="flow", dynamics=base.config.dynamics, heads=config), base.registry)
    stage = dynamics_stage(made, "fp32")
    assert stated(stage) == pytest.approx(counted(stage), rel=0.02)


def test_of_the_joint_phase_on_average() -> None:
    torch.manual_seed(0)
    stage = joint_stage(model("energy", joint=JointConfig(bins=8)), "fp32")
    mean = sum(counted(stage) for _ in range(6)) / 6
    assert stated(stage) == pytest.approx(mean, rel=0.05)


def test_it_is_the_usual_estimate_for_a_plain_transformer() -> None:
    dynamics = model("gaussian", transformer=TransformerConfig(width=64, blocks=3, heads=2)).dynamics
    matrices = 3 * 12 * 64**2  # 4 D^2 of attention and 8 D^2 of the feed-forward in each block
    assert dynamics_flops(dynamics, 50)["backbone"] == 6 * matrices + 12 * 3 * 64 * 50


def test_a_window_bounds_what_attention_sees() -> None:
    backbone = model("gaussian", window=7).dynamics.get_submodule("transformer")
    assert backbone_flops(backbone, 7) == backbone_flops(backbone, 500)


def test_a_module_of_no_stage_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear is trained by no stage"):
        training_flops(torch.nn.Linear(2, 2), None, BINS, UNITS)
