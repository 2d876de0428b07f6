"""Reading .npz files: every error names the file and the key, and nothing is ever unpickled."""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.naming import nearest_hint


class Archive:
    """An open .npz file; a context manager. Problems are ValueErrors."""

    def __init__(self, path: Path):
        self.path = path
        try:
            loaded: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: cannot be read as an .npz file ({error}): is it whole?") from None
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError(
                f"{path}: holds a single array, not the named arrays of an .npz file: save it with np.savez"
            )
        self._arrays = loaded

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._arrays.close()

    def where(self, key: str) -> str:
        return f"{self.path}: {key!r}"

    def array(self, key: str, ndim: int | tuple[int, ...] | None = None) -> np.ndarray:
        """Return the array called `key`; ValueError if it is missing, holds Python objects or has other dimensions."""
        if key not in self._arrays.files:
            raise ValueError(f"{self.path}: has no array {key!r}; {nearest_hint(key, self._arrays.files, 'arrays')}")
        try:
            values = self._arrays[key]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise ValueError(f"{self.where(key)}: damaged ({error})") from None
            raise ValueError(
                f"{self.where(key)}: holds Python objects, and unpickling them could run any code: "
                "save it as a plain number or text array (for ragged data: all values joined, and a unit index)"
            ) from None
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None
        allowed = (ndim,) if isinstance(ndim, int) else ndim
        if allowed is not None and values.ndim not in allowed:
            expected = " or ".join(str(count) for count in allowed)
            raise ValueError(f"{self.where(key)}: has shape {values.shape}; expected {expected} dimensions")
        return values

    def scalar(self, key: str) -> str | float:
        """Return the one value of an array as text or number; a whole number comes back as an int."""
        values = self.array(key)
        if values.size != 1 or values.dtype.kind not in "Uiufb":
            raise ValueError(
                f"{self.where(key)}: is {values.dtype} of shape {values.shape}; expected one text or number"
            )
        return values.reshape(()).item()

    def text(self, key: str) -> str:
        return str(self.scalar(key))

    def number(self, key: str) -> float:
        value = self.scalar(key)
        if isinstance(value, str) or not np.isfinite(value):
            raise ValueError(f"{self.where(key)}: is {value!r}; expected a finite number")
        return float(value)

    def times(self, key: str) -> np.ndarray:
        """Return an array (samples,) of finite times in seconds as float64."""
        values = self.array(key, ndim=1)
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{self.where(key)}: is of type {values.dtype}; expected times in seconds")
        times = values.astype(np.float64)
        if not np.isfinite(times).all():
            place = int(np.argmin(np.isfinite(times)))
            raise ValueError(f"{self.where(key)}: the time at {place} is {times[place]}; expected finite times")
        return times

    def sha256(self) -> str:
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
