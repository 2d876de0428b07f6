"""The settings of a run: what `launch/pretrain.py --config FILE section.key=value` reads.

`model` says what is built, `autoencoder` and `dynamics` how each of the two stages is trained.
"""

from dataclasses import field
from typing import Any, Literal

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models import ModelConfig
from neurochorus.pretrain.passthrough import passthrough_problems


@settings
class RunSection:
    dir: str
    """Run directory: config.yaml, run.json, metrics.jsonl, checkpoints/ and export/ go there."""
    seed: int = 0
    resume: str = "auto"
    """auto: continue from the newest complete checkpoint of `dir`, if any; never: refuse a used one; or a path."""


@settings
class DataSection:
    path: str | list[str]
    """One or more data set directories made by launch/shard.py."""
    sessions: list[str] | None = None
    """Session ids or patterns (`steinmetz_s0*`, `subject:Cori`); null: all."""
    exclude: list[str] = field(default_factory=list)
    """Session ids or patterns to leave out."""
    window_bins: int | None = None
    """Longest stretch given to the model; null: whole samples."""
    alpha: float = 1.0
    """Sessions are drawn in proportion to (number of samples) ** alpha; 0 gives all sessions the same weight."""
    weights: dict[str, float] = field(default_factory=dict)
    """Session pattern -> factor on its weight."""
    workers: int = 1
    """Reader processes a rank; 0 reads in the training process."""
    prefetch: int = 4
    """Micro-batches each worker keeps ready."""

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)

    def problems(self) -> list[str]:
        found = [] if self.paths else ["path: at least one data set directory is needed"]
        found += (
            [] if self.workers >= 0 and self.prefetch >= 1 else ["workers: expected 0 or more, and prefetch 1 or more"]
        )
        return found + ([] if self.window_bins is None or self.window_bins > 0 else ["window_bins: expected 1 or more"])


@settings
class StageSection:
    steps: int = 0
    """Optimizer steps; must be given, unless `init` is."""
    learning_rate: float = 1e-3
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises; it then falls to zero along a half cosine."""
    weight_decay: float = 0.01
    """Of weight matrices; norms, biases and the unit and session tables have none."""
    table_weight_decay: float = 0.0
    """Of read-in and read-out rows. It also shrinks rows of sessions that are not in the batch."""
    beta2: float = 0.95
    init: str | None = None
    """A model directory whose weights of this stage are taken instead of training it (then `steps` is not used)."""

    def problems(self) -> list[str]:
        found = [] if self.steps >= 1 or self.init else [f"steps: expected 1 or more, found {self.steps}"]
        found += (
            [] if self.learning_rate > 0 else [f"learning_rate: expected a positive number, found {self.learning_rate}"]
        )
        if not 0 <= self.warmup < 1:
            found.append(f"warmup: expected a share in [0, 1), found {self.warmup}")
        found += at_least(self, 0, "weight_decay", "table_weight_decay")
        if not 0.5 <= self.beta2 <= 0.95:
            # a table row unseen for long takes a first Adam step sqrt(1 / (1 - beta2)) times too large
            found.append(f"beta2: expected a number in [0.5, 0.95] because of the unit tables, found {self.beta2}")
        return found


@settings
class TrainSection:
    global_batch: int = 32
    """Samples an optimizer step, over all ranks and accumulation."""
    micro_batch: int = 16
    """Samples a rank holds at once; they come from one session."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: matrix products in bfloat16 (autocast), weights, gradients and losses in float32."""
    gradient_clipping: float = 1.0
    head_learning_rate_factor: float = 0.25
    """Learning rate of the energy head as a share of the rest; at 1 it collapses (EAR, Shao et al. 2025)."""
    max_hours: float | None = None
    """Save and stop with exit code 0 when this much wall time is spent; null: no limit."""
    log_every: int = 10
    max_skipped_steps: int = 5
    """Stop after this many steps in a row were skipped for non-finite gradients."""

    def problems(self) -> list[str]:
        found = [
            f"{n}: expected 1 or more" for n in ("global_batch", "micro_batch", "log_every") if getattr(self, n) < 1
        ]
        found += at_least(self, 0, "gradient_clipping", "head_learning_rate_factor")
        found += at_least(self, 1, "max_skipped_steps")
        if self.max_hours is not None:
            found += at_least(self, 0, "max_hours")
        if not found and self.global_batch % self.micro_batch:
            found.append(f"global_batch: {self.global_batch} is not a multiple of micro_batch {self.micro_batch}")
        return found


@settings
class ZeroSection:
    stage: Literal[0, 1, 2, 3] = 1
    persistence_threshold: int = 100_000
    """ZeRO-3 keeps parameters smaller than this many elements on every rank."""

    def problems(self) -> list[str]:
        return at_least(self, 0, "persistence_threshold")


@settings
class CheckpointSection:
    every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest complete checkpoints to keep."""

    def problems(self) -> list[str]:
        return [] if self.every >= 1 and self.keep >= 1 else ["every: expected 1 or more, and keep 1 or more"]


@settings
class WandbSection:
    mode: Literal["auto", "offline", "online", "disabled"] = "auto"
    """auto: online when WANDB_API_KEY is set, else offline."""
    project: str = "neurochorus"


@settings
class ForecastSection:
    """The forecast that evaluation makes unless told otherwise; travels with the export."""

    context_bins: int = 30
    horizon_bins: int = 10
    samples: int = 32

    def problems(self) -> list[str]:
        names = ("context_bins", "horizon_bins", "samples")
        return [f"{name}: expected 1 or more" for name in names if getattr(self, name) < 1]


@settings
class RunConfig:
    run: RunSection
    data: DataSection
    model: ModelConfig = field(default_factory=ModelConfig)
    autoencoder: StageSection
    dynamics: StageSection
    joint: StageSection | None = None
    """A third stage that goes on with the trained dynamics under a score of whole stretches of a rollout
    (model.dynamics.joint); null: none."""
    train: TrainSection = field(default_factory=TrainSection)
    zero: ZeroSection = field(default_factory=ZeroSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    wandb: WandbSection = field(default_factory=WandbSection)
    forecast: ForecastSection = field(default_factory=ForecastSection)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Further DeepSpeed settings, passed on; keys that neurochorus sets itself and unknown keys are refused."""

    def problems(self) -> list[str]:
        found = passthrough_problems(self.deepspeed)
        window, burn_in = self.data.window_bins, self.model.autoencoder.burn_in_bins
        if window is not None and window <= burn_in:
            found.append(
                f"data.window_bins: {window} leaves no bin to score after model.autoencoder.burn_in_bins {burn_in}"
            )
        if self.dynamics.init is not None and self.dynamics.init != self.autoencoder.init:
            found.append(
                "dynamics.init: dynamics are taken over with their autoencoder; set autoencoder.init to the same"
            )
        if self.joint is not None and self.model.dynamics.order != "causal":
            found.append(
                f"joint: dynamics of order {self.model.dynamics.order} have no rollout to unroll; set it to null"
            )
        if self.joint is not None and self.joint.init is not None:
            found.append("joint.init: start from a model with autoencoder.init and dynamics.init")
        return found
