"""The settings of a run: what `launch/pretrain.py --config FILE section.key=value` reads.

`model` says what is built, `autoencoder` and `dynamics` how each of the two stages is trained.
"""

from dataclasses import field
from typing import Any, Literal

from neurochorus.data_shards.augment import AugmentStep
from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models import ModelConfig
from neurochorus.pretrain.passthrough import passthrough_problems
from neurochorus.pretrain.stop_section import StopSection


@settings
class RunSection:
    dir: str
    """Run directory: config.yaml, run.json, metrics.jsonl, checkpoints/ and export/ go there."""
    seed: int = 0
    resume: str = "auto"
    """auto: continue from the newest undamaged checkpoint of `dir`, if any; never: refuse a used one; or the path of a
    checkpoint to go back to once, or to start from in a new `dir` (--resume-from)."""
    init: str | None = None
    """Weights to start from, with a new optimizer at step 0: a model directory, a run directory or a checkpoint of a
    model with the same settings and sessions (--init-from)."""


@settings
class DataSection:
    path: str | list[str]
    """One or more data set directories made by launch/shard.py."""
    sessions: list[str] | None = None
    """Session ids or patterns (`steinmetz_s0*`, `subject:Cori`); null: all."""
    exclude: list[str] = field(default_factory=list)
    """Session ids or patterns to leave out."""
    bin_s: float | None = None
    """Width in seconds of the bins that the model is given: a whole number of stored bins, which may differ between
    sessions. Counts add, continuous signals and covariates are averaged. null: as stored, alike in all sessions."""
    window_bins: int | None = None
    """Longest stretch given to the model, in bins of bin_s; null: whole samples. A longer sample counts as several."""
    mixture: Literal["session", "subject", "dataset"] = "session"
    """What alpha acts on; within a subject or a data set, sessions are drawn by their size."""
    alpha: float = 1.0
    """Each `mixture` is drawn in proportion to (number of windows) ** alpha; 0 gives all the same weight."""
    weights: dict[str, float] = field(default_factory=dict)
    """Pattern of sessions, `subject:PATTERN` or `dataset:PATTERN` -> factor on the weight of each session."""
    fraction: float = 1.0
    """Share of each session's train and valid samples that is used, at least one of each, and of which the statistics
    of its units are made; 0.1 is a subset of 0.25."""
    fraction_seed: int = 0
    """Which samples those are."""
    augment: list[AugmentStep] = field(default_factory=list)
    """Changes made to what is trained on, in this order, such as [{name: unit_dropout, share: 0.1}]."""
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
        if self.bin_s is not None and not self.bin_s > 0:
            found.append(f"bin_s: expected a positive number of seconds or null, found {self.bin_s}")
        if not 0 < self.fraction <= 1:
            found.append(f"fraction: expected a share above 0, at most 1, found {self.fraction}")
        if self.bin_s is None and any(step.name == "bin_jitter" for step in self.augment):
            found.append("augment: bin_jitter moves bins made of several stored ones: set bin_s to their width")
        return found + ([] if self.window_bins is None or self.window_bins > 0 else ["window_bins: expected 1 or more"])


