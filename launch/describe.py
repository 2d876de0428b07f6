"""Print what a data set holds.

python launch/describe.py DIR_OR_URL [--verify]
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import numpy as np
from rich.console import Console
from rich.table import Table

from neurochorus.data_shards.describe import DatasetSummary, SessionSummary, summarise
from neurochorus.launch.options import command_parser
from neurochorus.launch.shard_tables import entry_remarks


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = command_parser("describe.py", __doc__)
    parser.add_argument("directory", help="a directory that launch/shard.py made, or its URL (s3, gs, https, hf)")
    parser.add_argument("--verify", action="store_true", help="check every checksum and count")
    options = parser.parse_args(arguments)
    try:
        summary = summarise(options.directory)
        # piped output is as wide as the tables: nothing is folded or cut off
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(_overview(summary), _sessions(summary), _subjects(summary), *entry_remarks(summary.entries))
        if options.verify:
            _verify(options.directory)
            console.print("verified: every checksum and count agrees")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _verify(directory: str) -> None:
    # imported here because it brings torch, which takes longer to import than everything else takes to run
    from neurochorus.data_shards.dataset import ShardDataset

    ShardDataset(directory).verify()


def _overview(summary: DatasetSummary) -> Table:
    table = Table(title=f"data set {summary.name}", show_header=False)
    sessions = summary.sessions
    table.add_row("sessions", str(len(sessions)))
    table.add_row("subjects", str(len(summary.subjects)))
    table.add_row("units", str(sum(session.units for session in sessions)))
    table.add_row("hours", f"{sum(session.hours for session in sessions):.2f}")
    for split, total in summary.splits.items():
        table.add_row(f"{split} split", f"{total['samples']} samples, {total['bins']} bins")
    table.add_row("longest sample", f"{summary.longest_bins} bins")
    table.add_row("shards", f"{summary.shards} files, {summary.shard_bytes / 1e6:.1f} MB")
    table.add_row("manifest hash", summary.manifest_hash)
    return table


def _sessions(summary: DatasetSummary) -> Table:
    table = Table(title="sessions (rates and values per unit, over the train split)")
    for heading in ("session", "subject", "signal"):
        table.add_column(heading)
    for heading in ("bin ms", "units", "silent", "regions", "hours", "train", "valid", "test"):
        table.add_column(heading, justify="right")
    table.add_column("median (5-95 %)", justify="right")
    table.add_column("covariates")
    for session in summary.sessions:
        covariates = ", ".join(f"{name}[{width}]" for name, width in session.covariates.items()) or "-"
        table.add_row(
            session.session_id,
            session.subject_id,
            session.modality,
            f"{session.bin_s * 1e3:g}",
            str(session.units),
            str(session.silent_units),
            str(session.regions),
            f"{session.hours:.3f}",
            *(str(session.samples[split]) for split in ("train", "valid", "test")),
            _level(session),
            covariates,
        )
    return table


def _level(session: SessionSummary) -> str:
    low, median, high = np.percentile(session.level_C, [5, 50, 95])
    unit = " spikes/s" if session.modality == "spikes" else ""
    return f"{median:.2f} ({low:.2f}-{high:.2f}){unit}"


def _subjects(summary: DatasetSummary) -> Table:
    table = Table(title="subjects")
    table.add_column("subject")
    for heading in ("sessions", "units", "hours", "samples"):
        table.add_column(heading, justify="right")
    for subject, sessions in summary.subjects.items():
        table.add_row(
            subject,
            str(len(sessions)),
            str(sum(session.units for session in sessions)),
            f"{sum(session.hours for session in sessions):.3f}",
            str(sum(sum(session.samples.values()) for session in sessions)),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
