"""Which format an importer's files have: how a path is opened as a Source.

Modules are imported when a file of their format is opened, so that a format's library is needed only by those who use it.
"""

from collections.abc import Callable
from pathlib import Path

from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.recipe import Recipe


def _open_npz(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.archive import Archive

    return Archive(path)


OPENERS: dict[str, Callable[[Path, Recipe], Source]] = {
    "npz": _open_npz,
}


def open_source(path: Path, recipe: Recipe) -> Source:
    """Open a session's file or folder; ValueError if it is none of the importer's format."""
    if recipe.importer not in OPENERS:
        raise ValueError(f"importer {recipe.importer!r} reads no files; those that do: {', '.join(OPENERS)}")
    return OPENERS[recipe.importer](path, recipe)
