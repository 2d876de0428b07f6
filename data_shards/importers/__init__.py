"""Importers: files of one kind, read as a recipe says, into Recordings."""

from collections.abc import Iterator
from pathlib import Path

from neurochorus.data_shards.importers.session import import_files, import_session, session_paths
from neurochorus.data_shards.importers.synthetic import import_synthetic, session_names
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import Recording

__all__ = ["count_recordings", "import_recordings", "import_session", "session_paths"]


def import_recordings(recipe: Recipe, source: str | Path | None = None) -> Iterator[Recording]:
    """Yield the recordings of a recipe one at a time; `source` is the directory of the files, None for synthetic ones.

    Raises ValueError naming the file, key or session, what was found and what was expected.
    """
    if recipe.importer != "synthetic":
        return import_files(recipe, source)
    if source is not None:
        raise ValueError(f"recipe {recipe.name!r} is synthetic and reads no files: leave --source out")
    return import_synthetic(recipe)


def count_recordings(recipe: Recipe, source: str | Path | None = None) -> int:
    """Return how many recordings `import_recordings` will yield."""
    if recipe.importer != "synthetic":
        return len(session_paths(recipe, source))
    return len(session_names(recipe))
