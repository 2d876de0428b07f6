"""Which row of the unit table belongs to which unit of which session, by name. Travels with a model as sessions.json.

Row 0 is padding. Sessions take consecutive rows in the order in which they were added, and adding more leaves the rows
of the old ones where they are. Session and subject numbers start at 1; 0 stands for unknown.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.recording import unit_hash

FORMAT_VERSION = 1
UNKNOWN = 0


@dataclass(frozen=True)
class SessionRows:
    """One session as a model knows it: `unit_ids[i]` has row `first_row + i` of the unit table."""

    session_id: str
    subject_id: str
    modality: str
    bin_s: float
    unit_ids: list[str]
    unit_hash: str
    first_row: int
    regions: list[str] | None = field(default=None, compare=False)
    """Region of each unit, "" where it is not known; None: not known of any, as in models of earlier versions."""

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {unit_id: self.first_row + place for place, unit_id in enumerate(self.unit_ids)}


@dataclass(frozen=True)
class UnitRegistry:
    """The sessions of a model, in the order in which they were added."""

    sessions: tuple[SessionRows, ...] = ()
    units_may_be_missing: bool = field(default=False, compare=False)
    """Whether `rows` takes data that lack some of a session's units; a use of a model, not part of what it is."""

    def with_units_missing(self) -> "UnitRegistry":
        """Return the same registry, whose `rows` takes data that lack some of a session's units."""
        return replace(self, units_may_be_missing=True)

    @classmethod
    def from_sessions(cls, entries: Iterable[SessionEntry]) -> "UnitRegistry":
        """Give rows to the units of these sessions, in this order."""
        return cls().append(entries)

    def append(self, entries: Iterable[SessionEntry]) -> "UnitRegistry":
        """Return a registry with more sessions; rows, session numbers and subject numbers so far stay as they are.

        Raises ValueError for a session id that is there already (it would be trained as two animals).
        """
        sessions, next_row, known = list(self.sessions), self.total_rows, set(self._places)
        for entry in entries:
            if entry.session_id in known:
                raise ValueError(
                    f"session {entry.session_id!r} is in the model already: a session is added once; "
                    "rename it in its recipe if it is another recording"
                )
            ids = entry.unit_ids
            if len(set(ids)) != len(ids):
                raise ValueError(f"session {entry.session_id!r}: unit ids are not unique: write the data set again")
            sessions.append(
                SessionRows(
                    session_id=entry.session_id,
                    subject_id=entry.subject_id,
                    modality=entry.modality,
                    bin_s=entry.bin_s,
                    unit_ids=ids,
                    unit_hash=unit_hash(ids),
                    first_row=next_row,
                    regions=regions_of(entry),
                )
            )
            known.add(entry.session_id)
            next_row += len(ids)
        return replace(self, sessions=tuple(sessions))

    @cached_property
    def total_rows(self) -> int:
        """Rows of the unit table: all units and the padding row."""
        return 1 + sum(len(session.unit_ids) for session in self.sessions)

    @property
    def bin_s(self) -> float:
        """Width of the bins in seconds that the sessions were trained in: data with narrower ones are brought to it."""
        return self.sessions[0].bin_s

    @cached_property
    def subjects(self) -> list[str]:
        """Subject ids in the order in which they first came; subject number i is subjects[i - 1]."""
        return list(dict.fromkeys(session.subject_id for session in self.sessions))

    def known_among(self, entries: Iterable[SessionEntry]) -> list[SessionEntry]:
        """Those of `entries` whose session ids are in the model, in their order; their units are not compared."""
        return [entry for entry in entries if entry.session_id in self._places]

    def session(self, session_id: str) -> SessionRows:
        """Return a session by id; an unknown one is a ValueError that says how to add it."""
        return self.sessions[self.session_index(session_id) - 1]

    def session_index(self, session_id: str) -> int:
        """Return the number of a session (from 1); an unknown one is a ValueError that says how to add it."""
        if session_id not in self._places:
            raise ValueError(
                f"the model does not know session {session_id!r}: run launch/finetune.py to add it; "
                f"{nearest_hint(session_id, self._places, 'sessions')}"
            )
        return self._places[session_id]

    def subject_index(self, subject_id: str) -> int:
        """Return the number of a subject (from 1); an unknown one is a ValueError naming the nearest."""
        if subject_id not in self._subject_places:
            raise ValueError(
                f"the model does not know subject {subject_id!r}: run launch/finetune.py to add its sessions; "
                f"{nearest_hint(subject_id, self._subject_places, 'subjects')}"
            )
        return self._subject_places[subject_id]

    def rows(self, entry: SessionEntry) -> np.ndarray:
        """Return the rows of a data set's units, int64 (C,), in the order of the data's columns, found by unit id.

        Raises ValueError where the model's session and the data's differ: unknown session, other units (more than the
        model knows, or fewer unless `units_may_be_missing`), other bin width, other modality, other subject.
        """
        own = self.session(entry.session_id)
        where = f"session {entry.session_id!r}"
        if entry.modality != own.modality:
            raise ValueError(
                f"{where}: the data are {entry.modality}, the model was trained on {own.modality}: "
                "use a data set of that modality, or another model"
            )
        if not math.isclose(entry.bin_s, own.bin_s, rel_tol=1e-9):
            raise ValueError(
                f"{where}: bins of the data are {entry.bin_s:g} s, the model was trained on {own.bin_s:g} s: "
                f"set data.bin_s to {own.bin_s:g} if that makes whole bins of the data's, or bin_s in the recipe"
            )
        if entry.subject_id != own.subject_id:
            raise ValueError(
                f"{where}: the data are of subject {entry.subject_id!r}, the model knows it as {own.subject_id!r}: "
                "rename the session in its recipe if it is another recording"
            )
        fewer = self.units_may_be_missing and entry.unit_hash == unit_hash(entry.unit_ids)
        fewer = fewer and bool(entry.unit_ids) and own.row_of.keys() > set(entry.unit_ids)
        same = entry.unit_hash == own.unit_hash == unit_hash(entry.unit_ids)
        if not (same or fewer):
            raise ValueError(_unit_difference(where, entry, own))
        return np.array([own.row_of[unit_id] for unit_id in entry.unit_ids], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for sessions.json."""
        return {"format_version": FORMAT_VERSION, "sessions": [asdict(session) for session in self.sessions]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "UnitRegistry":
        """Build a registry from what `to_json` gave; raises ValueError naming the session and what does not fit."""
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"sessions.json: format version {version!r}, this neurochorus reads {FORMAT_VERSION}: "
                "export the model again with the version that wrote it"
            )
        sessions, next_row = [], 1
        for place, item in enumerate(values.get("sessions", [])):
            try:
                session = SessionRows(**item)
            except TypeError as error:
                raise ValueError(f"sessions.json: session number {place + 1}: {error}") from None
            where = f"sessions.json: session {session.session_id!r}"
            if session.first_row != next_row:
                raise ValueError(
                    f"{where}: first_row is {session.first_row}, expected {next_row}: rows are consecutive; "
                    "the file was edited, take it from the export again"
                )
            if len(set(session.unit_ids)) != len(session.unit_ids) or unit_hash(session.unit_ids) != session.unit_hash:
                raise ValueError(f"{where}: unit_hash does not fit unit_ids: take the file from the export again")
            if session.regions is not None and len(session.regions) != len(session.unit_ids):
                raise ValueError(
                    f"{where}: {len(session.regions)} regions for {len(session.unit_ids)} units: take the "
                    "file from the export again"
                )
            sessions.append(session)
            next_row += len(session.unit_ids)
        ids = [session.session_id for session in sessions]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"sessions.json: session {repeated[0]!r} is listed twice")
        return cls(tuple(sessions))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {session.session_id: place for place, session in enumerate(self.sessions, start=1)}

    @cached_property
    def _subject_places(self) -> dict[str, int]:
        return {subject: place for place, subject in enumerate(self.subjects, start=1)}


def regions_of(entry: SessionEntry) -> list[str] | None:
    """Return the region of each unit as text, "" where the data set does not say; None when it says of none."""
    values = entry.units.columns.get("region")
    if values is None:
        return None
    texts = ["" if value is None or value != value else str(value) for value in values]  # NaN differs from itself
    return texts if any(texts) else None


def _unit_difference(where: str, entry: SessionEntry, own: SessionRows) -> str:
    theirs, ours = set(entry.unit_ids), set(own.unit_ids)
    new, gone = sorted(theirs - ours), sorted(ours - theirs)
    if not new and not gone:
        return (
            f"{where}: unit_hash {entry.unit_hash} does not fit its unit ids: the manifest was edited; write it again"
        )
    parts = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for names, what in ((new, "only in the data"), (gone, "only in the model"))
        if names
    ]
    return (
        f"{where}: other units than the model was trained on (hash {entry.unit_hash}, model {own.unit_hash}): "
        f"of {len(theirs)} units in the data and {len(ours)} in the model {' and '.join(parts)}; "
        "use the data set that the model was trained on, or give the session a new id and run launch/finetune.py"
    )
