"""Fixtures that every folder of tests may use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Give a function from the name of a folder of real recordings to its path; without it the test is skipped."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("NEUROCHORUS_DATA") or SHARED_DATA)
        if not (root / name).is_dir():
            pytest.skip(f"no recordings at {root / name}: set NEUROCHORUS_DATA to the directory that holds {name}")
        return root / name

    return find
