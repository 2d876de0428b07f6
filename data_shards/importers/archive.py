"""Reading .npz files; nothing is ever unpickled."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.source import Source


class Archive(Source):
    """An open .npz file."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            loaded: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: cannot be read as an .npz file ({error}): is it whole?") from None
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError(
                f"{path}: holds a single array, not the named arrays of an .npz file: save it with np.savez"
            )
        self._arrays = loaded

    def close(self) -> None:
        self._arrays.close()

    def keys(self) -> list[str]:
        return list(self._arrays.files)

    def _read(self, key: str) -> np.ndarray:
        try:
            return self._arrays[key]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise ValueError(f"{self.where(key)}: damaged ({error})") from None
            raise ValueError(
                f"{self.where(key)}: holds Python objects, and unpickling them could run any code: "
                "save it as a plain number or text array (for ragged data: all values joined, and a unit index)"
            ) from None
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None
