"""Memory for batches that is used again once nobody holds what was in it.

The system hands out fresh memory page by page, at a price of the order of copying into it; a batch is as large as the
last one.
"""

import sys
import threading

import numpy as np

BUFFERS_KEPT = 8
_OWN_REFERENCES = 3  # of the list, the loop and getrefcount itself


class Buffers:
    """Hands out uninitialised arrays. One that is still referred to, by a view or a tensor of it, is left alone."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array of any contents, as np.empty does."""
        with self._lock:
            return self._memory(int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)

    def _memory(self, size: int) -> np.ndarray:
        for place in reversed(range(len(self._kept))):  # the last one first: it is the likeliest to be in the caches
            memory = self._kept[place]
            if sys.getrefcount(memory) == _OWN_REFERENCES and len(memory) >= size:
                return memory[:size]
        memory = np.empty(size, dtype=np.uint8)
        self._kept.append(memory)
        del self._kept[:-BUFFERS_KEPT]
        return memory[:]
