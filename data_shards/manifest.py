"""manifest.json: what a data set directory holds. It is written last, so a directory without one is not a data set."""

import fnmatch
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurochorus.data_shards.manifest_text import FORMAT_VERSION, Parsed, digest_of, manifest_text, parse_manifest
from neurochorus.data_shards.naming import check_identifier, nearest_hint
from neurochorus.data_shards.settings import SettingsError, parse_settings, settings, settings_to_dict
from neurochorus.data_shards.strict_json import nested_too_deeply
from neurochorus.data_shards.unit_columns import UnitColumns

MANIFEST_FILE = "manifest.json"
_SHARD_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")


@settings
class SessionFacts:
    """What of a session is small, however many units it has."""

    session_id: str
    subject_id: str
    modality: Literal["spikes", "continuous"]
    bin_s: float
    "Width of a bin in seconds."
    unit_hash: str
    "recording.unit_hash of the unit ids."
    covariates: dict[str, int]
    "Name -> width; a sample's covariates are these in sorted name order, side by side."
    train_bins: int

    def problems(self) -> list[str]:
        found = []
        if not 0 < self.bin_s < math.inf:
            found.append(f"{self.session_id!r}: bin_s: {self.bin_s}; expected a positive number of seconds")
        if min(self.covariates.values(), default=1) < 1:
            found.append(f"{self.session_id!r}: covariates: {self.covariates}; expected widths of at least 1")
        # names that could be read as a path, or as something else than a name
        names = [("session_id", self.session_id), ("subject_id", self.subject_id)]
        for kind, name in [*names, *(("covariate", name) for name in self.covariates)]:
            try:
                check_identifier(kind, name)
            except ValueError as error:
                found.append(str(error))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionEntry(SessionFacts):
    units: UnitColumns
    "One row a column of the signal, in its order: unit_id, region and free columns."
    unit_mean: np.ndarray
    "Float64 (C,): mean per bin over the train split."
    unit_sd: np.ndarray
    "Float64 (C,): standard deviation per bin over the train split (0 for a silent unit)."
    provenance: dict[str, Any]
    "Source, sha256, importer, licence, how it was binned, what was dropped."

    def __post_init__(self) -> None:
        if not isinstance(self.units, UnitColumns):
            object.__setattr__(self, "units", UnitColumns.from_rows(self.units))
        for name in ("unit_mean", "unit_sd"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionEntry) and self.to_json() == other.to_json()

    @property
    def unit_ids(self) -> list[str]:
        return self.units.ids

    @property
    def covariate_slices(self) -> dict[str, slice]:
        """Covariate -> its columns in a sample's `covariates_TK`."""
        slices, first = {}, 0
        for name in sorted(self.covariates):  # the order in which the writer puts them side by side
            slices[name] = slice(first, first + self.covariates[name])
            first += self.covariates[name]
        return slices

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain values, the units as columns."""
        facts = {name: getattr(self, name) for name in SessionFacts.__dataclass_fields__}
        bulk = {
            "units": self.units.to_json(),
            "unit_mean": self.unit_mean.tolist(),
            "unit_sd": self.unit_sd.tolist(),
            "provenance": self.provenance,
        }
        return facts | bulk


@settings
class ShardEntry:
    file: str
    samples: int
    bytes: int
    sha256: str

    def problems(self) -> list[str]:
        found = []
        if not _SHARD_FILE.fullmatch(self.file):
            found.append(f"{self.file!r} is not a plain file name inside the data set directory (NAME.tar)")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            found.append(f"{self.file!r}: sha256 is {self.sha256[:70]!r}; expected 64 hexadecimal digits")
        if self.samples < 0 or self.bytes < 0:
            found.append(f"{self.file!r}: {self.samples} samples, {self.bytes} bytes; expected 0 or more")
        return found


@settings
class ManifestFacts:
    """A manifest as it is checked: all but the sessions' columns."""

    format_version: int = FORMAT_VERSION
    name: str
    sessions: list[SessionFacts]
    shards: list[ShardEntry]
    splits: dict[str, dict[str, int]]
    "Split -> {samples, bins}, over all sessions."
    provenance: dict[str, Any]

    def problems(self) -> list[str]:
        counts = Counter(entry.session_id for entry in self.sessions)
        found = [f"sessions: {name!r} is listed twice" for name in sorted(counts) if counts[name] > 1]
        files = Counter(shard.file for shard in self.shards)
        found += [f"shards: {file!r} is listed twice" for file in sorted(files) if files[file] > 1]
        if nested_too_deeply(self.provenance):
            found.append("provenance: nested too deeply")
        return found


