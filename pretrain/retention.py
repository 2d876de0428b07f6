"""Which checkpoints stay: the newest, every n-th for good, and the best by a score."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    newest: int
    """How many of the newest stay."""
    every: int | None = None
    """Checkpoints whose step is a multiple of this stay for good; None: none do for that reason."""
    best: bool = False
    """Whether the one with the lowest score stays too."""

    def kept(self, checkpoints: Sequence[tuple[int, float | None]]) -> set[int]:
        """Of checkpoints (step, score), oldest first, the steps of those that stay.

        A checkpoint without a score is never the best; of equal scores the earlier one is.
        """
        steps = [step for step, _ in checkpoints]
        kept = set(steps[-self.newest :])
        if self.every is not None:
            kept |= {step for step in steps if step % self.every == 0}
        scored = [(score, step) for step, score in checkpoints if score is not None and score == score]
        if self.best and scored:
            kept.add(min(scored)[1])
        return kept
