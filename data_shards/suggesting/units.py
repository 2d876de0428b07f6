"""What an unknown file says of its units: ids, regions, further columns."""

import re

from neurochorus.data_shards.naming import IDENTIFIER, LONGEST
from neurochorus.data_shards.suggesting.arrays import Arrays, Seen
from neurochorus.data_shards.suggesting.document import Section
from neurochorus.data_shards.suggesting.signals import SignalGuess

ID = re.compile(r"(unit|cluster|cell|neuron|roi|channel)?_?(ids?|names?|labels?)")
REGION = re.compile(r"region|area|location|structure|acronym|brain|^roi_name$|electrode_group$")
QUALITY = re.compile(r"quality|group|kslabel|label")
UNKNOWN = {"", "unknown", "nan", "None", "n/a"}
MOST_COLUMNS = 6


def guess_units(arrays: Arrays, guess: SignalGuess, taken: set[str]) -> Section:
    """Return the section `units`; `taken` are keys that are something else."""
    section = Section()
    free = [seen for seen in arrays.of("ifbU") if guess.units in seen.shape and seen.key not in guess.used | taken]
    table = arrays.source.tables.get("units")
    if table is not None:
        free = [seen for seen in free if seen.key.startswith(f"{table}/")]
    columns = [seen for seen in free if len(seen.shape) == 1]
    if table is not None and columns:
        section.add("table", table, "keys below may leave it out")
    chosen_id = _id(arrays, section, columns)
    chosen_region = _region(arrays, section, columns)
    rest = [seen for seen in columns if seen not in (chosen_id, chosen_region) and _varies(arrays, seen)]
    named = Section()
    for seen in rest[:MOST_COLUMNS]:
        named.add(_name(seen), {"key": seen.key})
    for seen in rest[MOST_COLUMNS:]:
        named.other(_name(seen), {"key": seen.key})
    for seen in free:
        if len(seen.shape) == 2 and min(seen.shape) <= 3 and seen.kind in "if":
            for at in range(min(seen.shape)):
                named.add(f"{_name(seen)}_{'xyz'[at]}", {"key": seen.key, "at": at})
    if named:
        section.add("columns", named, f"arrays with one value for each of {guess.units} units")
    _conditions(arrays, section, rest)
    return section


def _id(arrays: Arrays, section: Section, columns: list[Seen]) -> Seen | None:
    for seen in columns:
        values = arrays.values(seen)
        names = [str(value) for value in values.tolist()]
        unique = len(set(names)) == len(names)
        if not ID.fullmatch(seen.leaf) or seen.kind not in "iU" or not unique or not names:
            continue
        if all(IDENTIFIER.fullmatch(name) and len(name) <= LONGEST for name in names):
            section.add("id", {"key": seen.key}, f"unique, such as {names[0]}")
            return seen
        section.add("id", {"key": seen.key}, f"unique, such as {names[0]!r}")
        section.add("id_replace", "_", "ids may hold letters, digits, _ and - only: others are replaced")
        return seen
    section.comment("no array of unit ids was found: they are numbered by position")
    return None


def _region(arrays: Arrays, section: Section, columns: list[Seen]) -> Seen | None:
    texts = [seen for seen in columns if seen.kind == "U" and REGION.search(seen.leaf)]
    texts = [seen for seen in texts if set(map(str, arrays.values(seen).tolist())) - UNKNOWN]
    for seen in sorted(texts, key=lambda seen: ("location" not in seen.leaf, len(seen.key))):
        names = sorted(set(map(str, arrays.values(seen).tolist())))
        section.add("region", {"key": seen.key}, f"{len(names)} different, such as {', '.join(names[:3])}")
        for other in texts:
            if other is not seen:
                section.other("region", {"key": other.key})
        return seen
    for scalar in arrays.scalars:
        if scalar.kind == "U" and REGION.search(scalar.leaf) and IDENTIFIER.fullmatch(scalar.leaf):
            section.add("region", "{" + scalar.key + "}", f"one for all units: {arrays.scalar(scalar)}")
            return None
    section.comment("no region was found: region: NAME gives all units one")
    return None


def _varies(arrays: Arrays, seen: Seen) -> bool:
    values = arrays.values(seen)
    dull = seen.leaf == "id" or seen.leaf.endswith(("_index", "filtering"))
    return not dull and len(values) > 0 and bool((values != values[0]).any())


def _conditions(arrays: Arrays, section: Section, columns: list[Seen]) -> None:
    for seen in columns:
        if seen.kind == "U" and QUALITY.search(seen.leaf) and "good" in arrays.values(seen).tolist():
            section.other("where", f"{seen.leaf} == 'good'", "keeps good units only")
    section.other("min_rate", 0.1, "leaves out units with fewer spikes per second")


def _name(seen: Seen) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", seen.leaf).strip("_") or "column"
    return f"{name}_" if name in ("unit_id", "region", "id") else name
