"""A recipe's sessions to a data set: several at once, going on after an interruption, and added to one that is there.

Sessions become parts (session_part.py) in a directory beside the data set, `.NAME.importing`. A part is named by the
recipe and by name, size and time of its file, so that the same command finds what is done already. When all are there
they are assembled, in the order of the files, and appear at once: a new data set by renaming its directory, an extended
one by replacing manifest.json.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from neurochorus.data_shards.extending import OldDataset, publish_extension, read_old
from neurochorus.data_shards.import_jobs import ImportJob, import_jobs
from neurochorus.data_shards.import_processes import DiskRefused, run_jobs
from neurochorus.data_shards.manifest import Manifest
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.session_part import SessionPart, read_part, write_part
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.data_shards.staging import sync_directory, working_directory
from neurochorus.data_shards.writer import SHARD_BYTES, Assembly

Progress = Callable[[int, int, str], None]


@dataclass
class ImportReport:
    """`failures`: file -> what is wrong with it. `skipped`: files whose sessions are in the data set already.

    `resumed`: sessions that an interrupted run had imported.
    """

    manifest: Manifest
    added: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    resumed: int = 0


class ImportFailed(ValueError):
    """Nothing was written because of the files in `failures`."""

    def __init__(self, message: str, failures: dict[str, str]):
        self.failures = failures
        super().__init__("\n".join([message, *(f"  - {name}: {problem}" for name, problem in failures.items())]))


def import_dataset(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    jobs: int = 1,
    strict: bool = False,
    extend: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ImportReport:
    """Import all sessions of a recipe into the data set directory `out`, or add those that are new to it (`extend`).

    Files that cannot be imported are left out and reported; with `strict` the first one ends the import. The bytes do
    not depend on `jobs`, the number of processes. Raises ValueError for a bad recipe, source or data set, or when no
    session is left, OSError naming `out` when the disk refuses. All leave `out` as it was, and what was imported for
    the same command to go on with. `progress` is called with sessions done, sessions in all, and a name.
    """
    if jobs < 1 or shard_bytes < 1:
        raise ValueError(f"jobs ({jobs}) and shard_bytes ({shard_bytes}) must be at least 1")
    if not extend and (out.exists() or out.is_symlink()):
        raise ValueError(
            f"{out} exists and is not overwritten: choose another directory, remove it first, "
            "or add new sessions to it with --extend"
        )
    listed = import_jobs(recipe, source)
    with _disk_errors(out), _locked(out) as place:
        old = read_old(out, recipe) if extend else None
        report = ImportReport(old.manifest if old else _empty(recipe))
        parts = _parts(listed, place, old, report, jobs, strict, progress)
        files = place / "assembled"
        try:
            _publish(_assemble(parts, files, old, report, shard_bytes), files, out, old, report, recipe)
        finally:
            shutil.rmtree(files, ignore_errors=True)
        shutil.rmtree(place)
    return report


def make_part(job: ImportJob, tar: Path) -> None:
    """Import a session into the part `tar`. ValueError for a bad file; DiskRefused when the part cannot be written."""
    recording = job.run()
    try:
        write_part(recording, tar, job.recipe.sample_bins)
    except OSError as error:
        raise DiskRefused(error.errno, error.strerror or str(error)) from error


def _parts(
    listed: list[ImportJob],
    place: Path,
    old: OldDataset | None,
    report: ImportReport,
    processes: int,
    strict: bool,
    progress: Progress | None,
) -> list[tuple[ImportJob, Path]]:
    """Make the parts that are missing; return all that are there, in the order of the data set."""
    wanted: list[tuple[ImportJob, Path]] = []
    for job in listed:
        try:
            known = old.session_of(job) if old is not None else None
        except (ValueError, OSError) as error:
            report.failures[job.name] = str(error)
            continue
        if known is None:
            wanted.append((job, place / f"{job.key()}.tar"))
        else:
            report.skipped.append(f"{job.name} ({known})")
    missing = [(job, tar) for job, tar in wanted if not _is_done(tar)]
    report.resumed = len(wanted) - len(missing)
    done = len(listed) - len(missing)
    for outcome in run_jobs(make_part, missing, processes):
        done += 1
        if outcome.problem is not None:
            report.failures[outcome.job.name] = outcome.problem
            if strict:
                raise ImportFailed("the first file that cannot be imported ends a strict import", report.failures)
        if progress is not None:
            progress(done, len(listed), outcome.job.name)
    return [(job, tar) for job, tar in wanted if job.name not in report.failures]


def _assemble(
    parts: list[tuple[ImportJob, Path]], files: Path, old: OldDataset | None, report: ImportReport, shard_bytes: int
) -> Assembly:
    """Write the shards of all parts into `files`; sessions that cannot be added become failures."""
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    assembly = Assembly(files, shard_bytes, report.manifest, None if old is None else old.index)
    made_of: dict[str, str] = {}
    for job, tar in parts:
        part = read_part(tar)
        assert part is not None
        problem = _conflict(part, job, made_of, old, report)
        if problem is not None:
            report.failures[job.name] = problem
        elif part.entry.session_id not in assembly.session_ids:
            assembly.add(part)
            made_of[part.entry.session_id] = job.name
    report.added = list(made_of)
    if not made_of and (old is None or report.failures):
        kept = "nothing was written" if old is None else "nothing was added"
        raise ImportFailed(f"no session is left to write, {kept}", report.failures)
    return assembly


def _publish(assembly: Assembly, files: Path, out: Path, old: OldDataset | None, report: ImportReport, recipe: Recipe):
    """Let the data set, or what is new of it, appear."""
    if old is None:
        report.manifest = assembly.finish()
        sync_directory(files)
        files.rename(out)
        sync_directory(out.parent)
    elif report.added:
        report.manifest = assembly.finish(old.extended_provenance(recipe, report.added))
        publish_extension(files, out, old.manifest, report.manifest)


def _conflict(
    part: SessionPart, job: ImportJob, made_of: dict[str, str], old: OldDataset | None, report: ImportReport
) -> str | None:
    """Say why a session cannot be added: another recording has its id. The same one is skipped, and counted."""
    session_id = part.entry.session_id
    if session_id in made_of:
        return (
            f"its session id {session_id!r} is that of {made_of[session_id]} too: make the ids unique in the recipe "
            "(session_id)"
        )
    if old is None or session_id not in old.entries:
        return None
    if old.holds(part.entry):
        report.skipped.append(f"{job.name} ({session_id})")
        return None
    return old.difference(part.entry)


def _empty(recipe: Recipe) -> Manifest:
    provenance = {"recipe": settings_to_dict(recipe)}
    return Manifest(name=recipe.name, sessions=[], shards=[], splits={}, provenance=provenance)


def _is_done(tar: Path) -> bool:
    try:
        return read_part(tar) is not None
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile):  # half-written: the power was lost
        return False


@contextmanager
def _locked(out: Path) -> Iterator[Path]:
    """Give the directory of parts of `out`; ValueError while another run is using it."""
    place = working_directory(out)
    place.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another run is writing it (in {place}): wait for it, or stop it") from None
        yield place
    finally:
        os.close(descriptor)
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn an error of writing into one that names the data set and what to do."""
    place = working_directory(out)
    try:
        yield
    except OSError as error:
        if not isinstance(error, DiskRefused) and error.filename is not None and not _concerns(error.filename, out):
            raise
        kept = f"; what is imported so far is kept in {place}" if place.is_dir() else ""
        raise OSError(
            error.errno,
            f"cannot write {out}: {error.strerror or error}; it is as it was before{kept}: "
            "free space and run the same command again, or choose another directory",
        ) from error


def _concerns(filename: Any, out: Path) -> bool:
    path, place = Path(os.fsdecode(filename)), working_directory(out)
    return any(path.is_relative_to(own) for own in (out, place)) or out.is_relative_to(path)
