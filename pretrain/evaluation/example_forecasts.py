"""A few forecasts of each session of an evaluation, kept for a person to look at: one npz.

The arrays of the session at place 0, 1, ... are those of generated_trials.py under `0/`, `1/`, ...; rates are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.contexts import Context
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials, read_arrays, trials_of
from neurochorus.pretrain.evaluation.generation import generate, write_generated
from neurochorus.pretrain.evaluation.windows import known_to_forecast, read_windows

MOST_SESSIONS = 24
WINDOWS = 3
"First windows of a session."


def write_example_forecasts(
    path: Path,
    model: NeuralModel,
    corpus: Corpus,
    sessions: Sequence[str],
    split: str,
    forecast: ForecastSection,
    seed: int = 0,
) -> Path:
    """Forecast the first windows of the first sessions and write them; raises ValueError as `read_windows` does."""
    arrays: dict[str, Any] = {}
    bins = forecast.context_bins + forecast.horizon_bins
    for place, session_id in enumerate(sessions[:MOST_SESSIONS]):
        windows = read_windows(corpus, session_id, split, bins, model.config.dynamics.covariates).chosen(slice(WINDOWS))
        context = Context(
            session_id,
            windows.signal_NTC[:, : forecast.context_bins],
            windows.keys,
            windows.unit_ids,
            held_out_BHC=windows.signal_NTC[:, forecast.context_bins :],
            covariates=known_to_forecast(model, windows.covariates, forecast.context_bins),
            earlier=windows.earlier(model),
        )
        made = generate(model, context, forecast.horizon_bins, forecast.samples, seed)
        arrays |= {f"{place}/{name}": values for name, values in made.items() if name != "rates"}
    return write_generated(path, arrays)


def read_example_forecasts(path: Path) -> list[GeneratedTrials]:
    """One entry for each session of the file. Raises ValueError naming file and key; OSError when it cannot be read."""
    places: dict[str, dict[str, np.ndarray]] = {}
    arrays: Mapping[str, np.ndarray] = read_arrays(path)
    for name, values in arrays.items():
        place, separator, rest = name.partition("/")
        if not separator:
            raise ValueError(f"{path} holds an array {name!r}: make it with launch/evaluate.py --examples")
        places.setdefault(place, {})[rest] = values
    if not places:
        raise ValueError(f"{path} holds no session: make it with launch/evaluate.py --examples")
    return [trials_of(path, one, may_lack=("rates",)) for one in places.values()]
