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


def _open_nwb(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.nwb import NwbSource

    return NwbSource(path)


def _open_phy(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.phy import PhySource

    return PhySource(path, keep_noise="'noise'" in (recipe.units.where or "").replace('"', "'"))


def _open_suite2p(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.suite2p import Suite2pSource

    return Suite2pSource(path)


OPENERS: dict[str, Callable[[Path, Recipe], Source]] = {
    "npz": _open_npz,
    "nwb": _open_nwb,
    "phy": _open_phy,
    "suite2p": _open_suite2p,
}


def open_source(path: Path, recipe: Recipe) -> Source:
    """Open a session's file or folder; ValueError if it is none of the importer's format."""
    if recipe.importer not in OPENERS:
        raise ValueError(f"importer {recipe.importer!r} reads no files; those that do: {', '.join(OPENERS)}")
    return OPENERS[recipe.importer](path, recipe)
