"""Pretraining: train, fine-tune and measure models under DeepSpeed."""

from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.finetuning import FinetuneConfig, finetune
from neurochorus.pretrain.pretraining import pretrain

__all__ = ["FinetuneConfig", "Ranks", "RunConfig", "finetune", "pretrain", "process_group"]
