"""The DeepSpeed engine: its settings are derived from ours, never written by hand.

`gradient_clipping` and `grad_accum_dtype` are always explicit: DeepSpeed's own defaults are 1.0 and the
model's type. Weights, gradients and optimizer state are float32; bf16 is autocast inside the module.
"""

import math
import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurochorus.pretrain.averaging import WeightAverage
from neurochorus.pretrain.blocks import prepare_blocks
from neurochorus.pretrain.checkpoint_files import Sums
from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.distributed import Ranks, of_the_network
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.relayout import load_by_name
from neurochorus.pretrain.saved_state import PARAMETERS, SavedState

BUCKET_ELEMENTS = 50_000_000
"""Gradients that are reduced together; DeepSpeed's own 500,000,000 hold 2 GB of every device for it."""
LIVE_ELEMENTS = 100_000_000
"""Parameters that ZeRO-3 holds gathered; at DeepSpeed's own 1,000,000,000 it would not shard most models at all."""


def accumulation_steps(config: RunConfig, world: int) -> int:
    """Micro-batches a rank adds up in a step. Raises ValueError when the global batch cannot be split so."""
    together = config.train.micro_batch * world
    if config.train.global_batch % together:
        raise ValueError(
            f"train.global_batch {config.train.global_batch} is not a multiple of {together} "
            f"(train.micro_batch {config.train.micro_batch} x {world} ranks): change one of them"
        )
    return config.train.global_batch // together


def deepspeed_settings(config: RunConfig, world: int) -> dict[str, Any]:
    """The dict that DeepSpeed gets for a run on `world` ranks."""
    zero: dict[str, Any] = {
        "stage": config.zero.stage,
        "stage3_param_persistence_threshold": config.zero.persistence_threshold,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "stage3_max_live_parameters": LIVE_ELEMENTS,
        "stage3_max_reuse_distance": LIVE_ELEMENTS,
    }
    if config.zero.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.zero.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(config, world),
        "gradient_clipping": config.train.gradient_clipping,
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        # else it insists on an Adam of its own, which is compiled at the first start
        **({"zero_force_ds_cpu_optimizer": False} if config.zero.offload_optimizer else {}),
        **config.deepspeed,
    }


class Engine:
    """One stage's module under DeepSpeed."""

    def __init__(self, module: nn.Module, config: RunConfig, stage: StageSection, ranks: Ranks):
        import deepspeed

        from neurochorus.pretrain.checkpoint_writer import CheckpointWriter

        groups = parameter_groups(module, stage, config.train.head_learning_rate_factor)
        self.factors = [(group["factor"], group["begins"]) for group in groups]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.names = [names[id(parameter)] for group in groups for parameter in group["params"]]
        self.module = module
        prepare_blocks(module, config.train)
        plain_optimizer = make_optimizer(groups, stage)
        plain_optimizer.register_step_pre_hook(lambda *_: self._drop_non_finite_gradients())
        engine, optimizer, *_ = deepspeed.initialize(
            model=module.to(ranks.device),
            optimizer=plain_optimizer,
            config=deepspeed_settings(config, ranks.world),
        )
        self.engine: Any = engine
        self._writer = self.engine.checkpoint_engine = CheckpointWriter()
        # DeepSpeed would copy its conversion scripts beside the checkpoint, outside of its writer
        self.engine._copy_recovery_script = lambda _save_path: None
        self.optimizer: Any = optimizer
        self.zero_stage = config.zero.stage
        self.accumulation = accumulation_steps(config, ranks.world)
        self._norm, self._finite = 0.0, True
        self._rank = ranks.rank
        self.average = None if config.train.ema is None else WeightAverage(module, config.train.ema, ranks)

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*inputs)

    def backward_and_step(self, loss: Tensor) -> None:
        """Backward of one micro-batch; the optimizer steps at the last one of the accumulation."""
        self.engine.backward(loss)
        last = self.engine.is_gradient_accumulation_boundary()
        if self.zero_stage == 0 and last:
            # DeepSpeed keeps no norm without ZeRO; after backward the gradients are already averaged over ranks
            self._norm = _norm_of_gradients(self.module)
            self._finite = math.isfinite(self._norm)  # DeepSpeed looks for this with ZeRO only
        self.engine.step()
        if self.average is not None and last and self.step_applied:
            self.average.update()

    def _drop_non_finite_gradients(self) -> None:
        """Without gradients the optimizer leaves weights alone; DeepSpeed's clipping needs them until just before."""
        if not self._finite:
            for parameter in self.module.parameters():
                parameter.grad = None

    def set_learning_rate(self, rate: float, progress: float = 1.0) -> None:
        """Give every group its share of a rate; those that begin after `progress` (a share of the steps) get 0."""
        for group, (factor, begins) in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor if progress >= begins else 0.0

    @property
    def gradient_norm(self) -> float:
        """Norm of the last step's gradient before clipping."""
        return self._norm if self.zero_stage == 0 else float(self.engine.get_global_grad_norm())

    @property
    def step_applied(self) -> bool:
        """False when the step was skipped for a non-finite gradient, the same on all ranks."""
        return self._finite and bool(self.engine.was_step_applied())

    def state_dict(self) -> dict[str, Tensor]:
        """The full weights on the CPU, on every rank (all ranks must call it): their average where one is kept."""
        averages = {} if self.average is None else self.average.gather()
        return self._weights() | averages

    def _weights(self) -> dict[str, Tensor]:
        module = self.module
        if self.zero_stage < 3:
            return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(module.parameters())):
            return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def save(self, folder: str, tag: str, behind: bool = False) -> Future[Sums]:
        """Write a checkpoint, with the average of the weights: size and CRC-32 of this rank's files, by path.

        With `behind` they are still being written when it returns, but what is trained on from here is not in them.
        All ranks must call it. What comes back holds an OSError where this rank could not write; the others are not
        held up by it.
        """
        self._writer.behind = behind
        self.engine.save_checkpoint(folder, tag=tag, client_state={PARAMETERS: self.names}, save_latest=False)
        if self.average is not None:
            self._writer.save(self.average.state(), str(Path(folder, tag, f"average_rank_{self._rank:05d}.pt")))
        return self._writer.finish()

    def load(self, folder: str, tag: str, same_layout: bool = True) -> None:
        """Load weights and optimizer state; without `same_layout` those of other ranks or another ZeRO stage.

        Raises ValueError when DeepSpeed finds nothing to load, or damage. All ranks must call it.
        """
        reason = "DeepSpeed finds nothing in it"
        path: Any = Path(folder, tag)
        try:
            if same_layout:
                path, _ = self.engine.load_checkpoint(folder, tag=tag)
            else:
                load_by_name(self.engine, self.module, self.names, SavedState(path))
            if self.average is not None and path is not None:
                self._load_average(self.average, Path(folder, tag))
        except (KeyError, EOFError, pickle.UnpicklingError, RuntimeError) as error:
            if of_the_network(error):
                raise
            path, reason = None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if path is None:
            raise ValueError(
                f"{folder}/{tag}: this checkpoint cannot be loaded ({reason}); remove it to resume from an older one"
            )

    @staticmethod
    def _load_average(average: WeightAverage, checkpoint: Path) -> None:
        files = sorted(checkpoint.glob("average_rank_*.pt"))
        try:
            average.load([torch.load(file, map_location="cpu", mmap=True) for file in files])
        except ValueError as error:
            raise ValueError(f"{checkpoint}: {error}") from None

    def close(self) -> None:
        self.engine.destroy()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _norm_of_gradients(module: nn.Module) -> float:
    norms = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
    return float(torch.stack(norms).norm())
