"""How long it takes, and how much memory, to write, open and describe a data set of many sessions with many units.

python tests/benchmarks/manifest_size.py [--sessions 1000] [--units 1000]

Sessions are tiny in time and real in units: this measures what grows with units, not with bins. Version 1, one dict a
unit, is measured as it is read today and as it was read until version 2: parsed whole and checked value by value.
Seconds are of the processor, so that a busy machine counts less; memory is the most that a process of its own took,
above what it takes after its imports.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from neurochorus.data_shards.describe import summarise
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.writer import write_dataset

STEPS = ("write", "open", "describe", "open version 1", "open version 1 as until version 2")


def main() -> None:
    arguments = _arguments()
    if arguments.step is not None:
        _measure(arguments)
        return
    with tempfile.TemporaryDirectory() as place:
        print(f"{arguments.sessions} sessions of {arguments.units} units on average, one process a line")
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--place", place]
            command += ["--sessions", str(arguments.sessions), "--units", str(arguments.units)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, megabytes, note = json.loads(done.stdout)
            print(f"{step + ':':36}{seconds:8.2f} s {megabytes:8.0f} MB   {note}")


def _measure(arguments: argparse.Namespace) -> None:
    out = Path(arguments.place) / "data"
    old = Path(arguments.place) / "version_1.json"
    before, started = _peak(), time.process_time()
    note = ""
    match arguments.step:
        case "write":
            write_dataset(_recordings(arguments), out, name="many", sample_bins=20)
            note = f"{(out / MANIFEST_FILE).stat().st_size / 1e6:.0f} MB of manifest"
        case "open":
            Manifest.load(out).hash()
        case "describe":
            note = f"{sum(session.units for session in summarise(out).sessions)} units"
        case "open version 1":
            before, started = _peak(), time.process_time()
            Manifest.load(old).hash()
            note = f"{old.stat().st_size / 1e6:.0f} MB of manifest"
        case _:
            values = json.loads(old.read_text())
            TypeAdapter(list[dict[str, str | float]]).validate_python(
                [u for s in values["sessions"] for u in s["units"]]
            )
            note = "units only"
    measured = time.process_time() - started, _peak() - before, note
    if arguments.step == "describe":  # the steps that follow need it
        old.write_text(_version_1(Manifest.load(out)))
    print(json.dumps(measured))


def _version_1(manifest: Manifest) -> str:
    sessions = [entry.to_json() | {"units": list(entry.units)} for entry in manifest.sessions]
    values: dict[str, Any] = {"format_version": 1, "name": manifest.name, "sessions": sessions}
    values |= {"shards": [vars(shard) for shard in manifest.shards], "splits": manifest.splits, "provenance": {}}
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _recordings(arguments: argparse.Namespace) -> Iterator[Recording]:
    generator = np.random.default_rng(0)
    for number in range(arguments.sessions):
        units = int(generator.integers(20, 2 * arguments.units - 20 + 1))
        counts = generator.poisson(0.3, (20, units)).astype(np.uint8)
        columns = generator.random((units, 2)).round(3).tolist()
        yield Recording(
            session_id=f"s{number:04d}",
            subject_id=f"animal{number % 4}",
            modality="spikes",
            bin_s=0.01,
            signal_TC=counts,
            units=[
                Unit(f"u{i:04d}", f"area{i % 30}", {"depth": one, "snr": two}) for i, (one, two) in enumerate(columns)
            ],
            segments=[Segment(0, 20, "train")],
        )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--units", type=int, default=1000, help="on average; from 20 to twice as many")
    parser.add_argument("--step", choices=STEPS, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--place", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
