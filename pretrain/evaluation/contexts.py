"""What activity is generated from: signals of a context, and covariates beside and after it.

B contexts, T context bins, H horizon bins, C units.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.remote import is_directory_or_url
from neurochorus.models import NeuralModel
from neurochorus.models.context import refuse_unknown_units
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.windows import Windows, known_to_forecast, read_windows

TRIALS_FROM_NOTHING = 64
KNOWN, DATA, NONE = "known", "data", "none"


@dataclass(frozen=True)
class Context:
    """What is generated from: `signal_BTC` may have no bins; `held_out_BHC` is what was recorded after it, if known."""

    session_id: str
    signal_BTC: np.ndarray
    keys: list[str]
    unit_ids: list[str]
    held_out_BHC: np.ndarray | None
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    """Those that are given: float32 (B, bins from the first of the context on, columns), NaN where missing."""
    earlier: Earlier | None = None
    """What came before each context, for a model that reads it."""


def read_context(
    model: NeuralModel,
    session_id: str,
    source: str,
    *,
    split: str,
    context_bins: int | None,
    horizon_bins: int,
    trials: int | None,
    covariates: str = KNOWN,
    unit_ids: Sequence[str] | None = None,
) -> Context:
    """Contexts of a session from a data set directory, an .npy of counts (trials, bins, units), or `none`.

    `covariates`: known (of a data set, what a forecast knows: stimuli ahead, behaviour until the context ends), data
    (of a data set, all of the same bins, behaviour of the generated ones included), none, or an .npz with arrays
    (trials, bins from the first of the context on, columns) by name. `unit_ids`: those of the columns of an .npy, in
    any order; default: all that the model knows, in its order.
    Raises ValueError for a session the model does not know, other units or covariates, and samples too short.
    """
    session = model.registry.session(session_id)
    for name, value, least in (("trials", trials, 1), ("context bins", context_bins, 0), ("horizon", horizon_bins, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name}: expected {least} or more, found {value}")
    path, given = Path(source), None
    if covariates not in (KNOWN, DATA, NONE):
        given = covariates_from_file(Path(covariates), model, trials)
    if covariates == DATA and not is_directory_or_url(source):
        raise ValueError(f"covariates data: the context {source!r} is no data set directory to take them from")
    if unit_ids is not None:
        refuse_ids_beside(source)
    if source == "none":
        count = trials or (next(len(values) for values in given.values()) if given else TRIALS_FROM_NOTHING)
        context = _from_nothing(session_id, list(session.unit_ids), count)
    elif is_directory_or_url(source):
        context = _from_data_set(model, source, session_id, split, context_bins, horizon_bins, trials, covariates)
    elif path.suffix == ".npy":
        ids = list(session.unit_ids if unit_ids is None else unit_ids)
        refuse_unknown_units(session, ids)
        context = _from_array(path, session_id, ids, context_bins, trials)
    else:
        raise ValueError(f"context {source!r}: expected a data set directory, an .npy file or 'none'")
    return context if given is None else _with_covariates(context, given, horizon_bins, covariates)


def covariates_from_file(path: Path, model: NeuralModel, trials: int | None = None) -> dict[str, np.ndarray]:
    """Arrays (trials, bins, columns) of an .npz, the first `trials` of them; ValueError for what does not fit."""
    if path.suffix != ".npz" or not path.is_file():
        raise ValueError(f"covariates {str(path)!r}: expected known, data, none or an .npz file that exists")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an .npz of plain arrays ({error}); save it with numpy.savez") from None
    widths = model.config.dynamics.covariate_columns
    for name, values in arrays.items():
        if name not in widths:
            raise ValueError(
                f"{path}: the model reads no covariate {name!r}; {nearest_hint(name, widths, 'covariates')}"
            )
        if values.ndim != 3 or values.dtype.kind not in "iufb" or values.shape[2] != widths[name] or not len(values):
            raise ValueError(
                f"{path}: {name} is {values.dtype} of shape {values.shape}; expected numbers (trials, bins from the "
                f"first of the context on, {widths[name]})"
            )
    if len({len(values) for values in arrays.values()}) != 1:
        found = ", ".join(f"{name} {len(values)}" for name, values in arrays.items()) or "no array"
        raise ValueError(f"{path}: expected arrays of the same number of trials, found {found}")
    return {name: values[:trials].astype(np.float32) for name, values in arrays.items()}


def _from_nothing(session_id: str, unit_ids: list[str], count: int) -> Context:
    keys = [f"{session_id}-new{number:06d}" for number in range(count)]
    return Context(session_id, np.zeros((count, 0, len(unit_ids)), dtype=np.float32), keys, unit_ids, None)


def _from_data_set(
    model: NeuralModel,
    path: str,
    session_id: str,
    split: str,
    context_bins: int | None,
    horizon_bins: int,
    trials: int | None,
    covariates: str,
) -> Context:
    corpus = Corpus(path, model.registry.bin_s)
    entry = corpus.session(session_id)
    model.registry.rows(entry)
    names = model.config.dynamics.covariates
    refuse_other_widths([entry], model.config.dynamics.covariate_columns)
    if covariates == DATA and not names.keys() & entry.covariates.keys():
        wanted = ", ".join(names) or "none"
        raise ValueError(f"covariates data: session {session_id!r} has none of those that the model reads ({wanted})")
    if context_bins is None:
        rows = corpus.rows_of(session_id, split)
        context_bins = max(1, len(corpus.read(rows[0], with_meta=False).signal_TC) // 2) if len(rows) else 1
    windows, held_out = _windows(corpus, session_id, split, context_bins, horizon_bins, list(names))
    windows = windows.chosen(slice(trials))
    signal = windows.signal_NTC
    future = signal[:, context_bins:] if held_out else None
    given = {name: values for name, values in windows.covariates.items() if covariates != NONE}
    if covariates == KNOWN:
        given = known_to_forecast(model, given, context_bins)
    return Context(
        session_id,
        signal[:, :context_bins],
        windows.keys,
        windows.unit_ids,
        future,
        given,
        windows.earlier(model),
    )


def _windows(
    corpus: Corpus, session_id: str, split: str, context_bins: int, horizon_bins: int, covariates: list[str]
) -> tuple[Windows, bool]:
    """Windows of context and horizon, or of the context alone where nothing was recorded that far, and which it is."""
    try:
        return read_windows(corpus, session_id, split, context_bins + horizon_bins, covariates), True
    except ValueError:
        if not context_bins:
            raise
        return read_windows(corpus, session_id, split, context_bins, covariates), False


def _from_array(path: Path, session_id: str, unit_ids: list[str], bins: int | None, trials: int | None) -> Context:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected counts (trials, bins, units)")
    try:
        signal = np.lib.format.open_memmap(path, mode="r")  # unlike numpy.load it takes no archive and no pickle
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a whole .npy array of numbers ({error}); save it with numpy.save") from None
    if signal.ndim != 3 or 0 in signal.shape[::2] or signal.shape[2] != len(unit_ids) or signal.shape[1] < (bins or 0):
        raise ValueError(
            f"{path}: expected an array (trials, {f'{bins} or more ' if bins else ''}bins, {len(unit_ids)} units of "
            f"session {session_id!r}), found shape {signal.shape}"
        )
    signal = np.array(signal[:trials, :bins])
    keys = [f"{session_id}-{path.stem}{number:06d}" for number in range(len(signal))]
    return Context(session_id, signal, keys, unit_ids, None)


def refuse_ids_beside(source: str) -> None:
    """Raise ValueError for a source whose unit ids are known."""
    if is_directory_or_url(source) or Path(source).suffix != ".npy":
        raise ValueError(f"unit ids: they tell the columns of an .npy apart; those of {source!r} are known")


def read_unit_ids(path: str | None) -> list[str] | None:
    """Ids of a text file, one a line; None without a file. Raises ValueError where it is missing or names none."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise ValueError(f"unit ids {path!r}: no such file; expected the id of each column of the .npy, one a line")
    ids = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{path}: names no unit; expected the id of each column of the .npy, one a line")
    return ids


def _with_covariates(context: Context, given: dict[str, np.ndarray], horizon_bins: int, where: str) -> Context:
    trials, bins = len(context.keys), context.signal_BTC.shape[1] + horizon_bins
    for name, values in given.items():
        if len(values) != trials:
            raise ValueError(f"{where}: {name} has {len(values)} trials, but there are {trials} contexts")
    return replace(context, covariates={name: values[:, :bins] for name, values in given.items()})
