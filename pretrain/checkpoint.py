"""Checkpoints of a running stage: DeepSpeed's files under a name that only a complete one gets.

    checkpoints/STAGE/step_00000500/   DeepSpeed files + COMPLETE.json, written last

A checkpoint is written as `.saving-step_...` and renamed when all ranks are done; one without
COMPLETE.json, or whose files have not the sizes listed there, is never resumed from.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import Engine

COMPLETE = "COMPLETE.json"


@dataclass(frozen=True)
class Position:
    """Where a stage stands, and what it must be continued with."""

    step: int
    """Optimizer steps done."""
    samples_seen: int
    world: int
    fingerprint: dict[str, str]
    """Hashes of the data, the order of samples and the model; a resumed run must have the same."""


class Checkpoints:
    """The checkpoints of one stage of a run."""

    def __init__(self, folder: Path, keep: int, ranks: Ranks):
        self.folder, self.keep, self.ranks = folder, keep, ranks

    def save(self, engine: Engine, position: Position) -> None:
        """Write a checkpoint (all ranks), then remove all but the newest `keep`.

        Raises OSError when the disk is full or not writable; the checkpoints already there are untouched.
        """
        name = f"step_{position.step:08d}"
        saving = f".saving-{name}"
        if self.ranks.first:
            shutil.rmtree(self.folder / saving, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        self.ranks.barrier()
        engine.save(str(self.folder), saving)
        self.ranks.barrier()
        if self.ranks.first:
            self._complete(saving, name, position)
        self.ranks.barrier()

    def _complete(self, saving: str, name: str, position: Position) -> None:
        partial, place = self.folder / saving, self.folder / name
        files = {str(f.relative_to(partial)): f.stat().st_size for f in sorted(partial.rglob("*")) if f.is_file()}
        text = json.dumps({**asdict(position), "files": files}, indent=1)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
        temporary = place / f".{COMPLETE}"
        with temporary.open("w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, place / COMPLETE)
        for old in complete_checkpoints(self.folder)[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def resume(self, engine: Engine, fingerprint: dict[str, str], path: Path | None = None) -> Position | None:
        """Load the newest complete checkpoint, or the one at `path`, into the engine; None when there is none.

        Raises ValueError when it is of other data, another order of samples, another model or another world size.
        """
        found = path or next(reversed(complete_checkpoints(self.folder)), None)
        if found is None:
            return None
        position = read_position(found)
        refuse_difference(found, position, fingerprint, self.ranks.world)
        engine.load(str(found.parent), found.name)
        return position


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if re.fullmatch(r"step_\d{8}", path.name)]
    return sorted(path for path in named if _is_complete(path))


def read_position(checkpoint: Path) -> Position:
    values: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text())
    values.pop("files")
    return Position(**values)


def refuse_difference(checkpoint: Path, position: Position, fingerprint: dict[str, str], world: int) -> None:
    """Raise ValueError naming everything in which a run differs from the checkpoint it would continue."""
    differing = [
        f"{name}: the checkpoint has {position.fingerprint.get(name)}, this run has {value}"
        for name, value in fingerprint.items()
        if position.fingerprint.get(name) != value
    ]
    if position.world != world:
        differing.append(f"ranks: the checkpoint was saved on {position.world}, this run has {world}")
    if differing:
        raise ValueError(
            f"{checkpoint}: cannot be continued by this run:\n  - "
            + "\n  - ".join(differing)
            + "\nUse the same data and settings, or another run.dir (run.resume: never refuses a used one)."
        )


def _is_complete(checkpoint: Path) -> bool:
    try:
        read_position(checkpoint)
        files: dict[str, int] = json.loads((checkpoint / COMPLETE).read_text())["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, cut, or not what we wrote
        return False
