"""What there is to import, one job a session: jobs can be counted, skipped, and done in any order and process."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """One session to import: a file or folder inside `source`, or session `number` of a synthetic recipe."""

    recipe: Recipe
    source: Path | None
    path: Path | None
    number: int

    @property
    def name(self) -> str:
        """The file's path inside the source, or the session's name."""
        if self.path is None or self.source is None:
            return session_names(self.recipe)[self.number][1]
        return self.path.name if self.path == self.source else str(self.path.relative_to(self.source))

    def key(self) -> str:
        """Return 24 hex digits that change with the recipe and with name, size and time of the files."""
        files = [] if self.path is None else [self.path, *_files_below(self.path)]
        states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        identity = [PART_VERSION, settings_to_dict(self.recipe), self.number if self.path is None else None, states]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]

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
    if recipe.importer == "synthetic":
        if source is not None:
            raise ValueError(f"recipe {recipe.name!r} is synthetic and reads no files: leave --source out")
        return [ImportJob(recipe, None, None, number) for number in range(len(session_names(recipe)))]
    paths = session_paths(recipe, source)
    return [ImportJob(recipe, source, path, number) for number, path in enumerate(paths)]


def _files_below(path: Path) -> Iterator[Path]:
    return (below for below in sorted(path.rglob("*")) if below.is_file())
