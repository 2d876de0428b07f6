"""Backbones: a cache continues as one call would, forgets what no token can see, and lets gradients through."""

import pytest
import torch

from neurochorus.models.backbones import GRU, Backbone, GRUConfig, Transformer, TransformerConfig
from neurochorus.models.backbones.key_values import KeyValueCache


def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    window = int(name.removeprefix("window")) if name.startswith("window") else None
    if name == "gru":
        return GRU(GRUConfig(width=16, layers=2)).eval()
    return Transformer(TransformerConfig(width=16, blocks=2, heads=2, attention_window=window)).eval()


NAMES = ("transformer", "window1", "window4", "window5", "gru")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gradients", [False, True])
def test_cache_continues_as_the_whole_sequence_would(name: str, gradients: bool) -> None:
    """Pieces of many lengths, so that a window's buffer is filled, moved and overrun by one piece."""
    model, tokens = backbone(name), torch.randn(3, 40, 16)
    with torch.set_grad_enabled(gradients):
        cache = model.new_cache(3, 40)
        pieces = [model(piece, cache) for piece in tokens.split([5, 3, 1, 1, 1, 13, 2, 1, 1, 1, 1, 4, 6], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-5, atol=1e-5)
    assert cache.length == 40


@pytest.mark.parametrize("name", NAMES)
def test_repeated_rows_go_on_as_their_own(name: str) -> None:
    model, context, ahead = backbone(name), torch.randn(2, 7, 16), torch.randn(6, 5, 16)
    cache = model.new_cache(2, 12)
    model(context, cache)
    many = cache.repeat(3)
    continued = torch.cat([model(ahead[:, t : t + 1], many) for t in range(5)], dim=1)
    whole = model(torch.cat((context.repeat_interleave(3, dim=0), ahead), dim=1))[:, 7:]
    torch.testing.assert_close(continued, whole, rtol=1e-5, atol=1e-5)
    assert cache.length == 7


def test_memory_of_a_window_is_bounded() -> None:
    model = backbone("window4")
    cache = model.new_cache(1, 1_000)
    assert isinstance(cache, KeyValueCache)
    with torch.no_grad():
        for _ in range(50):
            model(torch.randn(1, 1, 16), cache)
    assert max(block.pairs.shape[3] for block in cache.blocks) == 8
    tokens, small = torch.randn(1, 9, 16), model.new_cache(1, 2)  # a window goes on beyond its capacity, too
    pieces = [model(piece, small) for piece in tokens.split([1, 1, 1, 5, 1], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_through_a_cache(name: str) -> None:
    model, tokens = backbone(name), torch.randn(2, 12, 16)

    def gradients(step_by_step: bool) -> list[torch.Tensor]:
        x = tokens.clone().requires_grad_()
        if step_by_step:
            cache = model.new_cache(2, 12)
            out = torch.cat([model(x[:, :4], cache), *(model(x[:, t : t + 1], cache) for t in range(4, 12))], dim=1)
        else:
            out = model(x)
        return list(torch.autograd.grad(out.square().sum() + out[:, -1].sum(), [x, *model.parameters()]))

    for ours, whole in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)


def test_padded_tokens_are_not_seen_and_stay_finite() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(width=16, blocks=2, heads=2), causal=False).eval()
    tokens, mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    hidden = model(tokens, mask_BT=mask)
    torch.testing.assert_close(hidden[:1], model(tokens[:1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden[1:, :6], model(tokens[1:, :6]), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(model(tokens, mask_BT=torch.zeros_like(mask))).all()


def test_a_cache_is_for_causal_tokens() -> None:
    model = Transformer(TransformerConfig(width=16, blocks=1, heads=2), causal=False)
    with pytest.raises(ValueError, match="a cache is for causal tokens"):
        model(torch.zeros(1, 2, 16), model.new_cache(1, 4))


def test_a_full_cache_is_refused() -> None:
    transformer = Transformer(TransformerConfig(width=16, blocks=1, heads=2))
    cache = transformer.new_cache(1, 4)
    with pytest.raises(ValueError, match="holds 4 tokens, 0 are filled and 5 more"):
        transformer(torch.zeros(1, 5, 16), cache)
