"""Safe decoding of the members of a shard: `.npy` arrays of a few plain dtypes and `.json`, nothing else.

Nothing here unpickles or executes anything: an array member must be exactly the bytes of a C-ordered array of an
allowed dtype and the expected shape. What does not fit raises MemberError, whose text says what was found and expected.
"""

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib import format as npy

from neurochorus.data_shards.strict_json import parse_mapping

SIGNAL_MEMBER = "signal.npy"
COVARIATES_MEMBER = "covariates.npy"
META_MEMBER = "meta.json"


class MemberError(ValueError):
    """What is wrong with one member; the reader adds which data set, shard and sample."""


def decode_array(data: bytes, allowed: tuple[str, ...], shape: tuple[int, int]) -> np.ndarray:
    """Return the array in the bytes of an `.npy` file, read-only and without a copy.

    `allowed` are dtype names, `shape` the only accepted shape. Raises MemberError for all else, object arrays too.
    """
    for name in allowed:
        header = array_header(name, shape)
        if data.startswith(header):
            return _body(data, len(header), np.dtype(name), shape)
    return _decode_unusual(data, allowed, shape)


def decode_json(data: bytes) -> dict[str, Any]:
    """Return the mapping in the bytes of a `.json` file; raises MemberError when it is none."""
    try:
        return parse_mapping(data)
    except ValueError as error:
        raise MemberError(str(error)) from None


def decode_column(data: bytes) -> np.ndarray:
    """Return the array of at most one dimension in the bytes of an `.npy` file, read-only and without a copy.

    Raises MemberError for python objects and for a shape that does not fit the bytes.
    """
    shape, _, dtype, offset = _parse_header(data)
    if len(shape) > 1 or min(shape, default=0) < 0 or dtype.itemsize == 0:
        raise MemberError(f"an array of {dtype} of shape {shape}; expected a column")
    return _body(data, offset, dtype, shape)


def _decode_unusual(data: bytes, allowed: tuple[str, ...], shape: tuple[int, int]) -> np.ndarray:
    """Decode an array whose header is not just as numpy writes it today, or, mostly, say what is wrong with it."""
    found_shape, fortran, dtype, offset = _parse_header(data)
    if dtype not in [np.dtype(name) for name in allowed]:
        raise MemberError(f"dtype {dtype}; expected {' or '.join(allowed)}")
    if found_shape != shape:
        raise MemberError(f"shape {found_shape}; the manifest and the index say {shape} (bins, columns)")
    if fortran:
        raise MemberError("Fortran order; expected C order")
    return _body(data, offset, dtype, shape)


def _parse_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, whether in Fortran order, dtype (plain, no objects) and where the values start."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise MemberError(f"npy format version {version}; expected 1.0 or 2.0")
        # numpy bounds the header's size and reads it as a literal
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except MemberError:
        raise
    except Exception as error:  # ValueError mostly; but its parsers also run out of stack, memory or tokens
        reason = str(error).splitlines() or [type(error).__name__]
        raise MemberError(f"not an .npy array ({reason[0]})") from None
    if dtype.hasobject:
        raise MemberError(
            f"an array of python objects (dtype {dtype}), which is a pickle: refused, nothing was unpickled"
        )
    return shape, fortran, dtype, stream.tell()


def _body(data: bytes, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) - offset != wanted:
        raise MemberError(f"{len(data) - offset} bytes of data; an array of {dtype} {shape} has {wanted}")
    return np.frombuffer(data, dtype, offset=offset).reshape(shape)


@lru_cache(maxsize=4096)
def array_header(dtype_name: str, shape: tuple[int, int]) -> bytes:
    """Return the bytes that numpy.save writes before such an array (to compare them is far cheaper than to parse)."""
    stream = io.BytesIO()
    description = {"descr": npy.dtype_to_descr(np.dtype(dtype_name)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, description)
    return stream.getvalue()
