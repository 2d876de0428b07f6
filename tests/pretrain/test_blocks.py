"""Recomputed and compiled transformer blocks train as plain ones do, dropout included."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neurochorus.models import TransformerConfig
from neurochorus.models.backbones import Transformer
from neurochorus.pretrain.blocks import prepare_blocks
from neurochorus.pretrain.config import TrainSection

CONFIG = TransformerConfig(width=32, blocks=4, heads=2, dropout=0.2)
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")


def gradients(train: TrainSection, dropout: float = 0.2) -> tuple[list[Tensor], int]:
    """Gradients of all parameters, and the bytes that the forward pass keeps for the backward pass besides them."""
    torch.manual_seed(0)
    transformer = Transformer(replace(CONFIG, dropout=dropout))
    prepare_blocks(transformer, train)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x_BTD = torch.randn(3, 10, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = transformer(x_BTD).square().sum()
    loss.backward()
    return [parameter.grad for parameter in (x_BTD, *transformer.parameters()) if parameter.grad is not None], sum(
        kept.values()
    )


def test_recomputed_blocks_keep_less_and_have_the_same_gradients() -> None:
    plain, all_kept = gradients(TrainSection())
    bytes_kept = [all_kept]
    for how in ("selective", "full"):
        found, kept = gradients(TrainSection(activation_checkpointing=how))  # type: ignore[arg-type]
        assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))
        bytes_kept.append(kept)
    assert bytes_kept[2] < 0.5 * bytes_kept[1] < 0.4 * bytes_kept[0]


def test_dropout_takes_part_in_these_comparisons() -> None:
    with_dropout, _ = gradients(TrainSection(activation_checkpointing="full"))
    without, _ = gradients(TrainSection(activation_checkpointing="full"), dropout=0.0)
    assert not torch.allclose(with_dropout[0], without[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs need no C++ compiler")
def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="there is no no-such-compiler"):
        prepare_blocks(Transformer(CONFIG), TrainSection(compile=True))


@NEEDS_COMPILER
def test_blocks_are_compiled_and_nothing_else() -> None:
    transformer = Transformer(CONFIG)
    prepare_blocks(transformer, TrainSection(compile=True))
    compiled = [name for name, module in transformer.named_modules() if module._compiled_call_impl is not None]
    assert compiled == [f"blocks.{number}" for number in range(CONFIG.blocks)]


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("how", ["none", "full"])
def test_compiled_blocks_have_the_gradients_of_eager_ones(how: str) -> None:
    plain, _ = gradients(TrainSection())
    compiled, _ = gradients(TrainSection(compile=True, activation_checkpointing=how))  # type: ignore[arg-type]
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
