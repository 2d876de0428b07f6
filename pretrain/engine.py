"""The DeepSpeed engine: its settings are derived from ours, never written by hand.

`gradient_clipping` and `grad_accum_dtype` are always explicit: DeepSpeed's own defaults are 1.0 and the
model's type. Weights, gradients and optimizer state are float32; bf16 is autocast inside the module.
"""

import math
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.distributed import Ranks, of_the_network
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups


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
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(config, world),
        "gradient_clipping": config.train.gradient_clipping,
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": config.zero.stage,
            "stage3_param_persistence_threshold": config.zero.persistence_threshold,
        },
        **config.deepspeed,
    }


class Engine:
    """One stage's module under DeepSpeed."""

    def __init__(self, module: nn.Module, config: RunConfig, stage: StageSection, ranks: Ranks):
        import deepspeed

        groups = parameter_groups(module, stage, config.train.head_learning_rate_factor)
        self.factors = [group["factor"] for group in groups]
        self.module = module
        plain_optimizer = make_optimizer(groups, stage)
        plain_optimizer.register_step_pre_hook(lambda *_: self._drop_non_finite_gradients())
        engine, optimizer, *_ = deepspeed.initialize(
            model=module.to(ranks.device),
            optimizer=plain_optimizer,
            config=deepspeed_settings(config, ranks.world),
        )
        self.engine: Any = engine
        self.optimizer: Any = optimizer
        self.zero_stage = config.zero.stage
        self.accumulation = accumulation_steps(config, ranks.world)
        self._norm, self._finite = 0.0, True

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*inputs)

    def backward_and_step(self, loss: Tensor) -> None:
        """Backward of one micro-batch; the optimizer steps at the last one of the accumulation."""
        self.engine.backward(loss)
        if self.zero_stage == 0 and self.engine.is_gradient_accumulation_boundary():
            # DeepSpeed keeps no norm without ZeRO; after backward the gradients are already averaged over ranks
            self._norm = _norm_of_gradients(self.module)
            self._finite = math.isfinite(self._norm)  # DeepSpeed looks for this with ZeRO only
        self.engine.step()

    def _drop_non_finite_gradients(self) -> None:
        """Without gradients the optimizer leaves weights alone; DeepSpeed's clipping needs them until just before."""
        if not self._finite:
            for parameter in self.module.parameters():
                parameter.grad = None

    def set_learning_rate(self, rate: float) -> None:
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor

    @property
    def gradient_norm(self) -> float:
        """Norm of the last step's gradient before clipping."""
        return self._norm if self.zero_stage == 0 else float(self.engine.get_global_grad_norm())

    @property
    def step_applied(self) -> bool:
        """False when the step was skipped for a non-finite gradient, the same on all ranks."""
        return self._finite and bool(self.engine.was_step_applied())

    def state_dict(self) -> dict[str, Tensor]:
        """The full weights on the CPU, on every rank (all ranks must call it)."""
        module = self.module
        if self.zero_stage < 3:
            return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(module.parameters())):
            return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def save(self, folder: str, tag: str) -> None:
        self.engine.save_checkpoint(folder, tag=tag, save_latest=False)

    def load(self, folder: str, tag: str) -> None:
        """Load weights and optimizer state. Raises ValueError when DeepSpeed finds nothing to load, or damage."""
        reason = "DeepSpeed finds nothing in it"
        try:
            path, _ = self.engine.load_checkpoint(folder, tag=tag)
        except (KeyError, EOFError, pickle.UnpicklingError, RuntimeError) as error:
            if of_the_network(error):
                raise
            path, reason = None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if path is None:
            raise ValueError(
                f"{folder}/{tag}: this checkpoint cannot be loaded ({reason}); remove it to resume from an older one"
            )

    def close(self) -> None:
        self.engine.destroy()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _norm_of_gradients(module: nn.Module) -> float:
    norms = [parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None]
    return float(torch.stack(norms).norm())
