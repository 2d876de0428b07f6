"""Arrays for results that may be larger than memory: while small in memory, else in a scratch file.

Scratch files lie in the directory for temporary files (TMPDIR) and vanish with the array: they are unlinked as soon as
they are open, so that no crash leaves one behind.
"""

import os
import tempfile
from collections.abc import Iterator

import numpy as np

IN_MEMORY = 256 * 2**20  # bytes
BLOCK = 32 * 2**20  # bytes that are read or converted at a time


def allocate(shape: tuple[int, ...], dtype: str, where: str) -> np.ndarray:
    """Return an array of zeros; a memory-mapped one if it takes more than 256 MB.

    ValueError naming `where` when the disk has no room for it: a wrong bin_s or unit of time asks for absurd sizes.
    """
    size = int(np.dtype(dtype).itemsize)
    for length in shape:
        size *= int(length)
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="neurochorus-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a crash while writing
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"{where}: the signal would be of shape {shape}, {size / 2**30:.3g} GiB, and {tempfile.gettempdir()} "
                f"has no room for it ({error}): check bin_s and the unit of time, or set TMPDIR to a larger disk"
            ) from None
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def blocks(rows: int, row_bytes: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of consecutive blocks of about 32 MB, of a multiple of `multiple` rows but for the last."""
    step = max(1, BLOCK // max(1, row_bytes))
    step = max(1, step // multiple) * multiple
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def narrowed(counts: np.ndarray, where: str) -> np.ndarray:
    """Return uint16 counts (rows, units) as uint8 where all fit into that, block by block."""
    spans = list(blocks(len(counts), counts[:1].nbytes))
    if max((int(counts[start:stop].max(initial=0)) for start, stop in spans), default=0) > 255:
        return counts
    narrow = allocate(counts.shape, "uint8", where)
    for start, stop in spans:
        narrow[start:stop] = counts[start:stop]
    return narrow


def columns_of(values: np.ndarray, kept_C: np.ndarray, where: str) -> np.ndarray:
    """Return the columns of (rows, units) that are kept, block by block; the array itself where all are."""
    if kept_C.all():
        return values
    chosen = allocate((len(values), int(kept_C.sum())), values.dtype.name, where)
    for start, stop in blocks(len(values), values[:1].nbytes):
        chosen[start:stop] = values[start:stop][:, kept_C]
    return chosen
