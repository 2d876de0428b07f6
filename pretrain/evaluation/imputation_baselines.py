"""What anyone would fill in without a network: settings chosen on the valid split, parameters from the train split.

N windows, T bins, C units, G bins of a gap. Expected counts per bin for spikes, values for a continuous signal.
"""

from itertools import product

import numpy as np
from scipy.ndimage import gaussian_filter1d

from neurochorus.pretrain.evaluation.forecaster import best, usual_values, validation_loss
from neurochorus.pretrain.evaluation.principal_ridge import fit_principal_ridge

LEAST_SHARE = 0.1  # of a unit's mean rate: a spike where the rate is next to 0 costs more bits than so low a rate saves


class Interpolation:
    """Across a gap, straight from each unit's level before it to its level after it, shrunk to the train mean.

    A level is an exponentially weighted mean of all bins on that side, the nearest counting most. The time constant
    and the share of the levels are chosen on the valid split.
    """

    decays_bins = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    shares = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)

    def __init__(self, modality: str, train_NTC: np.ndarray, valid_NTC: np.ndarray, gap: tuple[int, int]):
        self.gap, self.means_C = gap, usual_values(modality, train_NTC)
        loss = validation_loss(modality, train_NTC)
        self.chosen = best(
            ({"decay_bins": decay, "share": share} for decay, share in product(self.decays_bins, self.shares)),
            lambda **settings: loss(valid_NTC[:, gap[0] : gap[1]], self._levels(valid_NTC, **settings)),
        )

    def predict(self, signal_NTC: np.ndarray) -> np.ndarray:
        """(N, G, C); what the signal holds in the gap is not read."""
        return self._levels(signal_NTC, **self.chosen)

    def _levels(self, signal_NTC: np.ndarray, decay_bins: float, share: float) -> np.ndarray:
        start, stop = self.gap
        before_NTC, after_NTC = signal_NTC[:, :start], signal_NTC[:, stop:]
        sides = [_nearest(before_NTC[:, ::-1], decay_bins), _nearest(after_NTC, decay_bins)]
        before_N1C, after_N1C = (
            side if side is not None else other for side, other in zip(sides, reversed(sides), strict=True)
        )
        assert before_N1C is not None
        assert after_N1C is not None
        way_G1 = (np.arange(1, stop - start + 1) / (stop - start + 1))[:, None]
        return share * ((1 - way_G1) * before_N1C + way_G1 * after_N1C) + (1 - share) * self.means_C


def _nearest(signal_NTC: np.ndarray, decay_bins: float) -> np.ndarray | None:
    """Mean (N, 1, C) of the bins, the first counting most; None without bins."""
    if not signal_NTC.shape[1]:
        return None
    weight_T = np.exp(-np.arange(signal_NTC.shape[1]) / decay_bins)
    return np.tensordot(signal_NTC, weight_T / weight_T.sum(), axes=(1, 0))[:, None]


class OtherUnitsRidge:
    """A unit's bin regressed on the smoothed activity of the other units around it, both ways in time.

    Features: activity of the units that were observed, smoothed with a Gaussian kernel; for spikes square roots of it,
    which even out Poisson noise. Kernel, components and penalty are chosen on the valid split.
    """

    kernels_bins = (1.0, 2.0, 4.0, 8.0)
    components = (8, 32, 512)
    penalties = (0.01, 0.03, 0.1, 0.3, 1.0)

    def __init__(self, modality: str, train_NTC: np.ndarray, valid_NTC: np.ndarray, hidden_C: np.ndarray):
        """`hidden_C`: bool, the units that are to be predicted from the others."""
        self.modality, self.hidden_C = modality, hidden_C
        self.means_C = usual_values(modality, train_NTC)[hidden_C]
        scale_C = train_NTC.std(axis=(0, 1))[~hidden_C]
        self.scale_C = np.where((scale_C > 0) & (modality != "spikes"), scale_C, 1.0)
        target_NTC = train_NTC[:, :, hidden_C].astype(float)
        self.fitted = {
            kernel: fit_principal_ridge(self._features(train_NTC, kernel), target_NTC.reshape(-1, len(self.means_C)))
            for kernel in self.kernels_bins
        }
        loss, wanted_NTC = validation_loss(modality, target_NTC), valid_NTC[:, :, hidden_C].astype(float)
        scores = {kernel: fitted.scores(self._features(valid_NTC, kernel)) for kernel, fitted in self.fitted.items()}
        self.chosen = best(
            (
                {"kernel_bins": kernel, "components": components, "penalty": penalty}
                for kernel, components, penalty in product(self.kernels_bins, self.components, self.penalties)
            ),
            lambda kernel_bins, **others: loss(
                wanted_NTC, self._rates(scores[kernel_bins], wanted_NTC.shape, kernel_bins, **others)
            ),
        )

    def predict(self, signal_NTC: np.ndarray) -> np.ndarray:
        """Hidden units, (N, T, C hidden); what the signal holds of them is not read."""
        scores = self.fitted[self.chosen["kernel_bins"]].scores(self._features(signal_NTC, self.chosen["kernel_bins"]))
        return self._rates(scores, (len(signal_NTC), signal_NTC.shape[1], len(self.means_C)), **self.chosen)

    def _features(self, signal_NTC: np.ndarray, kernel_bins: float) -> np.ndarray:
        seen_NTC = signal_NTC[:, :, ~self.hidden_C] / self.scale_C
        smooth_NTC = gaussian_filter1d(seen_NTC, kernel_bins, axis=1, mode="nearest")
        if self.modality == "spikes":
            smooth_NTC = np.sqrt(np.maximum(smooth_NTC, 0))
        return smooth_NTC.reshape(-1, seen_NTC.shape[2])

    def _rates(
        self, scores: np.ndarray, shape: tuple[int, ...], kernel_bins: float, components: int, penalty: float
    ) -> np.ndarray:
        spikes = self.modality == "spikes"
        # where rates vary by the same factor, their variance goes with the rate squared, the noise only with the rate
        penalties_C = penalty * (self.means_C.mean() / self.means_C if spikes else np.ones_like(self.means_C))
        deviations = self.fitted[kernel_bins].predict(scores, components, penalties_C)
        rates_NTC = self.means_C + deviations.reshape(shape)
        return np.maximum(rates_NTC, LEAST_SHARE * self.means_C) if spikes else rates_NTC
