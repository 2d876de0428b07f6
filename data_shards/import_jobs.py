"""What there is to import, one job a session: jobs can be counted, skipped, and done in any order and process."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurochorus.data_shards.importers import import_session, session_paths
from neurochorus.data_shards.importers.openers import open_source
from neurochorus.data_shards.importers.synthetic import session_names, synthetic_session
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import settings_to_dict

PART_VERSION = 1
"""Number of the way in which sessions are imported and cut: raise it when that changes, so that parts of an interrupted
import by an older neurochorus are made again."""


@dataclass(frozen=True)
class ImportJob:
    """One session to import: the file or folder `path`, or session `number` of a synthetic recipe.

    `name` is the path inside the source, or the session's id; `recipe_hash` changes with anything in the recipe.
    """

    recipe: Recipe
    recipe_hash: str
    name: str
    path: Path | None
    number: int

    def key(self) -> str:
        """Return 24 hex digits that change with the recipe and with name, size and time of the files."""
        files = [] if self.path is None else [self.path, *_files_below(self.path)]
        states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        identity = [PART_VERSION, self.recipe_hash, self.number if self.path is None else None, states]
        return _hash(identity)[:24]

    def sha256(self) -> str | None:
        """Return the sha256 that a recording's provenance will hold; None for a synthetic session."""
        if self.path is None:
            return None
        with open_source(self.path, self.recipe) as opened:
            return opened.sha256()

    def run(self) -> Recording:
        """Import the session; ValueError names the file and the key."""
        if self.path is None:
            return synthetic_session(self.recipe, self.number)
        return import_session(self.path, self.recipe)


def import_jobs(recipe: Recipe, source: Path | None) -> list[ImportJob]:
    """Return a job for each session, in the order of the data set. ValueError when there are no files."""
    recipe_hash = _hash(settings_to_dict(recipe))
    if recipe.importer == "synthetic":
        if source is not None:
            raise ValueError(f"recipe {recipe.name!r} is synthetic and reads no files: leave --source out")
        names = [session for _, session in session_names(recipe)]
        return [ImportJob(recipe, recipe_hash, name, None, number) for number, name in enumerate(names)]
    paths = session_paths(recipe, source)
    assert source is not None
    names = [path.name if path == source else str(path.relative_to(source)) for path in paths]
    return [ImportJob(recipe, recipe_hash, name, path, 0) for name, path in zip(names, paths)]


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _files_below(path: Path) -> Iterator[Path]:
    return (below for below in sorted(path.rglob("*")) if below.is_file())
