"""Checkpoints of a running stage: DeepSpeed's files under a name that only a complete one gets.

    checkpoints/STAGE/step_00000500/   DeepSpeed files + COMPLETE.json, written last

A checkpoint is written as `.saving-step_...` and renamed when all ranks are done. One without COMPLETE.json, or whose
files have not the sizes and checksums listed there, is never resumed from.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch

from neurochorus.pretrain.checkpoint_files import Sums, damaged_files, sum_of
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.fingerprint import Fingerprint
from neurochorus.pretrain.position import (
    COMPLETE,
    WENT_FROM,
    Position,
    complete_checkpoints,
    is_complete,
    named_checkpoints,
    read_position,
    refuse_difference,
    step_of,
    went_from,
)
from neurochorus.pretrain.retention import Retention

SET_ASIDE = "not_used_"
"""Before the name of a checkpoint that a run found damaged, or did not go on from."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Begun:
    """A checkpoint whose files this rank is writing, or has written."""

    name: str
    position: Position
    files: Future[Sums]


class Checkpoints:
    """The checkpoints of one stage of a run."""

    def __init__(self, folder: Path, retention: Retention, ranks: Ranks, say: Callable[[str], None]):
        self.folder, self.retention, self.ranks, self.say = folder, retention, ranks, say
        self._begun: Begun | None = None

    def save(self, engine: Engine, position: Position, behind: bool = False) -> None:
        """Write a checkpoint (all ranks), then remove those that need not stay.

        With `behind` it is only begun: it is one after `finish`, which the next `save` waits for too. Raises OSError,
        on all ranks, when one of them cannot write; the checkpoints already there are untouched.
        """
        self.finish()
        name = f"step_{position.step:08d}"
        with self._whole_or_nothing(name):
            self._together(lambda: self._clear() if self.ranks.first else None)
        self._begun = Begun(name, position, engine.save(str(self.folder), _unfinished(name), behind))
        if not behind:
            self.finish()

    def written(self) -> bool:
        """Whether a checkpoint was begun, and all ranks have come to an end with their files. All must call it."""
        if self._begun is None:
            return False
        busy = torch.tensor(float(not self._begun.files.done()))
        return not self.ranks.sum(busy)

    def finish(self) -> None:
        """Make a checkpoint of what was begun, if anything was (all ranks). Raises OSError as `save` does."""
        if self._begun is None:
            return
        begun, self._begun = self._begun, None
        with self._whole_or_nothing(begun.name):
            listed = {path: sum for part in self._together(begun.files.result) for path, sum in part.items()}
            self._together(lambda: self._complete(begun, listed) if self.ranks.first else None)

    def resume(
        self, engine: Engine, fingerprint: Fingerprint, zero_stage: int, asked: Path | None = None
    ) -> Position | None:
        """Load the newest undamaged checkpoint, or the `asked` one, into the engine; None when there is none.

        A checkpoint is asked for once: when the same command is run again, as when a job is queued again, the newest
        is what became of it.
        One that was written on other ranks or at another ZeRO stage is converted. Raises ValueError when it is of
        other data or settings, or when no checkpoint that is there is undamaged.
        """
        candidates = named_checkpoints(self.folder)
        own = asked is not None and asked.parent.resolve() == self.folder.resolve()
        if asked is not None and ((own and not went_from(self.folder, asked)) or not candidates):
            candidates = [asked]  # one of another run is where this one starts, not where it goes back to
        elif asked is not None:
            self.say(
                f"{asked}: this run went on from there before, and continues (remove {WENT_FROM} to go back again)"
            )
        candidates = self.ranks.gather(candidates)[0]  # a network file system may show them late to some ranks
        while candidates:
            found = candidates.pop()
            damage = self._damage(found)
            if not damage:
                break
            if not candidates:
                raise ValueError(f"{found}: is damaged ({damage[0]}), and there is no other: remove it to start anew")
            self.say(f"{found}: is damaged ({damage[0]}); going back to {candidates[-1].name}")
        else:
            return None
        position = read_position(found)
        refuse_difference(found, position, fingerprint)
        same_layout = (position.world, position.zero_stage) == (self.ranks.world, zero_stage)
        engine.load(str(found.parent), found.name, same_layout)
        if self.ranks.first and found.parent.resolve() == self.folder.resolve():
            self._set_aside_after(position.step)
        self._together(lambda: self._note(asked) if self.ranks.first else None)
        return position

    def _note(self, asked: Path | None) -> None:
        """Write down, in the folder of the stage, what checkpoint it was asked to go on from."""
        if asked is None:
            (self.folder / WENT_FROM).unlink(missing_ok=True)
        elif not went_from(self.folder, asked):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / WENT_FROM).write_text(str(asked.absolute()))

    def _together(self, act: Callable[[], Result]) -> list[Result]:
        """What each rank gets from `act`, by rank; where it raises OSError on one of them, all ranks raise one."""
        outcome: Result | OSError
        try:
            outcome = act()
        except OSError as error:
            outcome = OSError(str(error))
        outcomes = self.ranks.gather(outcome)
        failures = [f"rank {rank}: {found}" for rank, found in enumerate(outcomes) if isinstance(found, OSError)]
        if failures:
            raise OSError("; ".join(failures))
        return [found for found in outcomes if not isinstance(found, OSError)]

    @contextmanager
    def _whole_or_nothing(self, name: str) -> Iterator[None]:
        """Remove what there is of a new checkpoint when one of the ranks cannot write, and say so."""
        try:
            yield
        except OSError as error:
            if self.ranks.first:
                shutil.rmtree(self.folder / _unfinished(name), ignore_errors=True)
            raise OSError(
                f"{self.folder / name}: could not be written ({error}); the checkpoints before it are untouched: make "
                "room, or the folder writable, or end another run in it, and run the same command again"
            ) from None

    def _clear(self) -> None:
        """Make the folder, and remove what a killed run left half-written or half-removed in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*-step_*"):
            shutil.rmtree(left, ignore_errors=True)

    def _complete(self, begun: Begun, sums: Sums) -> None:
        saving, name = self.folder / _unfinished(begun.name), begun.name
        # a network file system may show the files of other nodes late
        files = {os.path.relpath(path, saving): found for path, found in sums.items()}
        others = {os.path.relpath(path, saving): path for path in saving.rglob("*") if path.is_file()}
        files |= {file: sum_of(path) for file, path in others.items() if file not in files}
        with (saving / COMPLETE).open("w") as handle:
            json.dump({**asdict(begun.position), "files": files}, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())
        self._remove(self.folder / name)
        os.replace(saving, self.folder / name)
        _sync(self.folder)
        kept = self.retention.kept([(p.step, p.score) for p in map(read_position, complete_checkpoints(self.folder))])
        for old in complete_checkpoints(self.folder):
            if step_of(old) not in kept:
                try:
                    self._remove(old)
                except OSError as error:  # protected by somebody: no reason to end a run that has just saved
                    self.say(f"{old}: cannot be removed ({error.strerror}), and stays")

    def _remove(self, checkpoint: Path) -> None:
        """Take a checkpoint away whole: a kill half-way leaves nothing that bears its name."""
        if checkpoint.exists():
            removing = self.folder / f".removing-{checkpoint.name}"
            shutil.rmtree(removing, ignore_errors=True)
            os.replace(checkpoint, removing)
            shutil.rmtree(removing, ignore_errors=True)

    def _damage(self, checkpoint: Path) -> list[str]:
        """What is wrong with a checkpoint, on every rank; each reads its share of the files."""
        if is_complete(checkpoint):
            files = json.loads((checkpoint / COMPLETE).read_text())["files"]
            found = damaged_files(checkpoint, dict(list(files.items())[self.ranks.rank :: self.ranks.world]))
        else:
            found = [f"{COMPLETE} or a file that it lists is missing, cut or of another version"]
        return [problem for part in self.ranks.gather(found) for problem in part]

    def _set_aside_after(self, step: int) -> None:
        """Rename the checkpoints that this run does not go on from: they would be taken for its newest later."""
        for path in self.folder.glob("step_*"):
            if step_of(path) > step:
                aside = path.with_name(SET_ASIDE + path.name)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)


def _unfinished(name: str) -> str:
    return f".saving-{name}"


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
