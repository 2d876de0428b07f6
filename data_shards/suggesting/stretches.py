"""Trials and observed stretches of an unknown file: tables of start and stop times."""

import re
from dataclasses import dataclass

import numpy as np

from neurochorus.data_shards.suggesting.arrays import Arrays, Seen
from neurochorus.data_shards.suggesting.document import Section
from neurochorus.data_shards.suggesting.signals import SignalGuess

START = re.compile(r"(.*?)_?(start|onset|begin)s?(_?times?)?(_s)?")
STOP = ("stop", "end", "offset")
OBSERVED = re.compile(r"domain|epoch|observ|valid|session|recorded|intervals$")
BAD = re.compile(r"(?<![a-z])(invalid|bad|artifacts?|artefacts?|excluded?|rejected)(?![a-z])", re.IGNORECASE)
"""In the name of a table of stretches that are no trials and were not recorded well: neither is guessed from it."""
MOST_LABELS = 6
MOST_VALUES = 100


@dataclass(frozen=True)
class Table:
    """Stretches from `start` to `stop`; `columns` are other arrays as long, in the same table."""

    start: Seen
    stop: Seen
    columns: list[Seen]
    seconds: float

    @property
    def keys(self) -> set[str]:
        return {self.start.key, self.stop.key, *(seen.key for seen in self.columns)}

    @property
    def is_observed(self) -> bool:
        return self.start.rows == 1 or (OBSERVED.search(self.start.table) is not None and "trial" not in self.start.key)


def find_tables(arrays: Arrays) -> list[Table]:
    """Return all tables of stretches, those of trials and large ones first."""
    found = []
    for start in arrays.of("if", 1):
        stop = _stop_of(arrays, start)
        if stop is None or BAD.search(f"{start.table.rpartition('/')[2]} {start.leaf}"):
            continue
        lengths = arrays.values(stop).astype(np.float64) - arrays.values(start).astype(np.float64)
        if not len(lengths) or not np.nanmedian(lengths) > 0:
            continue
        columns = [
            seen
            for seen in arrays.of("ifbU", 1)
            if seen.rows == start.rows and seen.table == start.table and seen not in (start, stop)
        ]
        found.append(Table(start, stop, columns, float(np.nanmax(lengths))))
    preferred = arrays.source.tables.get("trials")
    return sorted(found, key=lambda t: (t.start.table != preferred, "trial" not in t.start.key, -t.start.rows))


def _stop_of(arrays: Arrays, start: Seen) -> Seen | None:
    match = START.fullmatch(start.leaf)
    if match is None:
        return None
    before = start.key[: len(start.key) - len(start.leaf)]
    word = match.group(2)
    for stop in STOP:
        wanted = before.lower() + start.leaf.replace(word, stop, 1)
        for seen in arrays.of("if", 1):
            if seen.key.lower() == wanted and seen.rows == start.rows:
                return seen
    return None


def guess_trials(arrays: Arrays, tables: list[Table]) -> tuple[Section | None, Section, Table | None]:
    """Return the sections `trials` and `labels`, and the table that they are of."""
    trials = [table for table in tables if not table.is_observed]
    if not trials:
        return None, Section(), None
    chosen = trials[0]
    section = Section()
    inside = bool(chosen.start.table)
    if inside:
        section.add("table", chosen.start.table, f"{chosen.start.rows} stretches of about {chosen.seconds:.3g} s")
    section.add("start", _short(chosen.start, inside))
    section.add("stop", _short(chosen.stop, inside))
    section.comment("or a window around an event of each trial, instead of start and stop:")
    section.other("align", _short(chosen.start, inside))
    section.other("window_s", [-0.2, 0.8])
    for other in trials[1:]:
        section.comment(
            f"another table: {other.start.table or other.start.key}, {other.start.rows} stretches of about "
            f"{other.seconds:.3g} s"
        )
    labels = Section()
    for seen in chosen.columns:
        _add_label(arrays, labels, seen, inside)
    return section, labels, chosen


def guess_observed(tables: list[Table]) -> Section | None:
    for table in tables:
        if table.is_observed:
            section = Section()
            section.add("start", table.start.key)
            section.add("stop", table.stop.key)
            return section
    return None


def guess_labels(arrays: Arrays, guess: SignalGuess) -> Section:
    """Return labels for a signal that is by trial already: arrays with one value a trial."""
    section = Section()
    for seen in arrays.of("ifbU", 1):
        if seen.rows == guess.trials and seen.rows != guess.units and seen.key not in guess.used:
            _add_label(arrays, section, seen, False)
    return section


def _add_label(arrays: Arrays, section: Section, seen: Seen, short: bool) -> None:
    if seen.leaf in ("id", "tags") or seen.leaf.endswith(("_index", "timeseries")) or not len(arrays.values(seen)):
        return
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", _short(seen, True)).strip("_") or "label"
    values = set(arrays.values(seen).tolist())
    listed = len(values) <= MOST_VALUES and len(section.settings) < MOST_LABELS
    (section.add if listed and len(values) > 1 else section.other)(name, {"key": _short(seen, short)})


def _short(seen: Seen, inside: bool) -> str:
    """The key as the file spells it, without its table."""
    return seen.key[len(seen.key) - len(seen.leaf) :] if inside else seen.key
