"""Post-hoc variance scaling: how much wider (or narrower) the samples would have to be at each lead.

S samples, N windows, H bins ahead (leads), L latent channels. One factor a lead, fitted on the validation split, moves
every sample away from the mean of its ensemble: x -> mean + factor (x - mean). It keeps the shape of the samples
and how channels go together; it cannot mend a mean that is off, and it is a yardstick rather than part of the model:
1 everywhere means calibrated, 1.2 that the samples should be a fifth wider.
"""

from collections.abc import Sequence

import numpy as np

from neurochorus.pretrain.evaluation.calibration import EnsembleScores, spread_skill


def inflation_factors(scores: Sequence[EnsembleScores], samples: int) -> np.ndarray:
    """Factor of each lead, (H,), that makes spread equal to error over all windows of all sessions given.

    The scaled samples are as good as exchangeable with what was recorded: the mean of S samples keeps an error of its
    own, scaled with the samples, which the factor takes for part of the error of the forecast (of order 1 / S).
    Raises ValueError where all samples are equal, which no factor widens.
    """
    every = EnsembleScores.join(scores)
    ratio_H = spread_skill(every.variance_NH.mean(axis=0), every.squared_error_NH.mean(axis=0), samples)
    if not (ratio_H > 0).all():
        raise ValueError(
            f"the samples do not differ at lead {int(np.argmin(ratio_H > 0)) + 1}: no factor makes them wider; is the "
            "temperature 0?"
        )
    return 1 / ratio_H


def inflate(samples_SNHL: np.ndarray, factor_H: np.ndarray) -> np.ndarray:
    """The samples, moved away from the mean of their ensemble by the factor of each lead."""
    mean_NHL = samples_SNHL.mean(axis=0)
    return mean_NHL + factor_H[:, None] * (samples_SNHL - mean_NHL)
