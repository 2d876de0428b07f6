"""Steps that go wrong: losses and gradients that are not finite, and losses that leap.

A loss leaps when it exceeds the mean of the last losses by `threshold` of their standard deviations. All ranks see
the same losses, so they judge alike; the last losses travel with a checkpoint, so that a resumed run judges as an
undisturbed one does.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.pretrain.config import SpikeSection
from neurochorus.pretrain.distributed import Ranks

NAMED = 4
"""Samples of a rank that a message names; trouble.jsonl has all of them."""


@dataclass(frozen=True)
class Step:
    """What became of one optimizer step."""

    number: int
    """From 1."""
    loss: float
    """Of the global batch."""
    own_loss: float
    """Of this rank's share of it, not normalised."""
    applied: bool
    """False where the optimizer skipped it, the same on all ranks."""
    micro_batches: Sequence[Batch]


class Trouble:
    """Judges the steps of a stage, says which went wrong on which samples, and stops a run that goes wrong for good."""

    def __init__(
        self,
        stage: str,
        spikes: SpikeSection,
        limit: int,
        ranks: Ranks,
        file: Path,
        say: Callable[[str], None],
        state: dict[str, Any] | None = None,
    ):
        self._stage, self._spikes, self._limit = stage, spikes, limit
        self._ranks, self._file, self._say = ranks, file, say
        self._losses: deque[float] = deque((state or {}).get("losses", ()), maxlen=spikes.window)
        self._skipped_in_a_row: int = (state or {}).get("skipped", 0)
        self._refused = False

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run must know to judge as this one."""
        return {"losses": list(self._losses), "skipped": self._skipped_in_a_row}

    @property
    def refuses_spikes(self) -> bool:
        """Whether `refuse` must be asked before the last backward of a step."""
        return self._spikes.skip

    def leaps(self, loss: float) -> bool:
        """Whether a finite loss is a spike after the ones before; never before half the window is filled."""
        if not math.isfinite(loss) or len(self._losses) < max(2, self._spikes.window // 2):
            return False
        mean = math.fsum(self._losses) / len(self._losses)
        variance = math.fsum((other - mean) ** 2 for other in self._losses) / (len(self._losses) - 1)
        return loss > mean + self._spikes.threshold * math.sqrt(variance)

    def refuse(self, loss: float) -> bool:
        """Whether the step with this loss shall be skipped; remembers it for `judge`."""
        self._refused = self.leaps(loss)
        return self._refused

    def judge(self, step: Step) -> None:
        """Note a step that was made, or skipped. All ranks must call it.

        Raises FloatingPointError after too many skipped steps in a row.
        """
        refused, self._refused = self._refused, False
        self._skipped_in_a_row = 0 if step.applied else self._skipped_in_a_row + 1
        if not step.applied:
            finite = math.isfinite(step.loss)
            what = "loss spike" if refused else "non-finite gradient" if finite else "non-finite loss"
            self._report(step, what, guilty=refused or finite or not math.isfinite(step.own_loss))
            if self._skipped_in_a_row >= self._limit:
                raise FloatingPointError(
                    f"{self._stage}: {self._skipped_in_a_row} steps in a row were skipped, the last was step "
                    f"{step.number}: {what}; lower the learning rate, or look at the samples named above and in "
                    f"{self._file}"
                )
            return
        if self.leaps(step.loss):
            self._report(step, "loss spike", guilty=True)
        self._losses.append(step.loss)

    def _report(self, step: Step, what: str, guilty: bool) -> None:
        """Name the samples of the ranks that may have caused it."""
        own = [name for batch in step.micro_batches for name in batch.sample_ids] if guilty else []
        samples = {rank: names for rank, names in enumerate(self._ranks.gather(own)) if names}
        skipped = f" and was skipped ({self._skipped_in_a_row} in a row)" if not step.applied else ""
        named = "; ".join(
            f"rank {rank}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
            for rank, names in samples.items()
        )
        self._say(f"{self._stage}: step {step.number} had a {what} ({step.loss:g}){skipped}; samples of {named}")
        if self._ranks.first:
            line = {"stage": self._stage, "step": step.number, "what": what, "loss": step.loss}
            with self._file.open("a") as file:
                file.write(json.dumps({**line, "skipped": not step.applied, "samples": samples}) + "\n")


def spoiled_if_not_finite(loss: Tensor) -> Tensor:
    """The loss, with gradients of NaN where it is not finite itself.

    Some of its gradients could be finite all the same (a clamp's are). So every rank's optimizer sees that this step
    must be skipped, without a collective more.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
