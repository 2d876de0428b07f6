"""A batch: samples side by side, padded, with the rows of the unit table that each of them uses.

Tensor names: B samples, T bins, C units (of the largest session in the batch), K covariate columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from neurochorus.data_shards.dataset import Sample
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.registry import UnitRegistry


@dataclass
class Batch:
    """Entries that are padding or missing are 0 and marked in the masks."""

    signal_BTC: Tensor
    "uint8 or int32 counts per bin, or float32."
    unit_rows_BC: Tensor
    "int64 rows of the unit table, 0 where a session has fewer units than the largest; one row for a one-session batch."
    bin_mask_BT: Tensor
    "bool; False after the end of a sample shorter than the longest."
    session_B: Tensor
    "int64 session numbers of the registry, from 1."
    subject_B: Tensor
    "int64 subject numbers of the registry, from 1."
    covariates_BTK: Tensor
    "float32, the chosen covariates side by side in the chosen order."
    covariate_mask_BTK: Tensor
    "bool; False where the session lacks the covariate, it was NaN, or the bin is padding."
    sample_ids: list[str]
    "webdataset keys: session and number within it."

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def unit_mask_BC(self) -> Tensor:
        """bool; False where a unit column is padding. B is 1 for a batch of one session."""
        return self.unit_rows_BC > 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, for copies that do not block; itself where there is no device."""
        if not torch.accelerator.is_available():
            return self
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(v) for name, v in values.items() if isinstance(v, Tensor)})


def covariate_widths(entries: Iterable[SessionEntry], names: Iterable[str]) -> dict[str, int]:
    """Return the width of each named covariate, in the given order.

    Raises ValueError for a name that no session has, or that has different widths in two sessions.
    """
    entries, widths = list(entries), {}
    known = {name for entry in entries for name in entry.covariates}
    for name in names:
        if name not in known:
            raise ValueError(f"no session has a covariate {name!r}; {nearest_hint(name, known, 'covariates')}")
        for entry in entries:
            width = entry.covariates.get(name)
            if width is not None and widths.setdefault(name, width) != width:
                raise ValueError(
                    f"covariate {name!r} has {width} columns in session {entry.session_id!r} and {widths[name]} in "
                    "another: give one of them another name in its recipe"
                )
    return widths


@dataclass(frozen=True)
class _Wiring:
    """Where the units and covariates of one session go."""

    unit_rows_C: np.ndarray
    session: int
    subject: int
    columns: list[tuple[slice, slice]]
    "For each chosen covariate that the session has: its columns in the batch, and in the shard."


class Collate:
    """Makes batches of samples of known sessions; checks once, here, that registry and data fit together.

    `covariates` maps chosen names to widths, in the order of their columns. A session that lacks one is masked there.
    Raises ValueError where the registry refuses a session, or a covariate has another width.
    """

    def __init__(
        self, entries: Iterable[SessionEntry], registry: UnitRegistry, covariates: Mapping[str, int] | None = None
    ):
        self.covariates = dict(covariates or {})
        self.covariate_columns = sum(self.covariates.values())
        self._wiring = {entry.session_id: self._wire(entry, registry) for entry in entries}

    def __call__(
        self, samples: Sequence[Sample], starts: Sequence[int] | None = None, window_bins: int | None = None
    ) -> Batch:
        """Cut sample i to at most `window_bins` bins from bin starts[i] (None: from its first); pad to the longest."""
        first = [0] * len(samples) if starts is None else list(starts)
        signals = [
            sample.signal_TC[start : None if window_bins is None else start + window_bins]
            for sample, start in zip(samples, first, strict=True)
        ]
        wiring = [self._wiring[sample.session_id] for sample in samples]
        size, bins, units = len(samples), max(map(len, signals)), max(signal.shape[1] for signal in signals)
        one_session = len({sample.session_id for sample in samples}) == 1
        padded = any(signal.shape != (bins, units) for signal in signals)
        signal_BTC = (np.zeros if padded else np.empty)((size, bins, units), dtype=_signal_dtype(signals))
        rows_BC = np.zeros((size, units), dtype=np.int64)
        bin_mask_BT = np.zeros((size, bins), dtype=bool)
        covariates_BTK = np.zeros((size, bins, self.covariate_columns), dtype=np.float32)
        covariate_mask_BTK = np.zeros(covariates_BTK.shape, dtype=bool)
        for i, (signal, wires) in enumerate(zip(signals, wiring)):
            length, count = signal.shape
            signal_BTC[i, :length, :count] = signal
            rows_BC[i, :count] = wires.unit_rows_C
            bin_mask_BT[i, :length] = True
            covariates_TK = samples[i].covariates_TK
            if covariates_TK is None:
                continue
            for target, source in wires.columns:
                values = covariates_TK[first[i] : first[i] + length, source]
                present = ~np.isnan(values)
                covariates_BTK[i, :length, target] = np.where(present, values, 0)
                covariate_mask_BTK[i, :length, target] = present
        return Batch(
            signal_BTC=torch.from_numpy(signal_BTC),
            unit_rows_BC=torch.from_numpy(rows_BC[:1] if one_session else rows_BC),
            bin_mask_BT=torch.from_numpy(bin_mask_BT),
            session_B=torch.tensor([wires.session for wires in wiring], dtype=torch.int64),
            subject_B=torch.tensor([wires.subject for wires in wiring], dtype=torch.int64),
            covariates_BTK=torch.from_numpy(covariates_BTK),
            covariate_mask_BTK=torch.from_numpy(covariate_mask_BTK),
            sample_ids=[sample.key for sample in samples],
        )

    def _wire(self, entry: SessionEntry, registry: UnitRegistry) -> _Wiring:
        columns, target, sources = [], 0, entry.covariate_slices
        for name, width in self.covariates.items():
            found = entry.covariates.get(name, width)
            if found != width:
                raise ValueError(
                    f"session {entry.session_id!r}: covariate {name!r} has {found} columns, expected {width}: "
                    "give it another name in its recipe"
                )
            if name in sources:
                columns.append((slice(target, target + width), sources[name]))
            target += width
        return _Wiring(
            unit_rows_C=registry.rows(entry),
            session=registry.session_index(entry.session_id),
            subject=registry.subject_index(entry.subject_id),
            columns=columns,
        )


def _signal_dtype(signals: list[np.ndarray]) -> np.dtype:
    """uint8 and float32 stay; uint16 becomes int32, which torch computes with on every device."""
    found = np.result_type(*{signal.dtype for signal in signals})
    return np.dtype(np.int32) if found == np.uint16 else found
