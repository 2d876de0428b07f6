"""Checkpoints that need no launcher: written whole or not at all, kept by rule, checked before they are used."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from neurochorus.pretrain.checkpoint import Checkpoints
from neurochorus.pretrain.checkpoint_files import Sums, damaged_files, sum_of
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.position import COMPLETE, Position, complete_checkpoints, read_position
from neurochorus.pretrain.retention import Retention

ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))
FINGERPRINT: dict[str, Any] = {"settings": {"run.seed": 0}, "sessions": {}, "data": "d"}


class FakeEngine:
    """Writes what DeepSpeed would: some files under the tag; or fails like a full disk half-way."""

    def __init__(self, fail: bool = False):
        self.fail = fail
        self.loaded: tuple[str, bool] | None = None

    def save(self, folder: str, tag: str, behind: bool = False) -> Future[Sums]:
        place, files = Path(folder) / tag, Future()
        place.mkdir()
        (place / "weights.pt").write_bytes(b"w" * 100)
        if self.fail:
            files.set_exception(OSError(28, "No space left on device"))
        else:
            (place / "optimizer.pt").write_bytes(b"o" * 50)
            files.set_result({str(place / "weights.pt"): sum_of(place / "weights.pt")})
        return files

    def load(self, folder: str, tag: str, same_layout: bool) -> None:
        self.loaded = tag, same_layout


def position(step: int) -> Position:
    return Position(step, 8 * step, 1, 2, FINGERPRINT)


def save(folder: Path, *steps: int, keep: int = 9, fail: bool = False) -> Checkpoints:
    checkpoints = Checkpoints(folder, Retention(keep), ONE_RANK, print)
    for step in steps:
        checkpoints.save(FakeEngine(fail), position(step))  # type: ignore[arg-type]
    return checkpoints


def names(folder: Path) -> list[str]:
    return [path.name for path in complete_checkpoints(folder)]


def resume(checkpoints: Checkpoints, asked: Path | None = None, zero_stage: int = 2) -> tuple[str, bool] | None:
    engine = FakeEngine()
    checkpoints.resume(engine, FINGERPRINT, zero_stage, asked)  # type: ignore[arg-type]
    return engine.loaded


def test_checkpoints_appear_whole_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 5, 10, 15, keep=2)
    assert names(tmp_path) == ["step_00000010", "step_00000015"]
    assert read_position(tmp_path / "step_00000015") == position(15)
    assert {path.name for path in tmp_path.iterdir()} == set(names(tmp_path)), "something was left behind"


def test_what_a_kill_left_behind_is_removed_by_the_next_save(tmp_path: Path) -> None:
    for name in (".saving-step_00000005", ".removing-step_00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.pt").touch()
    save(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000010"]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(OSError, match=r"step_00000010: could not be written \(rank 0: .*No space left") as caught:
        save(tmp_path, 10, fail=True)
    assert "run the same command again" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"], "the partial one still takes up room"
    save(tmp_path, 10)
    assert names(tmp_path) == ["step_00000005", "step_00000010"]


def test_an_old_checkpoint_that_cannot_be_removed_does_not_end_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that somebody has made immutable: each save after it used to end the run, though it had saved."""
    replace_file = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == "step_00000001":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    save(tmp_path, 1, 2, 3, keep=1)
    assert names(tmp_path) == ["step_00000001", "step_00000003"]
    assert "step_00000001: cannot be removed (Operation not permitted), and stays" in capsys.readouterr().out


def test_cut_checkpoints_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = save(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step_00000004/weights.pt").write_bytes(b"cut")
    (tmp_path / "step_00000003" / COMPLETE).unlink()
    (tmp_path / "step_00000002" / COMPLETE).write_text("{half")
    for step, text in enumerate(("[]", "null", '{"files": []}', '{"files": {}}'), start=5):
        save(tmp_path, step)
        (tmp_path / f"step_{step:08d}" / COMPLETE).write_text(text)
    assert names(tmp_path) == ["step_00000001"]
    assert resume(checkpoints) == ("step_00000001", True)
    assert capsys.readouterr().out.count("is damaged (COMPLETE.json or a file that it lists is missing") == 7


def test_a_flipped_byte_sends_a_run_back_to_an_older_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = save(tmp_path, 4, 8)
    for file in ("weights.pt", "optimizer.pt"):  # one summed by its writer, the other by the checkpoint
        content = (tmp_path / "step_00000008" / file).read_bytes()
        (tmp_path / "step_00000008" / file).write_bytes(b"x" + content[1:])
        assert resume(checkpoints) == ("step_00000004", True)
        said = capsys.readouterr().out
        assert f"step_00000008: is damaged ({file}: was changed or cut" in said
        assert "going back to step_00000004" in said
        (tmp_path / "not_used_step_00000008").rename(tmp_path / "step_00000008")
        (tmp_path / "step_00000008" / file).write_bytes(content)
    (tmp_path / "step_00000004" / "weights.pt").write_bytes(b"x" * 100)
    assert resume(checkpoints) == ("step_00000008", True)
    (tmp_path / "step_00000008" / "weights.pt").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"is damaged .* and there is no other: remove it to start anew"):
        resume(checkpoints)


