"""Following drift: the rows of one session are fitted again on its latest minutes while the model is in use.

The trunk is frozen, so that latents stay in the coordinates that the dynamics and any decoder know (`row_fit.py`). New
rows are taken over only if they are better on the last part of the buffer, which they were not fitted on.
N windows, T bins, C units.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.recording import as_counts, as_signal
from neurochorus.models import NeuralModel, load, read_training, save
from neurochorus.pretrain.adaptation.recent_bins import RecentBins
from neurochorus.pretrain.adaptation.row_fit import RecentWindows, Refit, RowFit
from neurochorus.pretrain.adaptation.session_rows import (
    Rows,
    autoencoder_of_session,
    rows_of,
    spread_of_rows,
    with_rows,
)
from neurochorus.pretrain.adaptation.streaming_file import StreamState

KEPT_SETTINGS = ("window_bins", "drift", "held_back", "learning_rate", "batch_windows", "unit_ids", "max_bytes")
LEAST_WINDOWS = 4


class StreamingRows:
    """Rows of one session that follow an incoming recording. `model` is ready for forecasts at any time.

    `push` and `refit` may run in different threads. A refit leaves `model` as it is and puts another one in its place
    when it is done: who took `stream.model` before goes on with rows that fit together.
    """

    def __init__(
        self,
        model: NeuralModel,
        session_id: str,
        *,
        minutes: float = 5.0,
        window_bins: int = 40,
        unit_ids: Sequence[str] | None = None,
        drift: float = 0.5,
        held_back: float = 0.2,
        learning_rate: float = 5e-3,
        batch_windows: int = 16,
        max_bytes: int = 2**28,
        seed: int = 0,
    ):
        """`minutes`: how much is remembered. `window_bins`: what the model reads at a time, best as it was trained.

        `unit_ids` names the columns of what is pushed, all units of the session; default: in the order of training.
        `drift`: how far rows are expected to move, in standard deviations over units. `held_back`: share of the
        buffer, the latest, that decides. Raises ValueError for an unknown session, other units, a buffer of more than
        `max_bytes`, and values out of range.
        """
        session = model.registry.session(session_id)
        ids = list(session.unit_ids if unit_ids is None else unit_ids)
        if sorted(ids) != sorted(session.unit_ids):
            raise ValueError(
                f"session {session_id!r}: expected each of its {len(session.unit_ids)} unit ids once, found {len(ids)} "
                f"({len(set(ids) & set(session.unit_ids))} of them known)"
            )
        bins = round(60 * minutes / session.bin_s)
        dtype = np.dtype(np.uint16 if session.modality == "spikes" else np.float32)
        self._check(window_bins, bins, drift, held_back, learning_rate, batch_windows)
        burn_in = model.config.autoencoder.burn_in_bins
        if window_bins <= burn_in:
            raise ValueError(
                f"window_bins is {window_bins}, but the model scores no bin before its burn-in of {burn_in} is over: "
                "expected longer windows"
            )
        needed = bins * (len(ids) * dtype.itemsize + 8)
        if needed > max_bytes:
            raise ValueError(
                f"a buffer of {minutes:g} minutes of {len(ids)} units takes {needed / 2**20:.0f} MiB, more than "
                f"max_bytes allows ({max_bytes / 2**20:.0f} MiB): remember {minutes * max_bytes / needed:.2g} minutes"
            )
        self.session_id, self.window_bins, self.drift, self.held_back = session_id, window_bins, drift, held_back
        self.learning_rate, self.batch_windows = learning_rate, batch_windows
        self.unit_ids, self.max_bytes = ids, max_bytes
        self.recent = RecentBins(bins, len(ids), dtype)
        self.anchor: Rows = rows_of(model, session_id)
        """The rows that the session came with, which new ones are held to."""
        self.training: dict[str, Any] = {}
        self._model = model.eval()
        self._spread = spread_of_rows(model)
        self._columns = np.array([ids.index(name) for name in session.unit_ids])
        self._convert = as_counts if session.modality == "spikes" else as_signal
        self._generator = torch.Generator().manual_seed(seed)
        self._refitting = threading.Lock()

    @classmethod
    def open(cls, path: str | Path, session_id: str, device: str = "cpu", **settings: Any) -> "StreamingRows":
        """From a model directory; windows are as long as its forecasts were, unless `window_bins` is given."""
        training = read_training(path)
        forecast = training.get("forecast", {})
        if forecast and "window_bins" not in settings:
            settings["window_bins"] = forecast["context_bins"] + forecast["horizon_bins"]
        made = cls(load(path, device), session_id, **settings)
        made.training = training
        return made

    @property
    def model(self) -> NeuralModel:
        """The model with the latest rows that were taken over; every other tensor is that of the model it began as."""
        return self._model

    @property
    def earlier(self) -> Earlier | None:
        """What the buffer says of the units' levels, for `model.context` of one window that comes next.

        None for a model that reads none (`autoencoder.earlier_memory_bins`).
        """
        memory_bins = self._model.config.autoencoder.earlier_memory_bins
        return None if memory_bins is None else Earlier.of(self.recent.in_order()[0], memory_bins)

    @property
    def rows(self) -> Rows:
        """The latest rows that were taken over."""
        return rows_of(self._model, self.session_id)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, whatever was pushed. A refit of spikes takes about three times as much."""
        return self.recent.nbytes

    def push(self, signal_TC: np.ndarray, continues: bool = True) -> None:
        """Add bins (T, C) of the recording behind those that came before; `continues` False: after a gap.

        Raises ValueError for another number of units, and for values that are no counts (or not finite).
        """
        values = np.asarray(signal_TC)
        if values.ndim != 2 or values.shape[1] != len(self._columns):
            raise ValueError(
                f"session {self.session_id!r}: expected an array (bins, {len(self._columns)} units), found shape "
                f"{values.shape}"
            )
        if len(values):
            self.recent.push(self._convert(values, f"session {self.session_id!r}")[:, self._columns], continues)

    def refit(self, seconds: float | None = None, steps: int = 200) -> Refit:
        """Fit the rows on the buffer, and take them over if they are better on its last part.

        Ends after `steps` steps or `seconds`, whichever comes first (to one step and one look at the held-back
        windows). Raises ValueError while the buffer has too few windows, RuntimeError while another refit runs.
        """
        if steps < 1 or (seconds is not None and not seconds > 0):
            raise ValueError(f"refit: expected positive steps and seconds, found {steps} and {seconds}")
        if not self._refitting.acquire(blocking=False):
            raise RuntimeError(f"session {self.session_id!r}: a refit is under way; let it end")
        try:
            return self._refit(time.monotonic(), float("inf") if seconds is None else seconds, steps)
        finally:
            self._refitting.release()

    def save(self, path: str | Path) -> None:
        """Write rows, anchor, buffer and settings to a safetensors file, to be read by `restore`."""
        signal_TC, stretch_T = self.recent.in_order()
        StreamState(
            session_id=self.session_id,
            unit_hash=self._model.registry.session(self.session_id).unit_hash,
            room_bins=self.recent.room,
            settings={name: getattr(self, name) for name in KEPT_SETTINGS},
            training=self.training,
            rows=self.rows,
            anchor=self.anchor,
            signal_TC=signal_TC,
            stretch_T=stretch_T,
        ).write(Path(path))

    @classmethod
    def restore(cls, path: str | Path, model: NeuralModel, **settings: Any) -> "StreamingRows":
        """Go on from what `save` wrote, on the model that it began with; `settings` replace saved ones.

        Raises ValueError for another kind of file, another session or units, or another model.
        """
        state = StreamState.read(Path(path))
        session = model.registry.session(state.session_id)
        if session.unit_hash != state.unit_hash:
            raise ValueError(
                f"{path}: session {session.session_id!r} has other units in the model (hash {session.unit_hash}, in "
                f"the file {state.unit_hash}): give the model that the stream began with"
            )
        own = rows_of(model, session.session_id)
        if own.keys() != state.anchor.keys() or any(not torch.equal(state.anchor[n].to(own[n]), own[n]) for n in own):
            raise ValueError(
                f"{path}: its stream began with other rows of session {session.session_id!r} than those of this "
                "model: give the model that it began with"
            )
        minutes = state.room_bins * session.bin_s / 60
        made = cls(model, session.session_id, **{"minutes": minutes, **state.settings, **settings})
        made.training = state.training
        made.take_over(state.rows)
        for number, stretch in enumerate(np.split(state.signal_TC, np.flatnonzero(np.diff(state.stretch_T)) + 1)):
            made.recent.push(stretch, continues=number == 0)  # its columns are in the order of training already
        return made

    def export(self, path: str | Path) -> Path:
        """Write the model with the latest rows as a model directory."""
        facts = {"session": self.session_id, "drift": self.drift, "window_bins": self.window_bins}
        return save(self._model, path, {**self.training, "streaming": facts})

    def take_over(self, rows: Rows) -> None:
        """Put rows into a new model in the place of the present one."""
        self._model = with_rows(self._model, self.session_id, rows)

    def _refit(self, begun: float, seconds: float, steps: int) -> Refit:
        fitted, held = self._split()
        autoencoder = autoencoder_of_session(self._model, self.session_id, self.rows)
        fit = RowFit(autoencoder, self.anchor, self._spread, self.drift, self.batch_windows, self._generator)
        refit, rows = fit.run(fitted, held, learning_rate=self.learning_rate, begun=begun, seconds=seconds, steps=steps)
        if refit.accepted:
            self.take_over(rows)
        return refit

    def _split(self) -> tuple[RecentWindows, RecentWindows]:
        """Windows to fit on and, after them in time, those held back."""
        windows_NTC = torch.from_numpy(self.recent.windows(self.window_bins).astype(np.float32))
        held = max(1, round(self.held_back * len(windows_NTC)))
        if len(windows_NTC) < LEAST_WINDOWS:
            raise ValueError(
                f"session {self.session_id!r}: {len(windows_NTC)} windows of {self.window_bins} bins in the buffer, "
                f"expected {LEAST_WINDOWS} or more: push more of the recording first"
            )
        memory_bins = self._model.config.autoencoder.earlier_memory_bins
        earlier = None if memory_bins is None else Earlier.of_successive(windows_NTC.numpy(), memory_bins)
        windows = RecentWindows(windows_NTC, earlier)
        return windows.at(slice(-held)), windows.at(slice(-held, None))

    @staticmethod
    def _check(
        window_bins: int, bins: int, drift: float, held_back: float, learning_rate: float, batch_windows: int
    ) -> None:
        least = window_bins * LEAST_WINDOWS
        if window_bins < 2 or bins < least:
            raise ValueError(
                f"window_bins is {window_bins} and the buffer holds {bins} bins; expected windows of 2 bins or more "
                f"and room for {LEAST_WINDOWS} of them: set minutes higher or window_bins lower"
            )
        for name, value in (("drift", drift), ("learning_rate", learning_rate), ("batch_windows", batch_windows)):
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected a positive number")
        if not 0 < held_back < 1:
            raise ValueError(f"held_back is {held_back}; expected a share between 0 and 1")
