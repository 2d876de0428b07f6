"""Generated activity as plain arrays: contexts in, an .npz out.

S samples, B contexts, T context bins, H horizon bins, C units, L latent channels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.dataset import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole
from neurochorus.pretrain.evaluation.windows import read_windows

TRIALS_FROM_NOTHING = 64


@dataclass(frozen=True)
class Context:
    """What is generated from: `signal_BTC` may have no bins; `held_out_BHC` is what was recorded after it, if known."""

    session_id: str
    signal_BTC: np.ndarray
    keys: list[str]
    unit_ids: list[str]
    held_out_BHC: np.ndarray | None


def read_context(
    model: NeuralModel,
    session_id: str,
    source: str,
    *,
    split: str,
    context_bins: int | None,
    horizon_bins: int,
    trials: int | None,
) -> Context:
    """Contexts of a session from a data set directory, an .npy of counts (trials, bins, units), or `none`.

    Raises ValueError for a session the model does not know, other units, and samples too short.
    """
    session = model.registry.session(session_id)
    for name, value, least in (("trials", trials, 1), ("context bins", context_bins, 0), ("horizon", horizon_bins, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name}: expected {least} or more, found {value}")
    if source == "none":
        count = trials or TRIALS_FROM_NOTHING
        keys = [f"{session_id}-new{number:06d}" for number in range(count)]
        empty = np.zeros((count, 0, len(session.unit_ids)), dtype=np.float32)
        return Context(session_id, empty, keys, list(session.unit_ids), None)
    path = Path(source)
    if path.suffix == ".npy":
        return _from_array(path, session_id, list(session.unit_ids), context_bins, trials)
    if not path.is_dir():
        raise ValueError(f"context {source!r}: expected a data set directory, an .npy file or 'none'")
    corpus = Corpus(path)
    model.registry.rows(corpus.session(session_id))
    if context_bins is None:
        rows = corpus.rows_of(session_id, split)
        context_bins = max(1, len(corpus.read(rows[0], with_meta=False).signal_TC) // 2) if len(rows) else 1
    return _from_data_set(corpus, session_id, split, context_bins, horizon_bins, trials)


def _from_data_set(
    corpus: Corpus, session_id: str, split: str, context_bins: int, horizon_bins: int, trials: int | None
) -> Context:
    try:
        windows, held_out = read_windows(corpus, session_id, split, context_bins + horizon_bins), True
    except ValueError:  # nothing was recorded that far: the context alone will do
        windows, held_out = read_windows(corpus, session_id, split, context_bins), False
    signal = windows.signal_NTC[:trials]
    future = signal[:, context_bins:] if held_out else None
    return Context(session_id, signal[:, :context_bins], windows.keys[:trials], windows.unit_ids, future)


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


def generate(
    model: NeuralModel,
    context: Context,
    horizon: int,
    samples: int,
    seed: int = 0,
    temperature: float = 1.0,
    head: str | None = None,
) -> dict[str, Any]:
    """Arrays of free-running samples: latents (S, B, H, L), rates and counts (S, B, H, C), and what they belong to.

    `held_out` (B, H, C) and `held_out_latents` (B, H, L) are there when the recording after the context is known.
    """
    session = model.registry.session(context.session_id)
    batch = model.context(context.session_id, context.signal_BTC, context.unit_ids)
    batch.sample_ids = context.keys
    rollout = model.rollout(batch.to(model.device), horizon, samples, seed, temperature, head)
    spikes = model.modality == "spikes"
    arrays: dict[str, Any] = {
        "latents": rollout.latents.cpu().numpy(),
        "rates": rollout.rates.cpu().numpy(),
        "counts": rollout.counts.cpu().numpy().astype(np.uint16 if spikes else np.float32),
        "context": context.signal_BTC,
        "unit_ids": np.array(context.unit_ids),
        "sample_ids": np.array(context.keys),
        "session_id": np.array(context.session_id),
        "subject_id": np.array(session.subject_id),
        "modality": np.array(model.modality),
        "head": np.array(head or model.config.head),
        "bin_s": np.array(session.bin_s),
        "seed": np.array(seed),
        "temperature": np.array(temperature),
    }
    if context.held_out_BHC is not None:
        whole = np.concatenate((context.signal_BTC, context.held_out_BHC), axis=1)
        recorded = model.encode(model.context(context.session_id, whole, context.unit_ids).to(model.device))
        arrays["held_out"] = context.held_out_BHC
        arrays["held_out_latents"] = recorded[:, -context.held_out_BHC.shape[1] :].cpu().numpy()
    return arrays


def write_generated(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an .npz (no pickle), whole or not at all. Raises ValueError for another file ending."""
    write_whole(check_output(path, ".npz"), lambda file: np.savez_compressed(file, **arrays))
    return path
