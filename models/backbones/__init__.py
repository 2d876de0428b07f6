"""Backbones: what turns a sequence of tokens into hidden states."""

from neurochorus.models.backbones.transformer import KeyValueCache, Transformer, TransformerConfig

__all__ = ["KeyValueCache", "Transformer", "TransformerConfig"]
