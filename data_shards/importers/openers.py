"""Which format an importer's files have: how a path is opened as a Source.

Modules are imported when a file of their format is opened, so that a format's library is needed only by those who
use it.
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


def _open_npy(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.npy import NpyArrays

    return NpyArrays(path)


def _open_hdf5(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.hdf5 import Hdf5

    return Hdf5(path)


def _open_mat(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.mat import open_mat

    return open_mat(path)


def _open_csv(path: Path, recipe: Recipe) -> Source:
    from neurochorus.data_shards.importers.tables import Tables

    return Tables(path)


OPENERS: dict[str, Callable[[Path, Recipe], Source]] = {
    "npz": _open_npz,
    "nwb": _open_nwb,
    "phy": _open_phy,
    "suite2p": _open_suite2p,
    "npy": _open_npy,
    "hdf5": _open_hdf5,
    "mat": _open_mat,
    "csv": _open_csv,
}

FOLDERS: dict[str, tuple[str, ...]] = {
    "npy": (".npy",),
    "csv": (".csv", ".tsv", ".txt"),
    "phy": (),
    "suite2p": (),
    "nwb": (".nwb",),
}
"Importers whose sessions may be folders, and the endings of files that are sessions by themselves."


def open_source(path: Path, recipe: Recipe) -> Source:
    """Open a session's file or folder; ValueError if it is none of the importer's format."""
    if recipe.importer not in OPENERS:
        raise ValueError(f"importer {recipe.importer!r} reads no files; those that do: {', '.join(OPENERS)}")
    return OPENERS[recipe.importer](path, recipe)


def fits(path: Path, importer: str) -> bool:
    """Tell whether a path that matches a recipe's pattern can be a session: a file, or a folder where one may be."""
    if importer not in FOLDERS:
        return path.is_file()
    if path.is_dir():
        return not path.name.startswith(".")
    return path.suffix.lower() in FOLDERS[importer] and path.is_file()
