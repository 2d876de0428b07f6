"""Values of a JSON file, checked as they are read: what is wrong is named with its file and its place in it."""

import math
from pathlib import Path
from typing import Any

import numpy as np


def need(path: Path, content: dict[str, Any], key: str, kind: type, place: str = "") -> Any:
    """The value of a key. Raises ValueError where it is missing or no `kind`."""
    name = f"{place}.{key}" if place else key
    if key not in content:
        raise ValueError(f"{path} has no {name}: make it with launch/evaluate.py")
    if not isinstance(content[key], kind):
        raise ValueError(f"{path}: {name} is {content[key]!r}, expected {kind.__name__}")
    return content[key]


def as_object(path: Path, name: str, value: Any) -> dict[str, Any]:
    """Raises ValueError for anything but an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name} is a {type(value).__name__}, expected an object")
    return value


def as_list(path: Path, name: str, value: Any) -> list[Any]:
    """Raises ValueError for anything but a list."""
    if not isinstance(value, list):
        raise ValueError(f"{path}: {name} is a {type(value).__name__}, expected a list")
    return value


def as_number(path: Path, name: str, value: Any) -> float:
    """null (undefined, such as the standard error of one session) becomes NaN; ValueError for what is no number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{path}: {name} is {value!r}, expected a number")
    return float(value)


def as_numbers(path: Path, name: str, value: Any) -> np.ndarray:
    """A number, or lists of lists of numbers of equal length, as an array. Raises ValueError for anything else."""
    if not isinstance(value, list):
        return np.array(as_number(path, name, value))
    parts = [as_numbers(path, f"{name}[{place}]", part) for place, part in enumerate(value)]
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"{path}: {name} holds lists of different lengths")
    return np.stack(parts) if parts else np.zeros(0)
