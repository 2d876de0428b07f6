"""Adding sessions to a data set without touching its shards.

New shards get new numbers and are moved in first: no manifest names them yet. Then comes the new index, under a name
with the hash of the new manifest, and then manifest.json is replaced, which is the moment at which the new data set is
there. Last, the index takes its usual name. A kill in between leaves the old data set, with files that nothing names
and that the next extension removes, or the new one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurochorus.data_shards.import_jobs import ImportJob
from neurochorus.data_shards.index import INDEX_FILE, Index, pending_index_file
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest, SessionEntry
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.data_shards.staging import sync_directory

OUR_FILES = re.compile(r"shard-\d{6,}\.tar|index-[0-9a-f]{16}\.npz")
SAME_RULES = ("name", "bin_s", "sample_bins", "modality")


@dataclass(frozen=True)
class OldDataset:
    """The data set that is to be extended; `entries` maps a session id to its entry, `files` a sha256 to a session."""

    path: Path
    manifest: Manifest
    index: Index
    entries: dict[str, SessionEntry]
    files: dict[str, str]

    def session_of(self, job: ImportJob) -> str | None:
        """Return the session that was made of exactly this file, if there is one."""
        if not self.files:
            return None
        return self.files.get(job.sha256() or "")

    def holds(self, entry: SessionEntry) -> bool:
        """Tell whether a session of this id is there that was made of the same recording."""
        there = self.entries[entry.session_id]
        if "sha256" in entry.provenance or "sha256" in there.provenance:
            return entry.provenance.get("sha256") == there.provenance.get("sha256")
        return entry.to_json() == there.to_json()

    def difference(self, entry: SessionEntry) -> str:
        """Say that another recording has the id of this session."""
        mine, there = (
            str(one.provenance.get("sha256", "none"))[:12] for one in (entry, self.entries[entry.session_id])
        )
        return (
            f"session {entry.session_id!r} is in {self.path} already, made of another file (sha256 {there}... there, "
            f"{mine}... here): give it another session_id if it is another recording, or write the data set anew"
        )

    def extended_provenance(self, recipe: Recipe, added: list[str]) -> dict[str, Any]:
        """Return the provenance with this extension: the recipe, where it is not that of the data set, and sessions."""
        entry: dict[str, Any] = {"sessions": added}
        values = settings_to_dict(recipe)
        if values != self.manifest.provenance.get("recipe"):
            entry["recipe"] = values
        return self.manifest.provenance | {"extensions": [*self.manifest.provenance.get("extensions", []), entry]}


def read_old(path: Path, recipe: Recipe) -> OldDataset:
    """Return the data set to extend, put in order after an interrupted extension.

    ValueError when there is none, or when it was made by other rules than the recipe's.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no data set to extend: leave --extend out to make one")
    manifest = Manifest.load(path)
    _refuse_other_rules(path, manifest, recipe)
    _tidy(path, manifest)
    index = Index.load(path, manifest.hash())
    entries = {entry.session_id: entry for entry in manifest.sessions}
    files = {str(entry.provenance["sha256"]): name for name, entry in entries.items() if "sha256" in entry.provenance}
    return OldDataset(path, manifest, index, entries, files)


def publish_extension(files: Path, out: Path, old: Manifest, new: Manifest) -> None:
    """Move what `files` holds of a data set into `out`, so that it holds all of the old or all of the new at any time.

    A shard of a new number may be left from an extension that was interrupted, and is replaced.
    """
    for shard in new.shards[len(old.shards) :]:
        (files / shard.file).replace(out / shard.file)
    pending = out / pending_index_file(new.hash())
    (files / INDEX_FILE).replace(pending)
    sync_directory(out)
    (files / MANIFEST_FILE).replace(out / MANIFEST_FILE)
    sync_directory(out)
    pending.replace(out / INDEX_FILE)
    sync_directory(out)


def _refuse_other_rules(path: Path, manifest: Manifest, recipe: Recipe) -> None:
    before, now = manifest.provenance.get("recipe"), settings_to_dict(recipe)
    if not isinstance(before, dict):
        raise ValueError(f"{path}: its manifest does not say by which recipe it was made: write the data set anew")
    differences = [
        f"{name} is {now.get(name)!r}, the data set has {before.get(name)!r}"
        for name in SAME_RULES
        if now.get(name) != before.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path}: cannot be extended by recipe {recipe.name!r}: {'; '.join(differences)}: "
            "correct the recipe, or write a data set of its own"
        )


def _tidy(path: Path, manifest: Manifest) -> None:
    """Give a pending index its name, and remove what an interrupted extension left."""
    pending = path / pending_index_file(manifest.hash())
    if pending.is_file():
        pending.replace(path / INDEX_FILE)
    for stray in _strays(path, {shard.file for shard in manifest.shards}):
        stray.unlink()


def _strays(path: Path, known: set[str]) -> Iterable[Path]:
    return [file for file in path.iterdir() if OUR_FILES.fullmatch(file.name) and file.name not in known]
