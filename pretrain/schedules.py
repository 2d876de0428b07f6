"""The learning rate of each step, a pure function of its number: a resumed run needs no state of it."""

import math

from neurochorus.pretrain.config import StageSection


def learning_rate(step: int, stage: StageSection) -> float:
    """Learning rate of a step (from 0) of a stage: a linear warm-up, then its schedule.

    cosine    half a cosine to zero (Loshchilov & Hutter 2017)
    wsd       stays, and falls in a straight line to zero over the last `decay` of the steps (Hu et al. 2024)
    constant  stays
    """
    warmup = stage.warmup * stage.steps
    if step < warmup:
        return stage.learning_rate * (step + 1) / (warmup + 1)
    match stage.schedule:
        case "cosine":
            progress = (step - warmup) / max(1.0, stage.steps - warmup)
            return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "wsd":
            return stage.learning_rate * min(1.0, (stage.steps - step) / (stage.decay * stage.steps))
        case "constant":
            return stage.learning_rate
