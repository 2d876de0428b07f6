"""How transformer blocks run in training: what they keep for the backward pass, and whether they are compiled."""

import os
import shutil
import sys

import torch
from torch import nn

from neurochorus.models.backbones import Transformer
from neurochorus.pretrain.config import TrainSection


def prepare_blocks(module: nn.Module, train: TrainSection) -> None:
    """Set up the blocks of all transformers in a module; before `deepspeed.initialize`.

    Only blocks are compiled: the read-in takes batches with another number of units each, and the tables' gradients
    are to arrive as the guard of their order sees them.
    """
    if train.compile and not torch.cuda.is_available():
        _refuse_without_compiler()
    for transformer in (found for found in module.modules() if isinstance(found, Transformer)):
        every = {"none": 0, "selective": 2, "full": 1}[train.activation_checkpointing]
        transformer.recomputed = frozenset(range(0, len(transformer.blocks), every) if every else ())
        if train.compile:
            for block in transformer.blocks:
                block.compile(options={"fallback_random": True})  # the same dropout as eager


def _refuse_without_compiler() -> None:
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch.compile chooses
    if shutil.which(compiler) is None:
        raise ValueError(
            f"train.compile: torch.compile needs a C++ compiler on CPUs, and there is no {compiler}: install it, or "
            "set train.compile to false"
        )
