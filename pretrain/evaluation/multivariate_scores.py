"""Energy and variogram scores of an ensemble: of each bin's vector of channels, and of a whole stretch of bins.

S samples, H bins ahead, L channels, P pairs. A score of one channel in one bin cannot tell whether a model knows how
channels move together, or how one bin follows from another; these can. Both are the fair forms (Ferro 2014): their
expectation does not depend on S. Smaller is better.
"""

import numpy as np

MOST_VARIOGRAM_CHANNELS = 64
"The variogram score looks at every pair of channels: for hundreds of units that costs more than the forecast itself."


def energy_scores(error_SHL: np.ndarray) -> tuple[np.ndarray, float]:
    """Fair energy score (Gneiting and Raftery 2007, eq. 22) of each bin, (H,), and of the vector of all bins.

    mean |x - y| - half the mean of |x - x'| over pairs of different samples, Euclidean norms; `error_SHL` is x - y.
    Equal to scoringrules.es_ensemble(estimator="fair"); here all pairs come from one matrix product, and their squares,
    summed over bins, give the whole stretch as well.
    """
    error_HSL = error_SHL.transpose(1, 0, 2)
    products_HSS = error_HSL @ error_HSL.transpose(0, 2, 1)
    errors_HS = np.diagonal(products_HSS, axis1=1, axis2=2)
    pairs_HSS = errors_HS[:, :, None] + errors_HS[:, None] - 2 * products_HSS
    first, second = np.triu_indices(len(error_SHL), k=1)
    pairs_HP = np.maximum(pairs_HSS[:, first, second], 0.0)  # rounding may leave less than 0
    by_lead_H = np.sqrt(errors_HS).mean(axis=1) - np.sqrt(pairs_HP).mean(axis=1) / 2
    whole = np.sqrt(errors_HS.sum(axis=0)).mean() - np.sqrt(pairs_HP.sum(axis=0)).mean() / 2
    return by_lead_H, float(whole)


def variogram_scores(observed_HL: np.ndarray, samples_SHL: np.ndarray) -> tuple[np.ndarray, float]:
    """Fair variogram score of order 0.5 (Scheuerer and Hamill 2015) of each bin, (H,), and over the stretch.

    Sum over ordered pairs of (|y_i - y_j|^0.5 - mean |x_i - x_j|^0.5)^2, less what S samples add to it by chance. Equal
    to scoringrules.vs_ensemble(estimator="fair"): of a bin over its channels, with all weights 1; of the stretch
    with weight 1 for two values of one channel 1, 2, 4, 8, ... bins apart, and 0 for all other pairs.
    """
    first_P, second_P = np.triu_indices(observed_HL.shape[1], k=1)
    by_lead_H = _variogram(
        observed_HL[:, first_P] - observed_HL[:, second_P], samples_SHL[:, :, first_P] - samples_SHL[:, :, second_P]
    ).sum(axis=1)
    whole, lag = 0.0, 1
    while lag < len(observed_HL):
        steps = _variogram(observed_HL[lag:] - observed_HL[:-lag], samples_SHL[:, lag:] - samples_SHL[:, :-lag])
        whole, lag = whole + float(steps.sum()), 2 * lag
    return by_lead_H, whole


def _variogram(observed_difference: np.ndarray, sampled_difference: np.ndarray) -> np.ndarray:
    """The term of each pair, in both orders; samples along the first axis."""
    size = np.abs(sampled_difference)
    root = np.sqrt(size)
    expected = root.mean(axis=0)
    by_chance = (size.mean(axis=0) - expected**2) / (len(size) - 1)
    return 2 * ((expected - np.sqrt(np.abs(observed_difference))) ** 2 - by_chance)
