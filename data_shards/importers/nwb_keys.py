"""The keys of an NWB file: what lies where, named by its path in the file.

A table's columns are keys of their own (`units/quality`); a column that points into another table also gives that
table's columns (`units/electrodes/location`), one that refers to groups
their attributes (`units/electrode_group/location`).
A series is one key, its samples in its unit, beside `SERIES/timestamps`, or `SERIES/starting_time` and `SERIES/rate`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.nwb_arrays import AtRows, Ragged, References, Scaled, Stored
from neurochorus.data_shards.importers.nwb_file import NwbFile, as_text, path_of

Entry = Stored | AtRows
SERIES_ARRAYS = ("data", "timestamps", "starting_time")
DEEPEST_TABLE = 2  # units point to electrodes, and those to their group; further hops name nothing of use


def all_entries(file: NwbFile) -> dict[str, Entry]:
    """Return every array of a file by its key, in the order of the file."""
    return dict(_group_entries(file, file.root, "", follow_links=True))


def _group_entries(file: NwbFile, group: Any, path: str, follow_links: bool) -> Iterator[tuple[str, Entry]]:
    if "colnames" in group.attributes:
        yield from ((f"{path}{name}", entry) for name, entry in table_entries(file, group))
        return
    children = dict(file.children(group))
    linked = {link.name for link in group.links.values()}
    if is_series(children):
        yield from _series_entries(file, group, children, path)
        children = {
            name: item for name, item in children.items() if name not in ("data", "timestamps", "starting_time")
        }
        follow_links = False
    for name, item in children.items():
        if hasattr(item, "groups"):
            # links to groups are mostly to devices and planes; a series may be shared by two modules
            if name not in linked or (follow_links and is_series(dict(file.children(item)))):
                yield from _group_entries(file, item, f"{path}{name}/", follow_links and name not in linked)
        else:
            yield from ((f"{path}{key}", entry) for key, entry in _array_entries(file, name, item, None, 0))


def is_series(children: dict[str, Any]) -> bool:
    """Return whether a group is a TimeSeries of whatever kind: samples, and times or a rate."""
    return (
        "data" in children
        and not hasattr(children["data"], "groups")
        and ("timestamps" in children or "starting_time" in children)
    )


def _series_entries(file: NwbFile, group: Any, children: dict[str, Any], path: str) -> Iterator[tuple[str, Entry]]:
    data, key = children["data"], path.rstrip("/")
    numbers = Stored(data.data)
    note = f"{as_text(group.attributes.get('neurodata_type', 'series'))} in {as_text(data.attributes.get('unit', '?'))}"
    note += _described(group)
    factor = float(data.attributes.get("conversion", 1.0))
    offset = float(data.attributes.get("offset", 0.0))
    channels = children.get("channel_conversion")
    if channels is not None:
        factor = factor * Stored(channels.data).read().astype(np.float64)
    if numbers.dtype == "text" or (np.all(factor == 1.0) and offset == 0.0):
        yield key, Stored(data.data, note)
    else:
        yield key, Scaled(data.data, f"{note}; scaled as the file says", factor=factor, offset=offset)
    if "timestamps" in children:
        yield f"{path}timestamps", Stored(children["timestamps"].data, "s")
    else:
        start = children["starting_time"]
        yield f"{path}starting_time", Stored(start.data, "s")
        yield f"{path}rate", Stored(np.float64(start.attributes.get("rate", np.nan)), "samples per second")


def table_entries(file: NwbFile, table: Any, depth: int = 0) -> Iterator[tuple[str, Entry]]:
    """Yield (name, entry) of the arrays of a table; NAME/COLUMN where a column points to rows or groups."""
    arrays = {name: item for name, item in file.children(table) if not hasattr(item, "groups")}
    for name, item in arrays.items():
        if _is_index(name, arrays):
            continue
        yield from _array_entries(file, name, item, arrays, depth)


def _is_index(name: str, arrays: dict[str, Any]) -> bool:
    return name.endswith("_index") and name.removesuffix("_index") in arrays and "target" in arrays[name].attributes


def _array_entries(
    file: NwbFile, name: str, item: Any, arrays: dict[str, Any] | None, depth: int
) -> Iterator[tuple[str, Entry]]:
    indexes, index = [], f"{name}_index"
    while arrays is not None and index in arrays and _is_index(index, arrays):
        indexes.append(arrays[index].data)
        index += "_index"
    note = as_text(item.attributes.get("description", ""))
    if indexes:
        stored: Stored = Ragged(item.data, f"ragged; {note}".rstrip("; "), indexes=indexes)
    elif hasattr(item.data, "get_object"):
        stored = References(item.data, note or "refers to groups")
    else:
        stored = Stored(item.data, note)
    yield name, stored
    if isinstance(stored, References):
        for attribute in stored.attributes():
            yield f"{name}/{attribute}", References(item.data, f"of the {name}", attribute=attribute)
    table = item.attributes.get("table")
    if hasattr(table, "groups") and file.holds(table) and depth < DEEPEST_TABLE:
        for column, entry in table_entries(file, table, depth + 1):
            yield f"{name}/{column}", AtRows(entry, stored, f"{column!r} of the rows of {path_of(table)} pointed to")


def _described(group: Any) -> str:
    text = as_text(group.attributes.get("description", ""))
    return "" if text in ("", "no description") else f"; {text}"
