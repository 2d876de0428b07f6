"""The checksums of a checkpoint's files, by which a damaged one is found before it is loaded."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

Sums = dict[str, tuple[int, int]]
"""File -> size in bytes and CRC-32."""

CHUNK = 1 << 24


def sum_of(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file."""
    size = crc32 = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            size, crc32 = size + len(data), zlib.crc32(data, crc32)
    return size, crc32


def damaged_files(checkpoint: Path, expected: Mapping[str, Iterable[int]]) -> list[str]:
    """What is wrong with the files of a checkpoint, a line each."""
    problems = []
    for name, sums in expected.items():
        try:
            if sum_of(checkpoint / name) != tuple(sums):
                problems.append(f"{name}: was changed or cut after it was written")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return problems
