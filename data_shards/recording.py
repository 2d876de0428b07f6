"""One session of one subject in memory: what every importer makes and the writer takes.

T bins, C units (neurons or channels), d columns of a covariate. A unit is known by its id, never by its
position or by how many there are: `unit_hash` is compared whenever a model meets data.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from neurochorus.data_shards.naming import check_identifier

SPLITS = ("train", "valid", "test")
CHECKED_AT_ONCE = 2**24  # values
Modality = Literal["spikes", "continuous"]
SIGNAL_DTYPES: dict[str, tuple[str, ...]] = {"spikes": ("uint8", "uint16"), "continuous": ("float32",)}


def unit_hash(unit_ids: Iterable[str]) -> str:
    """Return 16 hex digits of the sha256 of the sorted unit ids joined by newlines (the order does not matter)."""
    return hashlib.sha256("\n".join(sorted(unit_ids)).encode()).hexdigest()[:16]


def plain_values(values: dict[str, Any], where: str) -> dict[str, str | float]:
    """Return a copy with every value a str or a finite float, so that JSON gives back what was put in."""
    plain: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, (str, np.str_)):
            plain[name] = str(value)
            continue
        if isinstance(value, (bool, int, float, np.generic)) and math.isfinite(float(value)):
            plain[name] = float(value)
            continue
        raise ValueError(f"{where} {name!r} is {value!r}; expected text or a finite number")
    return plain


@dataclass(frozen=True)
class Unit:
    """A neuron or channel: an id that is stable within its session, a region, and free columns (text or numbers)."""

    unit_id: str
    region: str = ""
    columns: dict[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_identifier("unit id", self.unit_id)
        reserved = {"unit_id", "region"} & set(self.columns)
        if reserved:
            raise ValueError(
                f"unit {self.unit_id!r}: the column name {sorted(reserved)[0]!r} is taken: rename the column"
            )
        object.__setattr__(self, "columns", plain_values(self.columns, f"unit {self.unit_id!r}: column"))


@dataclass(frozen=True)
class Segment:
    """Bins [start, stop) of a recording without a break: a trial or a stretch. No window crosses its ends."""

    start: int
    stop: int
    split: str
    labels: dict[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(
                f"segment [{self.start}, {self.stop}): split {self.split!r} is not one of {', '.join(SPLITS)}"
            )
        if not 0 <= self.start < self.stop:
            raise ValueError(f"segment [{self.start}, {self.stop}) is empty or starts before bin 0")
        object.__setattr__(self, "labels", plain_values(self.labels, f"segment [{self.start}, {self.stop}): label"))


@dataclass(frozen=True)
class Recording:
    """One session, checked on construction; every problem is a ValueError that names the session.

    signal_TC is uint8 or uint16 spike counts per bin, or a finite float32 signal; covariates are float32
    (T, d) with NaN where missing; segments are sorted, inside the recording and do not overlap.
    """

    session_id: str
    subject_id: str
    modality: Modality
    bin_s: float
    signal_TC: np.ndarray
    units: list[Unit]
    segments: list[Segment]
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_identifier("session id", self.session_id)
        check_identifier(f"session {self.session_id!r}: subject id", self.subject_id)
        if self.modality not in SIGNAL_DTYPES:
            self._refuse(f"modality is {self.modality!r}; expected one of {', '.join(SIGNAL_DTYPES)}")
        if not (isinstance(self.bin_s, (int, float)) and math.isfinite(self.bin_s) and self.bin_s > 0):
            self._refuse(f"bin_s is {self.bin_s!r}; expected a positive number of seconds")
        self._check_signal()
        self._check_units()
        self._check_segments()
        self._check_covariates()

    @property
    def unit_ids(self) -> list[str]:
        return [unit.unit_id for unit in self.units]

    def _refuse(self, problem: str) -> None:
        raise ValueError(f"session {self.session_id!r}: {problem}")

    def _check_signal(self) -> None:
        signal, allowed = self.signal_TC, SIGNAL_DTYPES[self.modality]
        if signal.ndim != 2 or 0 in signal.shape:
            self._refuse(f"the signal has shape {signal.shape}; expected (bins, units), both at least 1")
        if signal.dtype.name not in allowed:
            self._refuse(
                f"the signal of a {self.modality} recording is {signal.dtype.name}; expected {' or '.join(allowed)} "
                "(an importer converts with as_counts or as_signal)"
            )
        if self.modality == "continuous":
            self._check_finite(signal)

    def _check_finite(self, signal: np.ndarray) -> None:
        """Look at the signal piece by piece: it may lie on disk and be larger than memory."""
        bins = max(1, CHECKED_AT_ONCE // signal.shape[1])
        for start in range(0, len(signal), bins):
            odd = ~np.isfinite(signal[start : start + bins])
            if odd.any():
                bin_, unit = np.argwhere(odd)[0]
                self._refuse(
                    f"the signal is {signal[start + bin_, unit]} at bin {start + bin_}, unit {unit}: "
                    "interpolate or drop that stretch"
                )

    def _check_units(self) -> None:
        if len(self.units) != self.signal_TC.shape[1]:
            self._refuse(f"{len(self.units)} units are described but the signal has {self.signal_TC.shape[1]} columns")
        seen: dict[str, int] = {}
        for column, unit_id in enumerate(self.unit_ids):
            if unit_id in seen:
                self._refuse(
                    f"the unit id {unit_id!r} stands at columns {seen[unit_id]} and {column}: "
                    "unit ids must be unique within a session"
                )
            seen[unit_id] = column

    def _check_segments(self) -> None:
        if not self.segments:
            self._refuse("there is no segment: nothing would be written")
        end = 0
        for segment in self.segments:
            if segment.start < end:
                self._refuse(
                    f"segment [{segment.start}, {segment.stop}) starts before the one before it ends, at bin {end}: "
                    "segments must be sorted and must not overlap"
                )
            end = segment.stop
        if end > self.signal_TC.shape[0]:
            self._refuse(f"a segment ends at bin {end} but the recording has {self.signal_TC.shape[0]} bins")

    def _check_covariates(self) -> None:
        for name, values in self.covariates.items():
            check_identifier(f"session {self.session_id!r}: covariate", name)
            if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] == 0:
                self._refuse(
                    f"covariate {name!r} is {values.dtype} of shape {values.shape}; expected float32 (bins, columns)"
                )
            if len(values) != len(self.signal_TC):
                self._refuse(f"covariate {name!r} has {len(values)} bins but the signal has {len(self.signal_TC)}")
            if np.isinf(values).any():
                self._refuse(f"covariate {name!r} holds an infinite value: use NaN for missing")


def as_counts(values: np.ndarray, where: str) -> np.ndarray:
    """Return spike counts as uint8, or uint16 when a count exceeds 255; same shape.

    Raises ValueError naming `where` and the first offending entry for NaN, negative, fractional or too large counts.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{where}: counts are of type {values.dtype}; expected numbers")
    if values.dtype.kind == "f":
        _refuse_where(~np.isfinite(values), values, where, "not finite", "drop those bins or units before importing")
        _refuse_where(values != np.floor(values), values, where, "not a whole number", "are these rates, not counts?")
    if values.dtype.kind in "if":
        _refuse_where(values < 0, values, where, "negative", "a count of spikes is at least 0")
    highest = int(values.max(initial=0))
    if highest > np.iinfo(np.uint16).max:
        raise ValueError(f"{where}: a count is {highest}; at most 65535 spikes fit into a bin")
    return values.astype(np.uint8 if highest <= 255 else np.uint16)


def as_signal(values: np.ndarray, where: str) -> np.ndarray:
    """Return a continuous signal as float32, same shape; NaN, infinity or overflow raise ValueError naming `where`."""
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{where}: the signal is of type {values.dtype}; expected numbers")
    with np.errstate(over="ignore"):
        signal = values.astype(np.float32)
    _refuse_where(~np.isfinite(signal), values, where, "not a finite float32", "interpolate or drop that stretch")
    return signal


def _refuse_where(bad: np.ndarray, values: np.ndarray, where: str, what: str, fix: str) -> None:
    if not bad.any():
        return
    place = tuple(int(index) for index in np.argwhere(bad)[0])
    raise ValueError(
        f"{where}: {int(bad.sum())} of {bad.size} values are {what}, the first {values[place]} at {place}: {fix}"
    )
