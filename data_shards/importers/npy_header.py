"""What the header of a .npy says, checked against the bytes that there are, before any memory is taken for it."""

import math
from typing import BinaryIO

import numpy as np

LONGEST_HEADER = 2**16


def read_header(file: BinaryIO, size: int, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of the .npy of `size` bytes at the start of `file`.

    ValueError naming `where` for a damaged header, Python objects, and a claim of more or less data than there is.
    """
    try:
        major, minor = np.lib.format.read_magic(file)
        reader = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
        shape, _, dtype = reader(file, max_header_size=LONGEST_HEADER)
    except KeyError:
        raise ValueError(f"{where}: is an .npy of version {major}.{minor}; expected 1.0 or 2.0") from None
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where}: damaged ({error}): is the file whole?") from None
    if dtype.hasobject:
        raise ValueError(
            f"{where}: holds Python objects, and unpickling them could run any code: "
            "save it as a plain number or text array (for ragged data: all values joined, and a unit index)"
        )
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - file.tell():
        raise ValueError(
            f"{where}: damaged (its header says {dtype} of shape {shape}, {claimed} bytes, and it has "
            f"{size - file.tell()}): is the file whole?"
        )
    return shape, dtype
