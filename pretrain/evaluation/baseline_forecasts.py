"""Forecasts of a session's windows by every baseline, fitted on its train split.

N windows, H horizon bins, C units.
"""

from collections.abc import Iterable

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.baselines import all_baselines
from neurochorus.pretrain.evaluation.earlier_baselines import EarlierMean, EarlierRidgeMix
from neurochorus.pretrain.evaluation.ridge_forecasts import RidgeMix
from neurochorus.pretrain.evaluation.suite.session_data import SessionData


def memory_of(models: Iterable[NeuralModel]) -> float | None:
    """Time constant in bins of the memory of earlier samples of the models, the longest; None: no model has one."""
    memories = [model.config.autoencoder.earlier_memory_bins for model in models]
    return max((bins for bins in memories if bins is not None), default=None)


def baseline_forecasts(
    data: SessionData, memory_bins: float | None, horizon_bins: int | None = None
) -> dict[str, np.ndarray]:
    """Expected signal over the horizon by every baseline, (N, H, C); with a memory also by those that have it too.

    `horizon_bins`: fewer bins than the horizon, for which they are fitted and tuned.
    """
    context = data.forecast.context_bins
    bins = slice(context + (horizon_bins or data.forecast.horizon_bins))
    train, valid, test = (data.windows(split).signal_NTC[:, bins] for split in ("train", "valid", data.split))
    made, baselines = {}, all_baselines(data.corpus.modality, data.aligned)
    for name, baseline in baselines.items():
        baseline.fit(train[:, :context], train[:, context:], valid[:, :context], valid[:, context:])
        made[name] = baseline.predict(test[:, :context])
    mix = baselines.get("ridge mix")
    if memory_bins is not None and isinstance(mix, RidgeMix):
        pasts = [data.windows(split).past for split in ("valid", data.split)]
        before_valid, before_test = (past.within(memory_bins) for past in pasts if past is not None)
        own = EarlierMean().fit(train, valid[:, :context], valid[:, context:], before_valid)
        both = EarlierRidgeMix(mix, own).fit(valid[:, :context], valid[:, context:], before_valid)
        for name, baseline in (("earlier mean", own), ("ridge mix, earlier", both)):
            expected = baseline.predict(test[:, :context], before_test)
            made[name] = np.broadcast_to(expected, test[:, context:].shape)
    return made
