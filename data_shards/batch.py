"""A batch: samples side by side, padded, with the rows of the unit table that each of them uses.

Tensor names: B samples, T bins, C units (of the largest session in the batch), K covariate columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurochorus.data_shards.blocks import Block
from neurochorus.data_shards.dataset import Sample
from neurochorus.data_shards.earlier import Earlier, joined_earlier
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
    """webdataset keys, session and number within it, with `+first bin` where a window was cut out; none in a batch that
    is all padding (evaluation_batches)."""
    hidden_BTC: Tensor | None = None
    "bool; True where the encoder must not see an entry and is scored on it (augment.coordinated_dropout); or None."
    earlier_BC: Tensor | None = None
    "float32; sums of each unit's signal before the window, recent bins counting most (`Earlier`); None: not known."
    earlier_bins_B: Tensor | None = None
    "float32; how many bins these sums are worth."
    units_missing: bool = False
    "Whether some session has units, in the registry, that are not among its columns."

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


def earlier_fields(earlier: Earlier | None) -> dict[str, Any]:
    """The fields of a batch that tell what came before its windows; none where it is not known."""
    if earlier is None:
        return {}
    return {"earlier_BC": torch.from_numpy(earlier.sums_NC), "earlier_bins_B": torch.from_numpy(earlier.bins_N)}


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

    unit_rows_C: np.ndarray | range
    "A range where the data have the units in the order of their rows, as they mostly do: it takes no memory."
    session: int
    subject: int
    columns: list[tuple[slice, slice]]
    "For each chosen covariate that the session has: its columns in the batch, and in the shard."
    units_missing: bool


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
        return self.join([Block.of_sample(s, start, window_bins) for s, start in zip(samples, first, strict=True)])

    def wants_covariates(self, session_id: str) -> bool:
        """Whether a batch has covariates of a session, so that they must be read."""
        return bool(self._wiring[session_id].columns)

    def join(self, blocks: Sequence[Block]) -> Batch:
        """Make a batch of blocks of known sessions, in their order; a single one becomes the batch without a copy."""
        wiring = [self._wiring[block.session_id] for block in blocks]
        sizes = [len(block.keys) for block in blocks]
        bins_B = np.concatenate([block.bins_N for block in blocks])
        signal_BTC = blocks[0].signal_NTC if len(blocks) == 1 else _joined_signal(blocks)
        if signal_BTC.dtype == np.uint16:  # torch computes with int32 on every device
            signal_BTC = signal_BTC.astype(np.int32)
        signal_BTC = np.require(signal_BTC, requirements="W")  # a sample's own array is read-only
        one_session = len({block.session_id for block in blocks}) == 1
        covariates_BTK, covariate_mask_BTK = self._joined_covariates(blocks, wiring, signal_BTC.shape[1])
        return Batch(
            signal_BTC=torch.from_numpy(signal_BTC),
            unit_rows_BC=torch.from_numpy(
                _unit_rows(wiring[:1], [1], signal_BTC.shape[2])
                if one_session
                else _unit_rows(wiring, sizes, signal_BTC.shape[2])
            ),
            bin_mask_BT=torch.from_numpy(np.arange(signal_BTC.shape[1]) < bins_B[:, None]),
            session_B=torch.from_numpy(np.repeat([wires.session for wires in wiring], sizes)),
            subject_B=torch.from_numpy(np.repeat([wires.subject for wires in wiring], sizes)),
            covariates_BTK=torch.from_numpy(covariates_BTK),
            covariate_mask_BTK=torch.from_numpy(covariate_mask_BTK),
            sample_ids=[key for block in blocks for key in block.keys],
            **earlier_fields(joined_earlier([block.earlier for block in blocks])),
            units_missing=any(wires.units_missing for wires in wiring),
        )

    def all_padding(self, session_id: str, bins: int) -> Batch:
        """Return a batch of one sample of a known session with nothing in it: masked in every bin."""
        units = len(self._wiring[session_id].unit_rows_C)
        signal_NTC = np.zeros((1, bins, units), dtype=np.uint8)
        batch = self.join([Block(session_id, [""], signal_NTC, np.zeros(1, dtype=np.int64), None)])
        return replace(batch, sample_ids=[])

    def _joined_covariates(
        self, blocks: Sequence[Block], wiring: Sequence[_Wiring], bins: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The chosen covariates (B, T, K), 0 where they are missing, and where they are not."""
        shape = (sum(len(block.keys) for block in blocks), bins, self.covariate_columns)
        covariates_BTK, mask_BTK = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        first = 0
        for block, wires in zip(blocks, wiring):
            own = slice(first, first + len(block.keys))
            first = own.stop
            if block.covariates_NTK is None:
                continue
            for target, source in wires.columns:
                values_NTK = block.covariates_NTK[:, :, source]
                present_NTK = ~np.isnan(values_NTK)
                covariates_BTK[own, : values_NTK.shape[1], target] = np.where(present_NTK, values_NTK, 0)
                mask_BTK[own, : values_NTK.shape[1], target] = present_NTK
        return covariates_BTK, mask_BTK

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
        rows_C = registry.rows(entry)
        return _Wiring(
            unit_rows_C=_compact(rows_C),
            session=registry.session_index(entry.session_id),
            subject=registry.subject_index(entry.subject_id),
            columns=columns,
            units_missing=len(rows_C) < len(registry.session(entry.session_id).unit_ids),
        )


def _compact(rows_C: np.ndarray) -> np.ndarray | range:
    """The same rows as a range, where they are consecutive."""
    rising = range(int(rows_C[0]), int(rows_C[0]) + len(rows_C)) if len(rows_C) else range(0)
    return rising if np.array_equal(rows_C, rising) else rows_C


def _unit_rows(wiring: Sequence[_Wiring], sizes: Sequence[int], units: int) -> np.ndarray:
    """Rows of the units (B, C), 0 where a session has fewer; sizes[i] lines for wiring[i]."""
    rows_BC = np.zeros((sum(sizes), units), dtype=np.int64)
    first = 0
    for wires, size in zip(wiring, sizes):
        rows_BC[first : first + size, : len(wires.unit_rows_C)] = wires.unit_rows_C
        first += size
    return rows_BC


def _joined_signal(blocks: Sequence[Block]) -> np.ndarray:
    """The signals of several blocks one after the other, 0 after the ends of shorter windows and smaller sessions."""
    bins, units = (max(block.signal_NTC.shape[axis] for block in blocks) for axis in (1, 2))
    dtype = np.result_type(*{block.signal_NTC.dtype for block in blocks})
    signal_BTC = np.zeros((sum(len(block.keys) for block in blocks), bins, units), dtype=dtype)
    first = 0
    for block in blocks:
        samples, length, count = block.signal_NTC.shape
        signal_BTC[first : first + samples, :length, :count] = block.signal_NTC
        first += samples
    return signal_BTC
