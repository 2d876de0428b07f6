"""Shards mapped into memory, which are copied from at half the price of `pread` once the system has them in its cache.

What lies behind the end of a file that was cut since it was mapped cannot be read without ending the process (SIGBUS):
`size` is asked of the system and must be looked at before.
"""

import mmap
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO, NamedTuple


class Mapped(NamedTuple):
    """One shard: its bytes, and the same as a view that is sliced without a copy."""

    file: mmap.mmap
    view: memoryview

    @property
    def size(self) -> int:
        """Bytes of the file as it is now."""
        return self.file.size()


class MappedShards:
    """The shards that were used last, at most `most`."""

    def __init__(self, most: int):
        self._most = most
        self._kept: OrderedDict[int, Mapped] = OrderedDict()

    def get(self, number: int, opened: Callable[[], BinaryIO]) -> Mapped:
        """Return a shard by number; `opened` gives its file where it is not mapped yet.

        Raises OSError where it cannot be opened, or is empty.
        """
        found = self._kept.get(number)
        if found is None:
            descriptor = opened().fileno()
            if not os.fstat(descriptor).st_size:
                raise OSError("an empty file cannot be mapped")
            file = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            found = self._kept[number] = Mapped(file, memoryview(file))
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return found

    def clear(self) -> None:
        """Let go of all shards; a later use maps them again."""
        self._kept.clear()