def test_other_ranks_or_another_stage_need_a_conversion(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 4)
    assert resume(checkpoints) == ("step_00000004", True)
    assert resume(checkpoints, zero_stage=3) == ("step_00000004", False)
    other = tmp_path / "other"
    Checkpoints(other, Retention(2), ONE_RANK, print).save(FakeEngine(), replace(position(4), world=2))  # type: ignore[arg-type]
    assert resume(Checkpoints(other, Retention(2), ONE_RANK, print)) == ("step_00000004", False)


def test_going_back_sets_the_later_checkpoints_aside(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 4, 8, 12)
    assert resume(checkpoints, asked=tmp_path / "step_00000004") == ("step_00000004", True)
    assert names(tmp_path) == ["step_00000004"]
    assert (tmp_path / "not_used_step_00000012" / "weights.pt").is_file()


def test_the_same_command_again_goes_on_with_what_became_of_going_back(tmp_path: Path) -> None:
    checkpoints, asked = save(tmp_path, 4, 8, 12), tmp_path / "step_00000004"
    resume(checkpoints, asked=asked)
    save(tmp_path, 6, 10)
    assert resume(checkpoints, asked=asked) == ("step_00000010", True)
    shutil.rmtree(asked)  # as retention does in time
    assert resume(checkpoints, asked=asked) == ("step_00000010", True)
    assert resume(checkpoints, asked=tmp_path / "step_00000006") == ("step_00000006", True)
    save(tmp_path, 10)
    assert resume(checkpoints) == ("step_00000010", True)
    assert resume(checkpoints, asked=tmp_path / "step_00000006") == ("step_00000006", True), "asked for anew"


def test_a_run_that_began_from_another_goes_on_with_its_own(tmp_path: Path) -> None:
    save(tmp_path / "other", 4)
    own = Checkpoints(tmp_path / "own", Retention(2), ONE_RANK, print)
    assert resume(own, asked=tmp_path / "other" / "step_00000004") == ("step_00000004", True)
    save(tmp_path / "own", 6)
    assert resume(own, asked=tmp_path / "other" / "step_00000004") == ("step_00000006", True)


@given(
    scores=some.lists(some.one_of(some.none(), some.floats(allow_nan=True, width=16)), max_size=12),
    newest=some.integers(1, 4),
    every=some.one_of(some.none(), some.integers(1, 5)),
)
def test_retention(scores: list[float | None], newest: int, every: int | None) -> None:
    """One at a time, as a run saves them: the best of all is there at the end, and nothing without a reason."""
    there: list[tuple[int, float | None]] = []
    for step, score in enumerate(scores, start=1):
        kept = Retention(newest, every, best=True).kept([*there, (step, score)])
        there = [checkpoint for checkpoint in [*there, (step, score)] if checkpoint[0] in kept]
    steps = {step for step, _ in there}
    reasons = set(range(len(scores), max(0, len(scores) - newest), -1))
    reasons |= {step for step in range(1, len(scores) + 1) if every and step % every == 0}
    real = [(score, step) for step, score in enumerate(scores, start=1) if score is not None and score == score]
    assert steps == reasons | ({min(real)[1]} if real else set())


def test_positions_read_back_exactly(tmp_path: Path) -> None:
    trouble = {"losses": [0.1, 1 / 3, 1e-300], "skipped": 2}
    written = Position(3, 2**40, 2, 3, FINGERPRINT, trouble, score=1 / 7)
    Checkpoints(tmp_path, Retention(1), ONE_RANK, print).save(FakeEngine(), written)  # type: ignore[arg-type]
    assert read_position(tmp_path / "step_00000003") == written
    listed = json.loads((tmp_path / "step_00000003" / COMPLETE).read_text())["files"]
    assert listed.keys() == {"weights.pt", "optimizer.pt"}


@pytest.fixture
def small_files() -> Iterator[int]:
    """Let no file grow beyond some bytes while inside, as a quota would."""
    limit, before = 200_000, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("behind", [False, True])
def test_the_writer_keeps_the_error_of_a_full_disk(tmp_path: Path, small_files: int, behind: bool) -> None:
    from neurochorus.pretrain.checkpoint_writer import CheckpointCommitInfo, CheckpointWriter

    writer, path = CheckpointWriter(), tmp_path / "weights.pt"
    writer.behind = behind
    writer.save({"w": torch.arange(10.0)}, str(path))
    assert path.exists() != behind
    assert damaged_files(tmp_path, {"weights.pt": writer.finish().result()[str(path)]}) == []
    assert torch.equal(writer.load(str(path))["w"], torch.arange(10.0))
    writer.save({"w": torch.zeros(small_files)}, str(tmp_path / "large.pt"))
    writer.save({"w": torch.zeros(1)}, str(tmp_path / "after.pt"))
    failure = writer.finish().exception()
    assert isinstance(failure, OSError)
    assert failure.errno == errno.EFBIG
    assert str(tmp_path / "large.pt") in str(failure)
    assert not (tmp_path / "after.pt").exists()
    writer.makedirs("/proc/nothing")
    assert writer.finish().exception() is failure, "the first error is the one to tell"
    writer.create(CheckpointCommitInfo("next", str(tmp_path), False))
    assert writer.finish().result() == {}
