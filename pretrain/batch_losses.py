"""The loss of a whole as a ratio of sums over micro-batches, and how sure it is (Cochran 1977, section 6.4).

Micro-batches are taken for independent. Of two evaluations of the same windows the difference is surer than either.
"""

import math
from collections.abc import Mapping, Sequence

BatchLosses = Mapping[int, tuple[float, float]]
"""Number of a micro-batch among those of all ranks -> the sum of its losses, and its valid bins."""


def standard_error(losses: BatchLosses) -> float | None:
    """Of the loss of a valid bin; None of fewer than two micro-batches."""
    return _ratio_error([loss for loss, _ in losses.values()], [bins for _, bins in losses.values()])


def difference_error(one: BatchLosses, other: BatchLosses) -> float | None:
    """Standard error of the difference in the loss of a valid bin; None where it is not known.

    It is known for two evaluations of the same two or more micro-batches.
    """
    if one.keys() != other.keys() or any(one[number][1] != other[number][1] for number in one):
        return None
    return _ratio_error([one[number][0] - other[number][0] for number in one], [bins for _, bins in one.values()])


def _ratio_error(sums: Sequence[float], bins: Sequence[float]) -> float | None:
    if len(sums) < 2:
        return None
    ratio = math.fsum(sums) / math.fsum(bins)
    residuals = [(value - ratio * count) ** 2 for value, count in zip(sums, bins, strict=True)]
    return math.sqrt(len(sums) / (len(sums) - 1) * math.fsum(residuals)) / math.fsum(bins)
