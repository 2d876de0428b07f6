"""Weights of an earlier model are given to one with the same settings and sessions, and to no other."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neurochorus.models import save
from neurochorus.pretrain.initial_weights import initial_weights
from tests.models.conftest import small_model


def test_weights_are_given_and_statistics_left(tmp_path: Path) -> None:
    source, model = small_model("energy"), small_model("energy")
    with torch.no_grad():
        for tensor in (*source.parameters(), source.dynamics.increment_sd):
            tensor.add_(1.0)
    before = model.dynamics.increment_sd.clone()
    start = initial_weights(save(source, tmp_path / "run" / "export").parent)
    start.refuse_another(model.config, model.registry.sessions)
    start.give(model, ("dynamics",))
    assert torch.equal(model.get_parameter("dynamics.read.weight"), source.get_parameter("dynamics.read.weight"))
    rows = "autoencoder.read_in_rows.weight"
    assert not torch.equal(model.get_parameter(rows), source.get_parameter(rows)), "only the dynamics were asked for"
    start.give(model)
    own = dict(model.named_parameters())
    for name, weight in source.named_parameters():
        assert torch.equal(own[name], weight), name
    assert torch.equal(model.dynamics.increment_sd, before)


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    source = small_model("energy")
    start = initial_weights(save(source, tmp_path / "model"))
    other = replace(source.config, head="flow")
    with pytest.raises(ValueError, match="is of another model") as caught:
        start.refuse_another(other, source.registry.sessions[:-1])
    assert 'model.head: "energy" there, "flow" now' in str(caught.value)
    assert f"sessions: {source.registry.sessions[-1].session_id} differ" in str(caught.value)


def test_a_place_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a model directory, a checkpoint, or a run directory"):
        initial_weights(tmp_path)
