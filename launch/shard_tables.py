"""What importing sessions did, or would do, as tables."""

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from neurochorus.data_shards.importing import ImportReport
from neurochorus.data_shards.inspection import Inspection, SessionInspection
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.recording import SPLITS


def inspection_tables(found: Inspection) -> list[RenderableType]:
    """Return the tables of a dry run."""
    tables: list[RenderableType] = [_overview(found)]
    if found.sessions:
        tables.append(_sessions(found.sessions))
    if any(session.coverage for session in found.sessions):
        tables.append(_coverage(found.sessions))
    dropped = [(session.session_id, session.dropped) for session in found.sessions]
    tables += _remarks(dropped, [(session.session_id, session.notes) for session in found.sessions])
    odd = [(session.session_id, line) for session in found.sessions for line in session.suspicions]
    odd += [("all", line) for line in found.suspicions]
    tables += _lines("suspicious (guesses: look at them)", odd)
    return tables + _failures(found.failures) + [Text("dry run: nothing was written")]


def import_tables(report: ImportReport) -> list[RenderableType]:
    """Return what to say after an import: what was left out and why. Nothing for an import without a remark."""
    new = {name: entry for entry in report.manifest.sessions if (name := entry.session_id) in set(report.added)}
    tables: list[RenderableType] = []
    if report.resumed:
        tables.append(Text(f"{report.resumed} sessions had been imported by an interrupted run"))
    if report.skipped:
        tables.append(Text(f"{len(report.skipped)} sessions are in the data set already and were skipped"))
        tables.append(Text(f"{len(report.added)} sessions were added"))
    return tables + entry_remarks(new.values()) + _failures(report.failures)


def entry_remarks(entries: Iterable[SessionEntry]) -> list[RenderableType]:
    """Return tables of what was dropped from sessions of a data set, and of the importers' notes."""
    entries = list(entries)
    dropped = [(entry.session_id, entry.provenance.get("dropped", {})) for entry in entries]
    return _remarks(dropped, [(entry.session_id, entry.provenance.get("notes", [])) for entry in entries])


def _remarks(
    dropped: list[tuple[str, dict[str, dict[str, int]]]], notes: list[tuple[str, list[str]]]
) -> list[RenderableType]:
    table = Table(title="dropped")
    for heading in ("session", "what", "why"):
        table.add_column(heading)
    table.add_column("number", justify="right")
    for session, kinds in dropped:
        for what, reasons in kinds.items():
            for why, count in reasons.items():
                table.add_row(session, what, Text(why), str(count))
    tables: list[RenderableType] = [table] if table.row_count else []
    return tables + _lines("notes", [(session, line) for session, lines in notes for line in lines])


def _lines(title: str, lines: list[tuple[str, str]]) -> list[RenderableType]:
    if not lines:
        return []
    table = Table(title=title)
    table.add_column("session", no_wrap=True)
    table.add_column("what", overflow="fold")
    for session, line in lines:
        table.add_row(session, Text(line))
    return [table]


def _failures(failures: dict[str, str]) -> list[RenderableType]:
    if not failures:
        return []
    table = Table(title=f"not imported: {len(failures)}")
    table.add_column("file", no_wrap=True)
    table.add_column("problem", overflow="fold")
    for name, problem in failures.items():
        table.add_row(name, Text(problem))
    return [table]


def _overview(found: Inspection) -> Table:
    table = Table(title="dry run", show_header=False)
    sessions = found.sessions
    table.add_row("data set", found.recipe.name)
    table.add_row("sessions", str(len(sessions)))
    if found.skipped:
        table.add_row("already there", str(len(found.skipped)))
    if found.failures:
        table.add_row("not importable", str(len(found.failures)))
    table.add_row("subjects", str(len({session.subject_id for session in sessions})))
    table.add_row("units", str(sum(session.units for session in sessions)))
    table.add_row("hours", f"{sum(session.bins * session.bin_s for session in sessions) / 3600:.2f}")
    for split in SPLITS:
        table.add_row(f"{split} split", f"{sum(session.samples[split] for session in sessions)} samples")
    table.add_row("size", f"{sum(session.bytes for session in sessions) / 1e6:.1f} MB")
    return table


def _sessions(sessions: list[SessionInspection]) -> Table:
    table = Table(title="sessions (median rate or value, and 5-95 %, over units)")
    for heading in ("session", "subject", "signal"):
        table.add_column(heading, no_wrap=True)
    headings = ("bin ms", "units", "dropped", "bins", "hours", "gaps", "gap bins")
    for heading in (*headings, "train/valid/test", "samples", "MB", "median (5-95 %)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for session in sessions:
        low, median, high = session.level
        unit = "/s" if session.modality == "spikes" else ""
        table.add_row(
            session.session_id,
            session.subject_id,
            session.modality,
            f"{session.bin_s * 1e3:g}",
            str(session.units),
            str(sum(session.dropped.get("units", {}).values())),
            str(session.bins),
            f"{session.bins * session.bin_s / 3600:.3f}",
            str(session.gaps),
            str(session.gap_bins),
            "/".join(str(session.segments[split]) for split in SPLITS),
            str(sum(session.samples.values())),
            f"{session.bytes / 1e6:.1f}",
            f"{median:.2f} ({low:.2f}-{high:.2f}){unit}",
        )
    return table


def _coverage(sessions: list[SessionInspection]) -> Table:
    """Covariates of all sessions: those of one name and width share a row."""
    table = Table(title="covariates (coverage: bins in which the value is known)")
    table.add_column("covariate")
    for heading in ("columns", "sessions", "lowest coverage", "mean coverage"):
        table.add_column(heading, justify="right")
    names = {(name, width): None for session in sessions for name, (width, _) in session.coverage.items()}
    for name, width in names:
        shares = [s.coverage[name][1] for s in sessions if s.coverage.get(name, (0, 0))[0] == width]
        mean = sum(shares) / len(shares)
        table.add_row(name, str(width), str(len(shares)), f"{100 * min(shares):.1f} %", f"{100 * mean:.1f} %")
    return table
