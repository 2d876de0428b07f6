"""A directory that appears whole or not at all."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def leftovers(out: Path) -> list[Path]:
    """Return temporary directories beside `out` that an interrupted run of another process left, or still fills."""
    return sorted([*out.parent.glob(f".{glob.escape(out.name)}.partial-*"), *_existing(working_directory(out))])


def working_directory(out: Path) -> Path:
    """Return where sessions are imported before they become part of the data set `out`."""
    return out.parent / f".{out.name}.importing"


def _existing(path: Path) -> list[Path]:
    return [path] if path.exists() else []


@contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """Give a temporary directory beside `out` that is renamed to `out` at the end, or removed after any error.

    Raises ValueError when `out` exists, and OSError naming `out` when the disk refuses; whatever else the body raises
    comes out as it is.
    """
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} exists and is not overwritten: choose another directory, or remove it first")
    staging = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)  # a dead process had our number
        staging.mkdir()
        yield staging
        sync_directory(staging)
        staging.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        if not _is_ours(error, staging):
            raise
        raise OSError(
            error.errno,
            f"cannot write {out}: {error.strerror or error}; nothing was left behind: "
            "free space, or choose another directory",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_ours(error: OSError, staging: Path) -> bool:
    """Tell an error of writing from one that the body met elsewhere; a failed write() names no file."""
    if error.filename is None:
        return True
    place = Path(os.fsdecode(error.filename))
    return place.is_relative_to(staging) or staging.is_relative_to(place)


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on disk for good."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
