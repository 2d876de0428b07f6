"""Backbones: what turns a sequence of tokens into hidden states."""

from neurochorus.models.backbones.base import Backbone, Cache
from neurochorus.models.backbones.gru import GRU, GRUConfig, GRUState
from neurochorus.models.backbones.key_values import KeyValueCache
from neurochorus.models.backbones.transformer import Transformer, TransformerConfig

__all__ = [
    "GRU",
    "Backbone",
    "Cache",
    "GRUConfig",
    "GRUState",
    "KeyValueCache",
    "Transformer",
    "TransformerConfig",
]
