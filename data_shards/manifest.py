"""manifest.json: what a data set directory holds. It is written last, so a directory without one is not a data set."""

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from neurochorus.data_shards.naming import check_identifier, nearest_hint
from neurochorus.data_shards.settings import parse_settings, settings, settings_to_dict
from neurochorus.data_shards.strict_json import nested_too_deeply, parse_mapping

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
_SHARD_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")


@settings
class SessionEntry:
    session_id: str
    subject_id: str
    modality: Literal["spikes", "continuous"]
    bin_s: float
    "Width of a bin in seconds."
    unit_hash: str
    "recording.unit_hash of the unit ids."
    units: list[dict[str, str | float]]
    "One a column of the signal, in its order: unit_id, region and free columns."
    covariates: dict[str, int]
    "Name -> width; a sample's covariates are these in sorted name order, side by side."
    unit_mean: list[float]
    "Per unit: mean per bin over the train split."
    unit_sd: list[float]
    "Per unit: standard deviation per bin over the train split (0 for a silent unit)."
    train_bins: int
    provenance: dict[str, Any]
    "Source, sha256, importer, licence, how it was binned."

    @property
    def unit_ids(self) -> list[str]:
        return [str(unit["unit_id"]) for unit in self.units]

    @property
    def covariate_slices(self) -> dict[str, slice]:
        """Covariate -> its columns in a sample's `covariates_TK`."""
        slices, first = {}, 0
        for name in sorted(self.covariates):  # the order in which the writer puts them side by side
            slices[name] = slice(first, first + self.covariates[name])
            first += self.covariates[name]
        return slices

    def problems(self) -> list[str]:
        count = len(self.units)
        found = [
            f"{self.session_id!r}: units[{i}]: has no unit_id"
            for i, unit in enumerate(self.units)
            if "unit_id" not in unit
        ]
        for name in ("unit_mean", "unit_sd"):
            if len(getattr(self, name)) != count:
                found.append(f"{self.session_id!r}: {name}: {len(getattr(self, name))} values for {count} units")
        if not self.bin_s > 0:
            found.append(f"{self.session_id!r}: bin_s: {self.bin_s}; expected a positive number of seconds")
        if min(self.covariates.values(), default=1) < 1:
            found.append(f"{self.session_id!r}: covariates: {self.covariates}; expected widths of at least 1")
        if nested_too_deeply(self.provenance):
            found.append(f"{self.session_id!r}: provenance: nested too deeply")
        return found + self._name_problems()

    def _name_problems(self) -> list[str]:
        """Ids that could be read as a path, or as something else than a name."""
        names = [("session_id", self.session_id), ("subject_id", self.subject_id)]
        found = []
        for kind, name in [*names, *(("covariate", name) for name in self.covariates)]:
            try:
                check_identifier(kind, name)
            except ValueError as error:
                found.append(str(error))
        return found


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
class Manifest:
    format_version: int = FORMAT_VERSION
    name: str
    sessions: list[SessionEntry]
    shards: list[ShardEntry]
    splits: dict[str, dict[str, int]]
    "Split -> {samples, bins}, over all sessions."
    provenance: dict[str, Any]

    def problems(self) -> list[str]:
        ids = [entry.session_id for entry in self.sessions]
        found = [
            f"sessions: {name!r} is listed twice" for name in sorted({name for name in ids if ids.count(name) > 1})
        ]
        files = [shard.file for shard in self.shards]
        if len(set(files)) != len(files):
            twice = next(file for file in files if files.count(file) > 1)
            found.append(f"shards: {twice!r} is listed twice")
        if nested_too_deeply(self.provenance):
            found.append("provenance: nested too deeply")
        return found

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
        """Return 16 hex digits that change with anything in the manifest."""
        return hashlib.sha256(_canonical(settings_to_dict(self)).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the manifest atomically: `path` holds either what it held before or all of this."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_canonical(settings_to_dict(self)) + "\n")
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
        try:
            values = parse_mapping(data)
        except ValueError as error:
            raise ValueError(f"{where}: {error}: write the data set again") from None
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{where}: format version {version!r}; this neurochorus reads version {FORMAT_VERSION}: "
                "write the data set again with launch/shard.py, or use the neurochorus that wrote it"
            )
        return parse_settings(cls, values, where)


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


def is_as_saved(data: bytes) -> bool:
    """Tell whether the bytes of a manifest are those that `Manifest.save` writes for the values they hold."""
    return data == (_canonical(json.loads(data)) + "\n").encode()


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
