"""Dynamics that are taken from another export: what may differ, and what is refused by name."""

from pathlib import Path

import pytest
import torch

from neurochorus.models import NeuralModel, save
from neurochorus.pretrain.taking_over import take_dynamics
from tests.models.conftest import small_model


def changed(one: NeuralModel, other: NeuralModel) -> bool:
    pairs = zip(one.dynamics.state_dict().values(), other.dynamics.state_dict().values(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


def test_other_settings_of_sampling_are_no_other_dynamics(tmp_path: Path) -> None:
    source, model = small_model(usual_share=0.1), small_model(seed=1, usual_share=0.03)
    assert changed(source, model)
    take_dynamics(model, str(save(source, tmp_path / "export")))
    assert not changed(source, model)
    assert model.config.dynamics.usual_share == 0.03


def test_what_belongs_to_the_weights_is_refused_by_name(tmp_path: Path) -> None:
    path = save(small_model(history_noise=0.2), tmp_path / "export")
    model = small_model(seed=1)
    before = {name: value.clone() for name, value in model.dynamics.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"dynamics\.init .*\n  - model\.dynamics\.history_noise: 0\.2 in .*export, \S+ now$"
    ):
        take_dynamics(model, str(path))
    with pytest.raises(ValueError, match=r'model\.head: "energy" in .*energy, "flow" now'):
        take_dynamics(small_model("flow"), str(save(small_model(), tmp_path / "energy")))
    assert all(torch.equal(value, before[name]) for name, value in model.dynamics.state_dict().items())