@settings
class StageSection:
    steps: int = 0
    """Optimizer steps; must be given, unless `init` is."""
    learning_rate: float = 1e-3
    """Of AdamW after the warm-up; `head_learning_rate_factor` and `base_width` of `train` scale that of some parts."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warm-up the learning rate falls along a half cosine; stays and falls at the end (wsd); or stays."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    decay: float = 0.2
    """Share of the steps at the end over which a `wsd` learning rate falls in a straight line; others ignore it."""
    weight_decay: float = 0.01
    """Of weight matrices; norms, biases and the unit and session tables have none."""
    table_weight_decay: float = 0.0
    """Of read-in and read-out rows. It also shrinks rows of sessions that are not in the batch."""
    beta2: float = 0.95
    """Decay a step of Adam's running mean of squared gradients; at most 0.95, for rows that are seen seldom."""
    init: str | None = None
    """A model directory whose weights of this stage are taken instead of training it (then `steps` is not used)."""

    def problems(self) -> list[str]:
        found = [] if self.steps >= 1 or self.init else [f"steps: expected 1 or more, found {self.steps}"]
        found += (
            [] if self.learning_rate > 0 else [f"learning_rate: expected a positive number, found {self.learning_rate}"]
        )
        if not 0 <= self.warmup < 1:
            found.append(f"warmup: expected a share in [0, 1), found {self.warmup}")
        if self.schedule == "wsd" and not 0 < self.decay <= 1 - max(0.0, self.warmup):
            found.append(f"decay: expected a share above 0 that leaves room for warmup {self.warmup}: {self.decay}")
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
    """Norm, over all parameters, to which longer gradients are cut; 0: none are."""
    head_learning_rate_factor: float = 0.25
    """Learning rate of the energy head as a share of the rest; at 1 it collapses (EAR, Shao et al. 2025)."""
    ema: float | None = None
    """Decay, a step, of a running average of the weights, which is then what is evaluated and exported; null: none.
    It spans about the last 1 / (1 - ema) steps, fewer in the beginning (`pretrain/averaging.py`)."""
    base_width: int | None = None
    """Width of the transformers at which the learning rates were found. At another width those of their matrices and
    the start of what reads from them are scaled so that the same rates serve (muP, `pretrain/width_transfer.py`);
    let `heads` grow with the width. null: rates are used as they are."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Compute activations of transformer blocks again in the backward pass instead of keeping them: of every second
    block (`selective`), or of all (`full`). Saves memory, and costs their forward pass once more."""
    compile: bool = False
    """Compile the transformer blocks with torch.compile, up to ZeRO-2; needs a C++ compiler on CPUs."""
    max_hours: float | None = None
    """Save and stop with exit code 0 when this much wall time is spent; null: no limit."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    max_skipped_steps: int = 5
    """Stop after this many steps in a row were skipped for non-finite gradients."""
    hang_minutes: float | None = 20.0
    """End the run, naming the ranks that have not arrived and where they are, when reading a batch, a step, an
    evaluation or a checkpoint takes longer; null: wait until collectives fail, after 30 minutes, naming nobody."""

    def problems(self) -> list[str]:
        found = [
            f"{n}: expected 1 or more" for n in ("global_batch", "micro_batch", "log_every") if getattr(self, n) < 1
        ]
        found += at_least(self, 0, "gradient_clipping", "head_learning_rate_factor")
        found += at_least(self, 1, "max_skipped_steps")
        if self.max_hours is not None:
            found += at_least(self, 0, "max_hours")
        if self.hang_minutes is not None and self.hang_minutes <= 0:
            found.append(f"hang_minutes: expected a positive number or null, found {self.hang_minutes}")
        if self.ema is not None and not 0 < self.ema < 1:
            found.append(f"ema: expected null or a decay between 0 and 1, such as 0.999; found {self.ema}")
        if self.base_width is not None:
            found += at_least(self, 2, "base_width")
            found += ["base_width: expected an even number"] if self.base_width % 2 else []
        if not found and self.global_batch % self.micro_batch:
            found.append(f"global_batch: {self.global_batch} is not a multiple of micro_batch {self.micro_batch}")
        return found


@settings
class ZeroSection:
    stage: Literal[0, 1, 2, 3] = 1
    """What the ranks share out among them: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 parameters too."""
    persistence_threshold: int = 100_000
    """ZeRO-3 keeps parameters smaller than this many elements on every rank."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory and take its steps there; saves device memory, costs time."""
    offload_parameters: bool = False
    """Keep the parameters that no layer is using in host memory; ZeRO-3 only."""

    def problems(self) -> list[str]:
        found = at_least(self, 0, "persistence_threshold")
        # of both DeepSpeed says nothing, and leaves them out
        if self.offload_optimizer and self.stage == 0:
            found.append(
                "offload_optimizer: ZeRO-0 keeps the optimizer's state whole on every rank; use stage 1, 2 or 3"
            )
        if self.offload_parameters and self.stage != 3:
            found.append(f"offload_parameters: needs stage 3, which alone shards parameters; found stage {self.stage}")
        return found


@settings
class CheckpointSection:
    every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest complete checkpoints to keep."""
    keep_every: int | None = None
    """Also keep, for good, those whose step is a multiple of this; null: none."""
    best: bool = False
    """Also keep the one with the best score on validation data."""
    write_behind: bool = False
    """Train on while a checkpoint is written, from a copy in host memory of all that a rank saves. It is one once it is
    whole, some steps later: a kill before then goes back to the one before it. The last one of a stage, or at a stop,
    is waited for."""

    def problems(self) -> list[str]:
        found = [] if self.every >= 1 and self.keep >= 1 else ["every: expected 1 or more, and keep 1 or more"]
        if self.keep_every is not None and (self.keep_every < 1 or self.keep_every % max(1, self.every)):
            found.append(f"keep_every: {self.keep_every} is not a multiple of every {self.every}")
        return found


@settings
class SpikeSection:
    """Losses that leap are named with their samples."""

    window: int = 128
    """Losses before a step that it is compared with; nothing is judged before half of them are there."""
    threshold: float = 6.0
    """Standard deviations above their mean from which on a loss leaps."""
    skip: bool = False
    """Whether such a step leaves the weights alone; it then waits for the other ranks before its last backward."""

    def problems(self) -> list[str]:
        return at_least(self, 2, "window") + at_least(self, 0, "threshold")


@settings
class EvaluationSection:
    """Scores on the valid split while training goes on; training is the same to the bit with and without them."""

    every: int | None = None
    """Steps between evaluations; null: none."""
    batches: int = 16
    """Micro-batches that are scored, the same ones each time, over all ranks."""

    def problems(self) -> list[str]:
        return at_least(self, 1, "batches") + ([] if self.every is None else at_least(self, 1, "every"))


@settings
class WandbSection:
    mode: Literal["auto", "offline", "online", "disabled"] = "auto"
    """auto: online when WANDB_API_KEY is set, else offline."""
    project: str = "neurochorus"


@settings
class WatchSection:
    """What a run measures of itself; where it goes: metrics.jsonl, wandb, TensorBoard."""

    sources: Literal["subject", "session", "none"] = "subject"
    """Whose losses are written one by one."""
    peak_tflops: float | None = None
    """Peak of one device at the precision of the run, of which MFU is a share; null: that of a short matrix product."""
    tensorboard: bool = False
    """Also write event files to `tensorboard/` of the run directory."""
    profile_steps: list[int] | None = None
    """[first, last] step of each stage that PyTorch's profiler records on rank 0, to `traces/`; null: none."""

    def problems(self) -> list[str]:
        found = []
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            found.append(f"peak_tflops: expected null or a positive number, found {self.peak_tflops}")
        steps = self.profile_steps
        if steps is not None and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
            found.append(f"profile_steps: expected [first, last] with 1 <= first <= last, found {steps}")
        return found


