"""What a recipe would make of its sources, without writing anything."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.clocks import clock_suspicions
from neurochorus.data_shards.import_jobs import ImportJob, import_jobs
from neurochorus.data_shards.import_processes import run_jobs
from neurochorus.data_shards.importers.openers import open_source
from neurochorus.data_shards.manifest import Manifest
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import SPLITS, Recording
from neurochorus.data_shards.session_part import TAR_BLOCK, train_segments
from neurochorus.data_shards.suspicions import suspicions

NPY_HEADER = 128
OTHERS = 3.0
"Factor between a session's median rate and that of its sister sessions from which it is named."


@dataclass(frozen=True)
class SessionInspection:
    """What one file would become.

    `bins` are those inside segments, `gap_bins` those between and around them. `level` (5, 50, 95 %) is over units, in
    spikes/s or the signal's own unit. `coverage`: covariate -> (columns, share of bins in which all are known).
    `dropped`: what -> reason -> how many.
    """

    name: str
    session_id: str
    subject_id: str
    modality: str
    bin_s: float
    units: int
    bins: int
    gap_bins: int
    gaps: int
    segments: dict[str, int]
    samples: dict[str, int]
    bytes: int
    level: tuple[float, float, float]
    coverage: dict[str, tuple[int, float]]
    dropped: dict[str, dict[str, int]]
    notes: list[str]
    suspicions: list[str]


@dataclass
class Inspection:
    """`sessions` in the order of the data set; `failures`: file -> problem; `skipped`: files that are in it already."""

    recipe: Recipe
    sessions: list[SessionInspection] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    suspicions: list[str] = field(default_factory=list)


def inspect_source(
    recipe: Recipe,
    source: Path | None,
    *,
    jobs: int = 1,
    extend: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Inspection:
    """Import every session and say what it would become; `extend` is the data set that it would be added to.

    Raises ValueError for a recipe or source without any file; what is wrong with a single file is in `failures`.
    """
    listed = import_jobs(recipe, source)
    known = {} if extend is None else _known_files(Manifest.load(extend))
    found: dict[str, SessionInspection] = {}
    inspection = Inspection(recipe)
    for done, outcome in enumerate(run_jobs(inspect_job, [(job, known) for job in listed], jobs), start=1):
        if outcome.problem is not None:
            inspection.failures[outcome.job.name] = outcome.problem
        elif isinstance(outcome.result, str):
            inspection.skipped.append(f"{outcome.job.name} ({outcome.result})")
        else:
            found[outcome.job.name] = outcome.result
        if progress is not None:
            progress(done, len(listed), outcome.job.name)
    inspection.sessions = [found[job.name] for job in listed if job.name in found]
    inspection.suspicions = [*_repeated(inspection.sessions), *_odd_sisters(inspection.sessions)]
    return inspection


def inspect_job(job: ImportJob, known: dict[str, str]) -> SessionInspection | str:
    """Return what a job's file would become; or the session in `known`, by sha256, that was made of it."""
    if known and (there := known.get(job.sha256() or "")) is not None:
        return there
    clock = []
    if job.path is not None:
        with open_source(job.path, job.recipe) as source:
            clock = clock_suspicions(source, job.recipe)
    return inspect_recording(job.name, job.run(), job.recipe.sample_bins, clock)


