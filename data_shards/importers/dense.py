"""Arrays of a signal that is in bins already, by trial or in one stretch: read block by block, in any order of axes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.scratch import allocate, blocks, narrowed
from neurochorus.data_shards.importers.source import ArrayView, Source
from neurochorus.data_shards.recipe_signal import AXES, Axis, SignalRecipe
from neurochorus.data_shards.recording import as_counts, as_signal


@dataclass(frozen=True)
class Ordered:
    """An array on disk with named axes; `shape` is in the natural order: (trials, bins, units) or (bins, units)."""

    view: ArrayView
    axes: list[Axis]
    natural: list[Axis]
    where: str

    @classmethod
    def open(cls, source: Source, key: str, layout: str, axes: list[Axis] | None) -> "Ordered":
        natural = AXES[layout]
        view = source.view(key, ndim=len(natural))
        if 0 in view.shape:
            raise ValueError(f"{source.where(key)}: is empty, of shape {view.shape}")
        return cls(view, axes or natural, natural, source.where(key))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.view.shape[self.axes.index(axis)] for axis in self.natural)

    @property
    def row_bytes(self) -> int:
        """Bytes of one trial, or of one bin or sample, once it is float64."""
        return 8 * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def chunk(self) -> int:
        """Trials (bins, samples) that the file stores in one piece: reading fewer would decompress them again."""
        chunks = getattr(self.view, "chunks", None)
        return int(chunks[self.axes.index(self.natural[0])]) if isinstance(chunks, tuple) and chunks else 1

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return trials (bins, samples) [start, stop) in the natural order of axes."""
        lead = self.axes.index(self.natural[0])
        values = np.asarray(self.view[(slice(None),) * lead + (slice(start, stop),)])
        return values.transpose([self.axes.index(axis) for axis in self.natural])


def parts(source: Source, signal: SignalRecipe) -> list[tuple[str | None, list[Ordered]]]:
    """Return the arrays of a signal: (split, arrays that stand side by side by unit); None is the split of `key`.

    ValueError where they do not fit together.
    """
    keys: dict[Any, Any] = dict(signal.split_keys) if signal.split_keys is not None else {None: signal.key}
    found = []
    for split, named in keys.items():
        names = [named] if isinstance(named, str) else list(named)
        arrays = [Ordered.open(source, key, signal.layout, signal.axes) for key in names]
        found.append((split, arrays))
        for array in arrays:
            if array.shape[:-1] != arrays[0].shape[:-1]:
                raise ValueError(
                    f"{array.where}: has shape {array.shape} but {names[0]!r} has {arrays[0].shape}: they do not fit"
                )
    shapes = {split: (arrays[0].shape[1:-1], units_of(arrays)) for split, arrays in found}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{source.path}: the splits differ in bins or units: {shapes}")
    return found


def units_of(arrays: list[Ordered]) -> int:
    return sum(array.shape[-1] for array in arrays)


def read_dense(found: list[tuple[str | None, list[Ordered]]], modality: str, kept_C: np.ndarray) -> np.ndarray:
    """Return the signal (T, kept units), checked: uint8 or uint16 counts, or float32."""
    first = found[0][1][0]
    lengths = [arrays[0].shape[:-1] for _, arrays in found]
    bins = sum(int(np.prod(length)) for length in lengths)
    signal = allocate((bins, int(kept_C.sum())), "uint16" if modality == "spikes" else "float32", first.where)
    offset = 0
    for (_, arrays), length in zip(found, lengths):
        column, first_unit = 0, 0
        for array in arrays:
            kept = kept_C[first_unit : first_unit + array.shape[-1]]
            target = signal[offset : offset + int(np.prod(length)), column : column + int(kept.sum())]
            _fill(target, array, modality, kept)
            column, first_unit = column + int(kept.sum()), first_unit + array.shape[-1]
        offset += int(np.prod(length))
    return narrowed(signal, first.where) if modality == "spikes" else signal


def _fill(target: np.ndarray, array: Ordered, modality: str, kept: np.ndarray) -> None:
    convert = as_counts if modality == "spikes" else as_signal
    names = ", ".join(array.natural)
    bins_a_row = int(np.prod(array.shape[1:-1]))
    for start, stop in blocks(array.shape[0], array.row_bytes, array.chunk):
        whole = stop - start == array.shape[0]
        where = f"{array.where} ({names})" + ("" if whole else f", {array.natural[0]}s {start} to {stop - 1}")
        values = convert(array.rows(start, stop), where)
        target[start * bins_a_row : stop * bins_a_row] = values.reshape(-1, values.shape[-1])[:, kept]


def bin_centers(source: Source, key: str | None, shape: tuple[int, ...], bin_s: float) -> np.ndarray | None:
    """Return the absolute times of bins (T,) that the file gives, or None; ValueError if they do not fit bin_s."""
    if key is None:
        return None
    where = source.where(key)
    centers = source.array(key)
    if centers.shape != shape or centers.dtype.kind not in "iuf" or not np.isfinite(centers).all():
        raise ValueError(
            f"{where}: is {centers.dtype} of shape {centers.shape}; expected finite times of shape {shape}"
        )
    steps = np.diff(centers.astype(np.float64), axis=-1)
    if steps.size and np.abs(steps - bin_s).max() > 0.01 * bin_s:
        raise ValueError(
            f"{where}: bins are {steps.min():.6g} to {steps.max():.6g} s apart but bin_s is {bin_s:.6g}: correct bin_s"
        )
    if centers.ndim == 2 and len(centers) > 1 and (centers == centers[0]).all():
        raise ValueError(
            f"{where}: is the same in all {len(centers)} trials, so it does not tell when they were: leave bin_centers "
            "out"
        )
    return centers.astype(np.float64).reshape(-1)
