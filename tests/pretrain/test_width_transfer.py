"""muP: which learning rates and starting weights change with the width, and that activations then change alike."""

import pytest
import torch

from neurochorus.models.dynamics.unmasking import MaskedConfig
from neurochorus.pretrain.config import StageSection
from neurochorus.pretrain.optimizer import parameter_groups
from neurochorus.pretrain.stages import dynamics_stage
from neurochorus.pretrain.width_transfer import rate_factors, transfer_width
from tests.benchmarks.coordinate_check import WIDTHS, changes, exponents, model_of_width
from tests.models.conftest import small_model

SECTION = StageSection(steps=1, weight_decay=0.1)


def test_transferred_rates_change_activations_alike_at_every_width() -> None:
    """The coordinate check: an exponent of 0 with the transfer, and clearly above without it."""
    transferred = exponents({width: changes(width, 32) for width in WIDTHS})
    plain = exponents({width: changes(width, None) for width in WIDTHS})
    blocks = [name for name in plain if ".blocks." in name]
    assert len(blocks) == 4
    for name in blocks:
        assert abs(transferred[name]) < 0.2, name
        assert plain[name] > 0.35, name


def test_matrices_that_read_from_the_width_learn_slower_and_no_others() -> None:
    model = model_of_width(128, base_width=32)
    stage = dynamics_stage(model, "fp32")  # a copy, as training makes it
    names = {id(parameter): name.removeprefix("trained.") for name, parameter in stage.named_parameters()}
    groups = parameter_groups(stage, SECTION, head_factor=1.0)
    of_name = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    slower = {name for name, group in of_name.items() if group["factor"] != 1.0}
    assert {group["factor"] for group in groups} == {1.0, 0.25}
    assert {name for name in of_name if ".blocks." in name and name.endswith("weight") and "norm" not in name} <= slower
    assert not {"read.weight", "start", "session_vectors.weight", "transformer.norm.weight"} & slower
    for name in slower:
        group = of_name[name]
        assert group["weight_decay"] * group["factor"] == pytest.approx(0.1), "the rate times the decay stays"


def test_read_outs_start_smaller_and_all_else_as_before() -> None:
    scaled, plain = model_of_width(128, base_width=32), model_of_width(128, base_width=None)
    differing = {
        name: float((value.std() / plain.get_parameter(name).std()).detach())
        for name, value in scaled.named_parameters()
        if not torch.equal(value, plain.get_parameter(name))
    }
    assert differing["autoencoder.to_latent.weight"] == pytest.approx(0.5)
    assert list(differing.values()) == pytest.approx([0.5] * len(differing))
    assert all(name.startswith(("autoencoder.to_latent", "dynamics.head", "dynamics.companion")) for name in differing)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"positions": 6}, "positions"),
        ({"order": "masked", "masked": MaskedConfig(buffer_tokens=3)}, "buffer_vectors"),
    ],
)
def test_learned_input_vectors_are_no_matrices(settings: dict[str, object], name: str) -> None:
    model = small_model(**settings)  # type: ignore[arg-type]
    before = model.dynamics.get_parameter(name).clone()
    transfer_width(model, 8)
    assert torch.equal(model.dynamics.get_parameter(name), before)
    assert id(model.dynamics.get_parameter(name)) not in rate_factors(model)


@pytest.mark.parametrize(
    "settings",
    [{"order": "masked"}, {"order": "diffusion"}, {"backbone": "gru"}, {"patch_bins": 2}, {"head": "langevin"}],
)
def test_every_kind_of_model_can_be_transferred(settings: dict[str, object]) -> None:
    model = small_model(**settings)  # type: ignore[arg-type]
    transfer_width(model, 8)
    assert {group["factor"] for group in parameter_groups(model, SECTION, head_factor=1.0)} == {1.0, 0.5}


def test_at_the_base_width_nothing_changes() -> None:
    model, plain = model_of_width(64, base_width=64), model_of_width(64, base_width=None)
    assert all(torch.equal(value, plain.get_parameter(name)) for name, value in model.named_parameters())
    assert {group["factor"] for group in parameter_groups(model, SECTION, head_factor=1.0)} == {1.0}
    transfer_width(model, None)
