"""Result files that appear whole or not at all, and are refused before anything is computed for them."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def check_output(path: Path, suffix: str) -> Path:
    """Return `path` with its directory made. Raises ValueError for another ending and for what cannot be a file."""
    if path.suffix != suffix:
        raise ValueError(f"{path}: the output is a {suffix} file; give it that ending")
    if path.is_dir():
        raise ValueError(f"{path}: is a directory; give the path of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: its directory cannot be made ({error.strerror}): give another path") from None
    return path


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file under a temporary name, and rename it to `path` when it is done."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
