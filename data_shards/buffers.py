"""Memory for batches that is used again once nobody holds what was in it.

The system hands out fresh memory page by page, at a price of the order of copying into it; a batch is as large as the
last one.
"""

import threading

import numpy as np

BUFFERS_KEPT = 8


class Buffers:
    """Hands out uninitialised arrays. Memory that is still referred to, by a view or a tensor of it, is left alone."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array of any contents, as np.empty does."""
        with self._lock:
            return self._memory(int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)

    def _memory(self, size: int) -> np.ndarray:
        for memory in reversed(self._kept):  # the last one first: it is the likeliest to be in the caches
            if len(memory) > size and _is_free(memory):
                return np.frombuffer(memory, np.uint8, size)
        memory = bytearray(size + 1)
        self._kept.append(memory)
        del self._kept[:-BUFFERS_KEPT]
        return np.frombuffer(memory, np.uint8, size)


def _is_free(memory: bytearray) -> bool:
    """Whether nobody holds an array of this memory: Python then lets it change its length."""
    try:
        memory.append(memory.pop())
    except BufferError:
        return False
    return True