@settings
class ForecastSection:
    """The forecast that evaluation makes unless told otherwise; travels with the export."""

    context_bins: int = 30
    """Bins that are read."""
    horizon_bins: int = 10
    """Bins after them that are forecast; together at most the longest sample."""
    stride_bins: int | None = None
    """Bins from one forecast to the next within a sample; null: both together, so that no bin is read twice. With
    horizon_bins every bin behind the first context is forecast once: for long contexts in long recordings."""
    samples: int = 32
    """Rollouts of each context; the forecast rate is their mean."""

    def problems(self) -> list[str]:
        names = ("context_bins", "horizon_bins", "samples")
        found = [f"{name}: expected 1 or more" for name in names if getattr(self, name) < 1]
        if self.stride_bins is not None and self.stride_bins < 1:
            found.append(f"stride_bins: expected null or at least 1, found {self.stride_bins}")
        return found


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
    spikes: SpikeSection = field(default_factory=SpikeSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    stop: StopSection | None = None
    """When a stage ends before its last step, by its loss on the valid split, which is then scored every `stop.every`
    steps whatever `evaluation` says; null: never."""
    wandb: WandbSection = field(default_factory=WandbSection)
    watch: WatchSection = field(default_factory=WatchSection)
    forecast: ForecastSection = field(default_factory=ForecastSection)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Further DeepSpeed settings, passed on; keys that neurochorus sets itself and unknown keys are refused."""

    def problems(self) -> list[str]:
        found = passthrough_problems(self.deepspeed)
        if self.train.compile and self.zero.stage == 3:
            found.append(
                "train.compile: at zero.stage 3 DeepSpeed's hooks cut the compiled blocks to pieces, with no gain: set "
                "it to false, or zero.stage to 2"
            )
        scored = self.evaluation.every if self.stop is None else self.stop.every
        if self.checkpoint.best and (scored is None or self.checkpoint.every % scored):
            section = "evaluation" if self.stop is None else "stop"
            found.append(
                f"checkpoint.best: needs a score at each checkpoint: let {section}.every ({scored}) divide "
                f"checkpoint.every ({self.checkpoint.every})"
            )
        window, burn_in = self.data.window_bins, self.model.autoencoder.burn_in_bins
        if window is not None and window <= burn_in:
            found.append(
                f"data.window_bins: {window} leaves no bin to score after model.autoencoder.burn_in_bins {burn_in}"
            )
        dropout = self.model.autoencoder.unit_dropout or self.model.autoencoder.bin_dropout
        if dropout and any(step.name == "coordinated_dropout" for step in self.data.augment):
            found.append(
                "data.augment: coordinated_dropout hides entries from the encoder, and so do "
                "model.autoencoder.unit_dropout and bin_dropout: set those to 0, or leave it out"
            )
        if self.dynamics.init is not None and self.dynamics.init != self.autoencoder.init:
            found.append(
                "dynamics.init: dynamics are taken over with their autoencoder; set autoencoder.init to the same"
            )
        if self.run.init is not None and self.dynamics.init is not None:
            found.append("run.init: the autoencoder and the dynamics are taken over already (dynamics.init)")
        if self.joint is not None and self.model.dynamics.order != "causal":
            found.append(
                f"joint: dynamics of order {self.model.dynamics.order} have no rollout to unroll; set it to null"
            )
        if self.joint is not None and self.model.head == "langevin":
            found.append(
                "joint: samples of the langevin head are walks that no gradient passes through: set joint to null, or "
                "another head"
            )
        if self.joint is not None and self.joint.init is not None:
            found.append("joint.init: start from a model with autoencoder.init and dynamics.init")
        return found
