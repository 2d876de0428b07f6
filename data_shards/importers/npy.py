"""Reading .npy files: a folder of them, or one; arrays stay on disk until they are read."""

from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from neurochorus.data_shards.importers.npy_header import read_header
from neurochorus.data_shards.importers.source import ArrayView, KeyInfo, Source

SINGLE = "array"  # the key of the array in a file that is a session by itself


class NpyArrays(Source):
    """A folder whose .npy files are named arrays, by their path without .npy; or one .npy file, the key `array`."""

    def __init__(self, path: Path):
        super().__init__(path)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*.npy") if file.is_file())
            self._files = {file.relative_to(path).with_suffix("").as_posix(): file for file in files}
            if not self._files:
                raise ValueError(f"{path}: the folder holds no .npy file: check the recipe's `files`")
        else:
            self._files = {SINGLE: path}

    def keys(self) -> list[str]:
        return list(self._files)

    def info(self, key: str) -> KeyInfo:
        values = self.view(key)
        return KeyInfo(key, values.shape, values.dtype.name)

    def view(self, key: str, ndim: int | tuple[int, ...] | None = None) -> ArrayView:
        file = self._files[self._existing(key)]
        try:
            with file.open("rb") as opened:
                shape, _ = read_header(cast(BinaryIO, opened), file.stat().st_size, self.where(key))
            self._check_dimensions(key, shape, ndim)
            mapped: Any = None if 0 in shape or shape == () else "r"  # an empty file cannot be mapped
            return np.load(file, mmap_mode=mapped, allow_pickle=False)
        except OSError as error:
            raise ValueError(f"{self.where(key)}: cannot be read ({error})") from None

    def _read(self, key: str) -> np.ndarray:
        values = self.view(key)
        self._check_size(key, int(np.prod(values.shape, dtype=object)) * values.dtype.itemsize)
        return np.array(values)
