"""The text of a manifest: JSON with one session a line, and what is long about a session as columns.

A corpus has millions of units, so a session's columns are read straight into arrays, one line at a time, and only
the rest is checked field by field. Version 1 (one dict a unit, all in one line) is still read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurochorus.data_shards.settings import SettingsError
from neurochorus.data_shards.strict_json import nested_too_deeply, parse_json
from neurochorus.data_shards.unit_columns import UnitColumns

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
BULK = ("units", "unit_mean", "unit_sd", "provenance")
_OPEN, _CLOSE = b'"sessions":[\n', b"\n],"


@dataclass
class Parsed:
    """`values`: the manifest without the long parts of its sessions, which are in `bulk`, one mapping a session."""

    values: dict[str, Any]
    bulk: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def manifest_text(head: dict[str, Any], sessions: Iterable[dict[str, Any]]) -> str:
    """Return the text of a manifest; equal values give equal text."""
    lines = ",\n".join(_canonical(session) for session in sessions)
    return (
        f'{{"format_version":{FORMAT_VERSION},"name":{_canonical(head["name"])},'
        f'{_OPEN.decode()}{lines}{_CLOSE.decode()}"shards":{_canonical(head["shards"])},'
        f'"splits":{_canonical(head["splits"])},"provenance":{_canonical(head["provenance"])}}}\n'
    )


def digest_of(data: bytes) -> str:
    """Return 16 hex digits of the sha256 of a manifest's text without its last newline."""
    return hashlib.sha256(memoryview(data)[: len(data) - data.endswith(b"\n")]).hexdigest()[:16]


def parse_manifest(data: bytes, where: str) -> Parsed:
    """Return the values of a manifest's text; ValueError names `where`, and the fix, when it cannot be read."""
    head, sessions = _split(data)
    values = _values(head, where)
    _check_version(values, where)
    texts: dict[str, str] = {}
    parsed = Parsed(values)
    if not isinstance(listed := values.get("sessions"), list):
        return parsed
    values["sessions"] = []
    for place, session in enumerate(listed if sessions is None else (_values(line, where) for line in sessions)):
        _take_bulk(parsed, session, place, texts)
    return parsed


def _values(data: bytes, where: str) -> Any:
    try:
        return parse_json(data, finite=False)
    except ValueError as error:
        raise ValueError(f"{where}: {error}: write the data set again") from None


def _split(data: bytes) -> tuple[bytes, Iterator[bytes] | None]:
    """Return a manifest with its sessions taken out, and those one by one; (all of it, None) when laid out otherwise.

    A newline inside a JSON text is escaped, so a line of a session is a whole one.
    """
    start = data.find(_OPEN, 0, 4096)
    end = data.rfind(_CLOSE)
    if start < 0 or end < start + len(_OPEN):
        return data, None
    return data[: start + len(_OPEN)] + data[end:], _lines(data, start + len(_OPEN), end)


def _lines(data: bytes, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        stop = data.find(b",\n", start, end)
        stop = end if stop < 0 else stop
        yield data[start:stop]
        start = stop + 2


def _check_version(values: Any, where: str) -> None:
    if not isinstance(values, dict):
        raise SettingsError(where, [f"expected a mapping, found {type(values).__name__}"])
    if values.get("format_version") not in READABLE_VERSIONS:
        raise ValueError(
            f"{where}: format version {values.get('format_version')!r}; this neurochorus reads versions "
            f"{' and '.join(map(str, READABLE_VERSIONS))}: write the data set again with launch/shard.py, "
            "or use the neurochorus that wrote it"
        )


def _take_bulk(parsed: Parsed, session: Any, place: int, texts: dict[str, str]) -> None:
    """Move the long parts of a session from its values into `parsed.bulk`, as arrays."""
    bulk: dict[str, Any] = {}
    if isinstance(session, dict):
        for name in [name for name in BULK if name in session]:
            try:
                bulk[name] = _bulk_value(name, session.pop(name), texts)
            except ValueError as error:
                parsed.problems.append(f"sessions: {session.get('session_id', place)!r}: {error}")
                bulk[name] = []
    parsed.values["sessions"].append(session)
    parsed.bulk.append(bulk)


def _bulk_value(name: str, value: Any, texts: dict[str, str]) -> Any:
    if name == "provenance":
        if not isinstance(value, dict):
            raise ValueError(f"{name}: expected a mapping, found {type(value).__name__}")
        if nested_too_deeply(value):
            raise ValueError(f"{name}: nested too deeply")
        return value
    if name == "units":
        if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
            return UnitColumns(value, texts)
        if isinstance(value, list) and all(isinstance(row, dict) for row in value):
            return UnitColumns.from_rows(value, texts)
        raise ValueError(f"{name}: expected a mapping of columns, found {type(value).__name__}")
    if not isinstance(value, list) or not set(map(type, value)) <= {float, int}:
        raise ValueError(f"{name}: expected a list of numbers")
    numbers = np.array(value, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: holds a number that is too large")
    return numbers


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