def inspect_recording(name: str, recording: Recording, sample_bins: int, clock: list[str]) -> SessionInspection:
    """Return what a recording would become, cut into samples of at most `sample_bins` bins."""
    segments = recording.segments
    lengths = np.array([segment.stop - segment.start for segment in segments])
    per_segment = -(-lengths // sample_bins)
    codes = np.array([SPLITS.index(segment.split) for segment in segments])
    edges = [0, *(bin_ for segment in segments for bin_ in (segment.start, segment.stop)), len(recording.signal_TC)]
    between = np.diff(edges)[::2]
    level_C = recording.signal_TC.mean(axis=0, dtype=np.float64)
    level_C = level_C / recording.bin_s if recording.modality == "spikes" else level_C
    low, median, high = np.percentile(level_C, [5, 50, 95]).tolist()
    found = suspicions(recording) + clock
    train_segments(recording)  # refused when it is written, so here too
    return SessionInspection(
        name=name,
        session_id=recording.session_id,
        subject_id=recording.subject_id,
        modality=recording.modality,
        bin_s=recording.bin_s,
        units=len(recording.units),
        bins=int(lengths.sum()),
        gap_bins=int(between.sum()),
        gaps=int((between > 0).sum()),
        segments={split: int((codes == code).sum()) for code, split in enumerate(SPLITS)},
        samples={split: int(per_segment[codes == code].sum()) for code, split in enumerate(SPLITS)},
        bytes=_expected_bytes(recording, lengths, sample_bins),
        level=(low, median, high),
        coverage=_coverage(recording),
        dropped=recording.provenance.get("dropped", {}),
        notes=list(recording.provenance.get("notes", [])),
        suspicions=found,
    )


def _expected_bytes(recording: Recording, lengths: np.ndarray, sample_bins: int) -> int:
    """Bytes of the tar blocks of all samples: exact, unless the labels of a sample take more than one block."""
    whole, rest = lengths // sample_bins, lengths % sample_bins
    sizes = {int(bins): int((rest == bins).sum()) for bins in np.unique(rest[rest > 0])}
    sizes[sample_bins] = sizes.get(sample_bins, 0) + int(whole.sum())
    widths = [recording.signal_TC.shape[1] * recording.signal_TC.dtype.itemsize]
    if recording.covariates:
        widths.append(4 * sum(values.shape[1] for values in recording.covariates.values()))
    total = 0
    for bins, count in sizes.items():
        members = sum(TAR_BLOCK + -(-(NPY_HEADER + bins * width) // TAR_BLOCK) * TAR_BLOCK for width in widths)
        total += count * (members + 2 * TAR_BLOCK)
    return total


def _coverage(recording: Recording) -> dict[str, tuple[int, float]]:
    inside = np.zeros(len(recording.signal_TC), dtype=bool)
    for segment in recording.segments:
        inside[segment.start : segment.stop] = True
    return {
        name: (values.shape[1], float((~np.isnan(values[inside]).any(axis=1)).mean()))
        for name, values in recording.covariates.items()
    }


def _known_files(manifest: Manifest) -> dict[str, str]:
    entries: list[Any] = manifest.sessions
    return {str(e.provenance["sha256"]): e.session_id for e in entries if "sha256" in e.provenance}


def _repeated(sessions: list[SessionInspection]) -> list[str]:
    """Files that would have the same session id: only the first would be written."""
    first: dict[str, str] = {}
    found = []
    for session in sessions:
        if session.session_id in first:
            found.append(
                f"{session.name}: its session id {session.session_id!r} is that of {first[session.session_id]} too: "
                "make the ids unique in the recipe (session_id)"
            )
        first.setdefault(session.session_id, session.name)
    return found


def _odd_sisters(sessions: list[SessionInspection]) -> list[str]:
    """Sessions whose median rate is far from that of most other sessions of their subject."""
    rates: dict[str, list[float]] = {}
    for session in sessions:
        if session.modality == "spikes":
            rates.setdefault(session.subject_id, []).append(session.level[1])
    found = []
    for session in sessions:
        rate, all_rates = session.level[1], rates.get(session.subject_id, [])
        near = sum(other / OTHERS <= rate <= other * OTHERS for other in all_rates) - 1
        if session.modality != "spikes" or len(all_rates) < 2 or near >= (len(all_rates) - 1) / 2:
            continue
        found.append(
            f"{session.session_id}: its units fire {rate:.2f} spikes/s (median), those of the {len(all_rates)} "
            f"sessions of {session.subject_id} {float(np.median(all_rates)):.2f}: other bins, units or a bad recording?"
        )
    return found
