"""Where a stage stood when a checkpoint was written: what its COMPLETE.json says, and which checkpoints have one."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurochorus.pretrain.fingerprint import Fingerprint, differences

COMPLETE = "COMPLETE.json"
WENT_FROM = "resumed_from.txt"
"""In the folder of a stage: the checkpoint that run.resume named, where the stage went on from one that was named."""


@dataclass(frozen=True)
class Position:
    """Where a stage stands, and what it must be continued with."""

    step: int
    """Optimizer steps done."""
    samples_seen: int
    world: int
    zero_stage: int
    fingerprint: Fingerprint
    """Data, order of samples and settings; a resumed run must have the same."""
    trouble: dict[str, Any] = field(default_factory=dict)
    """State of the watch over losses and gradients."""
    score: float | None = None
    """On validation data, lower is better; None where it was not measured."""
    early: dict[str, Any] | None = None
    """State of early stopping; None without it."""


def named_checkpoints(folder: Path) -> list[Path]:
    """What bears a checkpoint's name in a folder, oldest first; each was complete when it got that name."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if re.fullmatch(r"step_\d{8}", path.name))


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first; their files are there in full size, but may be damaged."""
    return [path for path in named_checkpoints(folder) if is_complete(path)]


def went_from(folder: Path, asked: Path) -> bool:
    """Whether the stage went on from `asked` already: the same command, run again, continues what came of it."""
    file = folder / WENT_FROM
    return file.is_file() and file.read_text() == str(asked.absolute())


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(checkpoint.name.removeprefix("step_"))


def read_position(checkpoint: Path) -> Position:
    """What COMPLETE.json says of where the stage stood."""
    values: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text())
    values.pop("files")
    return Position(**values)


def refuse_difference(checkpoint: Path, position: Position, fingerprint: Fingerprint) -> None:
    """Raise ValueError naming everything in which a run differs from the checkpoint it would continue."""
    differing = differences(position.fingerprint, fingerprint)
    if differing:
        raise ValueError(
            f"{checkpoint}: cannot be continued by this run:\n  - "
            + "\n  - ".join(differing)
            + "\nUse the same data and settings, or another run.dir (its weights alone: --init-from)."
        )


def is_complete(checkpoint: Path) -> bool:
    """Whether COMPLETE.json is there and readable, and the files it lists have their sizes."""
    try:
        read_position(checkpoint)
        files: dict[str, tuple[int, int]] = json.loads((checkpoint / COMPLETE).read_text())["files"]
        return all((checkpoint / name).stat().st_size == size for name, (size, _) in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, cut, or not what we wrote
        return False
