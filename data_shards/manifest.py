"""manifest.json: what a data set directory holds. It is written last, so a directory without one is not a data set."""

import fnmatch
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.settings import SettingsError, parse_settings, settings, settings_to_dict

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


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
        return found


@settings
class ShardEntry:
    file: str
    samples: int
    bytes: int
    sha256: str


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
        found = [f"sessions: {name!r} is listed twice" for name, count in sorted(Counter(ids).items()) if count > 1]
        for shard in self.shards:
            if Path(shard.file).name != shard.file:
                found.append(f"shards: {shard.file!r} is not a plain file name inside the data set directory")
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
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}): write the data set again") from None
        if not isinstance(values, dict):
            raise SettingsError(str(path), [f"expected a mapping, found {type(values).__name__}"])
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path}: format version {version!r}; this neurochorus reads version {FORMAT_VERSION}: "
                "write the data set again with launch/shard.py, or use the neurochorus that wrote it"
            )
        return parse_settings(cls, values, str(path))


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


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