@dataclass(frozen=True, kw_only=True)
class Manifest:
    format_version: int = FORMAT_VERSION
    name: str
    sessions: list[SessionEntry]
    shards: list[ShardEntry]
    splits: dict[str, dict[str, int]]
    "Split -> {samples, bins}, over all sessions."
    provenance: dict[str, Any]

    def session(self, session_id: str) -> SessionEntry:
        """Return the entry of one session; an unknown id is a ValueError with the nearest ones."""
        for entry in self.sessions:
            if entry.session_id == session_id:
                return entry
        known = [entry.session_id for entry in self.sessions]
        raise ValueError(
            f"data set {self.name!r} has no session {session_id!r}; {nearest_hint(session_id, known, 'sessions')}"
        )

    def hash(self) -> str:
        """Return 16 hex digits of the sha256 of the manifest as a file: they change with anything in it."""
        if "_digest" not in self.__dict__:
            self.__dict__["_digest"] = digest_of(self._text().encode())
        return self.__dict__["_digest"]

    def save(self, path: str | Path) -> None:
        """Write the manifest atomically: `path` holds either what it held before or all of this."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.partial")
        text = self._text().encode()
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Manifest":
        """Read a manifest; `path` is the file or its directory. Raises ValueError naming the file and every problem."""
        path = Path(path)
        if path.is_dir():
            path = path / MANIFEST_FILE
        if not path.is_file():
            raise ValueError(
                f"{path}: no manifest there, so this is not a finished data set: check the path, "
                "or make one with `python launch/shard.py --recipe RECIPE --source DIR --out DIR`"
            )
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Manifest":
        """Build a manifest from the bytes of its file; `where` names it in the ValueError of every problem."""
        digest = digest_of(data)
        parsed = parse_manifest(data, where)
        del data
        manifest = cls(**_checked(parsed, where))
        manifest.__dict__["_digest"] = digest
        return manifest

    def _text(self) -> str:
        head = {
            "name": self.name,
            "shards": [settings_to_dict(shard) for shard in self.shards],
            "splits": self.splits,
            "provenance": self.provenance,
        }
        return manifest_text(head, (entry.to_json() for entry in self.sessions))


def _checked(parsed: Parsed, where: str) -> dict[str, Any]:
    """Return the fields of a Manifest from a file's values; SettingsError names all that does not fit."""
    facts = parse_settings(ManifestFacts, parsed.values, where)
    problems, entries = list(parsed.problems), []
    for session, bulk in zip(facts.sessions, parsed.bulk):
        missing = [name for name in ("units", "unit_mean", "unit_sd", "provenance") if name not in bulk]
        problems += [f"sessions: {session.session_id!r}: {name}: missing" for name in missing]
        for name in ("unit_mean", "unit_sd"):
            if not missing and len(bulk[name]) != len(bulk["units"]):
                found = f"{len(bulk[name])} values for {len(bulk['units'])} units"
                problems.append(f"{session.session_id!r}: {name}: {found}")
        if not missing:
            entries.append(SessionEntry(**session.__dict__, **bulk))
    if problems:
        raise SettingsError(where, problems)
    fields = {name: getattr(facts, name) for name in ("format_version", "name", "shards", "splits", "provenance")}
    return fields | {"sessions": entries}


def select_sessions(
    entries: Iterable[SessionEntry], include: list[str] | None = None, exclude: Iterable[str] = ()
) -> list[str]:
    """Return the ids of the sessions that `include` matches (None: all) and `exclude` does not, in their order.

    A pattern is matched against session ids (`steinmetz_s0*`), or against subject ids after `subject:`. A pattern that
    matches nothing, or a selection that leaves nothing, is a ValueError.
    """
    entries = list(entries)
    chosen = set(_matching(entries, ["*"] if include is None else include))
    chosen -= _matching(entries, exclude)
    if not chosen:
        raise ValueError(f"no session is left of {len(entries)}: include {include}, exclude {list(exclude)}")
    return [entry.session_id for entry in entries if entry.session_id in chosen]


def _matching(entries: list[SessionEntry], patterns: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        by_subject = pattern.startswith("subject:")
        wanted = pattern.removeprefix("subject:")
        names = {entry.session_id: entry.subject_id if by_subject else entry.session_id for entry in entries}
        matches = {session for session, name in names.items() if fnmatch.fnmatchcase(name, wanted)}
        if not matches:
            kind = "subjects" if by_subject else "sessions"
            raise ValueError(
                f"the pattern {pattern!r} matches none of the {kind}; {nearest_hint(wanted, set(names.values()), kind)}"
            )
        found |= matches
    return found
