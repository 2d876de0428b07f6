"""Stretches of samples of one session read side by side, straight into the array that becomes the batch.

The same checks as `ShardDataset.read`, in the same order of cost: size, dtype and shape every time, the checksum when a
process reads a member for the first time. A member that is not just as our writer leaves it is read by
`ShardDataset.read`, which says what is wrong with it, or takes it if it is merely unusual.

N windows, T bins of the longest, C units, K covariate columns of the session.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from neurochorus.data_shards.buffers import Buffers
from neurochorus.data_shards.checksum import crc32
from neurochorus.data_shards.dataset import Sample, ShardDataset
from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.members import array_header
from neurochorus.data_shards.recording import SIGNAL_DTYPES

NPY_HEADER_BYTES = 128
"Of every array that our writer writes: numpy fills the header up so that it can grow."

_BUFFERS = Buffers()


@dataclass(frozen=True)
class Block:
    """Windows of one session."""

    session_id: str
    keys: list[str]
    "webdataset keys of the samples that they are cut from."
    signal_NTC: np.ndarray
    "uint8, uint16 or int32 counts, or float32; 0 after the end of a window."
    bins_N: np.ndarray
    "Length of each window (int64)."
    covariates_NTK: np.ndarray | None
    "float32, NaN where missing and after the end of a window; None when the session has none, or none were wanted."
    earlier: Earlier | None = None
    "What came before the samples; None when it was not asked for."

    @classmethod
    def of_sample(cls, sample: Sample, start: int = 0, window_bins: int | None = None) -> "Block":
        """One sample, cut to at most `window_bins` bins from bin `start`."""
        cut = slice(start, None if window_bins is None else start + window_bins)
        signal_TC, values_TK = sample.signal_TC[cut], sample.covariates_TK
        values_NTK = None if values_TK is None else values_TK[cut][None]
        return cls(sample.session_id, [sample.key], signal_TC[None], np.array([len(signal_TC)]), values_NTK)

    def named(self, starts_N: np.ndarray, cut_N: np.ndarray) -> "Block":
        """Return the block with `+start` added to the key of each window that is only part of a sample (cut_N)."""
        if not cut_N.any():
            return self
        marks = zip(self.keys, starts_N.tolist(), cut_N.tolist())
        return replace(self, keys=[f"{key}+{start}" if cut else key for key, start, cut in marks])


def read_block(
    dataset: ShardDataset, rows_N: np.ndarray, starts_N: np.ndarray, lengths_N: np.ndarray, covariates: bool = True
) -> Block:
    """Read lengths_N[i] stored bins from bin starts_N[i] of the sample in row rows_N[i], all of one session.

    Raises DatasetError naming shard, key and member where bytes were damaged or are not what the manifest says.
    """
    number = int(dataset.index.session[rows_N[0]])
    entry = dataset.manifest.sessions[number]
    width = sum(entry.covariates.values()) if covariates else 0
    cut = _Cut(rows_N, starts_N, lengths_N, dataset.index.bins[rows_N])
    try:
        signal_NTC = _stacked(dataset, "signal", SIGNAL_DTYPES[entry.modality], len(entry.units), 0, cut)
        values_NTK = _stacked(dataset, "covariates", ("float32",), width, np.nan, cut) if width else None
    except (_Unusual, OSError):
        signal_NTC, values_NTK = _read_one_by_one(dataset, cut, bool(width))
    keys = [f"{entry.session_id}-{place:06d}" for place in dataset._number_in_session[rows_N].tolist()]
    return Block(entry.session_id, keys, signal_NTC, lengths_N, values_NTK)


@dataclass(frozen=True)
class _Cut:
    """Which stretch of which sample each window is; bins_N are the lengths of the samples."""

    rows_N: np.ndarray
    starts_N: np.ndarray
    lengths_N: np.ndarray
    bins_N: np.ndarray

    @property
    def ragged(self) -> bool:
        return bool(self.lengths_N.min() < self.lengths_N.max())


class _Unusual(Exception):
    """A member is not, byte for byte, as our writer leaves it."""


def _stacked(
    dataset: ShardDataset, member: str, allowed: tuple[str, ...], columns: int, fill: float, cut: _Cut
) -> np.ndarray:
    """One member of all samples, cut, (N, T, columns), with `fill` after the shorter ones. Raises _Unusual."""
    offset, size, checksum = dataset._places[member]
    bins = cut.bins_N.tolist()
    dtype = next((name for name in allowed if _size(name, bins[0], columns) == size[cut.rows_N[0]]), None)
    if dtype is None:
        raise _Unusual
    shape = (len(bins), int(cut.lengths_N.max()), columns)
    out_NTC = _BUFFERS.empty(shape, dtype)
    if cut.ragged:
        out_NTC.fill(fill)
    out = out_NTC.reshape(-1).view(np.uint8).data
    line, stride = columns * out_NTC.itemsize, shape[1] * columns * out_NTC.itemsize
    intact, last = dataset._intact[member], -1
    columns_N = (cut.rows_N, cut.bins_N, cut.starts_N * line, cut.lengths_N * line)
    places_N = (column[cut.rows_N] for column in (dataset.index.shard, offset, size, checksum, intact))
    # in the order in which they lie on the disk
    order_N = np.lexsort((offset[cut.rows_N], dataset.index.shard[cut.rows_N]))
    lines = zip(order_N.tolist(), *(column[order_N].tolist() for column in (*columns_N, *places_N)))
    for i, row, own_bins, begin, length, number, at, bytes_, crc, known in lines:
        if number != last:
            last, shard = number, dataset._mapped_shard(number)
            readable = shard.size
        header, header_crc = _expected_header(dtype, own_bins, columns)
        first, stop = at + NPY_HEADER_BYTES, at + bytes_
        if stop > readable or stop - first != own_bins * line or shard.file[at:first] != header:
            raise _Unusual
        target = out[i * stride : i * stride + length]
        target[:] = shard.view[first + begin : first + begin + length]
        if not known:
            if crc32(target if first + length == stop else shard.view[first:stop], header_crc) != crc:
                raise _Unusual
            intact[row] = True
    return out_NTC


def _read_one_by_one(dataset: ShardDataset, cut: _Cut, covariates: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The same through `ShardDataset.read`, which names what is wrong with a sample."""
    samples = [dataset.read(row, with_meta=False) for row in cut.rows_N.tolist()]
    stops_N = cut.starts_N + cut.lengths_N
    slices = [slice(*ends) for ends in zip(cut.starts_N.tolist(), stops_N.tolist())]
    signal_NTC = padded([sample.signal_TC[part] for sample, part in zip(samples, slices)], 0)
    values = [sample.covariates_TK[part] for sample, part in zip(samples, slices) if sample.covariates_TK is not None]
    return signal_NTC, padded(values, np.nan) if covariates and values else None


def padded(pieces: list[np.ndarray], fill: float) -> np.ndarray:
    """Stack arrays (T, C) of several lengths and widths, with `fill` after the ends of the smaller ones."""
    shape = tuple(max(piece.shape[axis] for piece in pieces) for axis in (0, 1))
    out_NTC = np.full((len(pieces), *shape), fill, dtype=np.result_type(*{piece.dtype for piece in pieces}))
    for i, piece in enumerate(pieces):
        out_NTC[i, : piece.shape[0], : piece.shape[1]] = piece
    return out_NTC


def _size(dtype: str, bins: int, columns: int) -> int:
    """Bytes of a member that our writer wrote."""
    return len(array_header(dtype, (bins, columns))) + bins * columns * np.dtype(dtype).itemsize


@lru_cache(maxsize=4096)
def _expected_header(dtype: str, bins: int, columns: int) -> tuple[bytes, int]:
    header = array_header(dtype, (bins, columns))
    if len(header) != NPY_HEADER_BYTES:
        raise _Unusual
    return header, crc32(header)
