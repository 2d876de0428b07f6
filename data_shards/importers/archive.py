"""Reading .npz files; nothing is ever unpickled, and what a file claims to hold is checked before memory is taken."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from neurochorus.data_shards.importers.npy_header import read_header
from neurochorus.data_shards.importers.source import KeyInfo, Source, refuse_bomb

DAMAGE = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Archive(Source):
    """An open .npz file."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            loaded: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            what = "is no .npz file" if isinstance(error, ValueError) else f"cannot be read as an .npz file ({error})"
            raise ValueError(
                f"{path}: {what}: is it whole? `launch/shard.py --suggest FILE` tells which importer fits a file"
            ) from None
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError(
                f"{path}: holds a single array, not the named arrays of an .npz file: save it with np.savez"
            )
        self._arrays = loaded

    def close(self) -> None:
        self._arrays.close()

    def keys(self) -> list[str]:
        return list(self._arrays.files)

    def info(self, key: str) -> KeyInfo:
        shape, dtype = self._header(self._existing(key))
        return KeyInfo(key, shape, dtype.name)

    def _read(self, key: str) -> np.ndarray:
        self._header(key)
        try:
            return self._arrays[key]
        except DAMAGE as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None

    def _header(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and dtype of an array, once its claims agree with the archive's."""
        archive: Any = self._arrays.zip
        names = archive.namelist()
        try:
            member = archive.getinfo(key if key in names else f"{key}.npy")
            self._check_size(key, member.file_size)
            refuse_bomb(self.where(key), member.file_size, member.compress_size)
            with archive.open(member) as file:
                return read_header(cast(BinaryIO, file), member.file_size, self.where(key))
        except ValueError as error:
            raise error if self.where(key) in str(error) else ValueError(f"{self.where(key)}: {error}") from None
        except DAMAGE as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None
