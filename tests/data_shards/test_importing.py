import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards import importing
from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.import_jobs import ImportJob
from neurochorus.data_shards.importing import ImportFailed, import_dataset, make_part
from neurochorus.data_shards.index import INDEX_FILE
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.shard_files import HashingFile
from neurochorus.data_shards.staging import working_directory
from neurochorus.data_shards.verify import dataset_problems

SHARD_BYTES = 20_000
KILLED = 9


def recipe(**changes: Any) -> Recipe:
    values = {
        "name": "made",
        "importer": "npz",
        "bin_s": 0.01,
        "sample_bins": 10,
        "subject_id": {"key": "animal"},
        "signal": {"layout": "trials", "key": "counts"},
    }
    return parse_settings(Recipe, values | changes, "recipe")


def save_session(source: Path, name: str, seed: int, trials: int = 20, units: int = 6) -> None:
    source.mkdir(exist_ok=True)
    counts = np.random.default_rng(seed).poisson(1.0, (trials, 25, units)).astype(np.uint8)
    np.savez(source / f"{name}.npz", counts=counts, animal=np.array("fox"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(3):
        save_session(tmp_path / "source", f"s{number}", number, units=4 + number)
    return tmp_path / "source"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def check_whole(out: Path) -> str:
    """The hash of a data set in which every byte is as it should be; an index or shard that nothing names may be."""
    dataset = ShardDataset(out)
    problems = [problem for problem in dataset_problems(dataset) if "not part of the data set" not in problem]
    assert problems == []
    return dataset.manifest_hash


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, source: Path, jobs: int) -> None:
    import_dataset(recipe(), source, tmp_path / "one", shard_bytes=SHARD_BYTES)
    report = import_dataset(recipe(), source, tmp_path / "other", jobs=jobs, shard_bytes=SHARD_BYTES)
    assert report.added == ["s0", "s1", "s2"]
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert len(report.manifest.shards) > 2
    assert check_whole(tmp_path / "other") == report.manifest.hash()
    assert not working_directory(tmp_path / "other").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_file_is_left_out_and_named(tmp_path: Path, source: Path, jobs: int) -> None:
    (source / "s1.npz").write_bytes(b"no archive")
    report = import_dataset(recipe(), source, tmp_path / "data", jobs=jobs)
    assert report.added == ["s0", "s2"]
    assert list(report.failures) == ["s1.npz"]
    assert "is no .npz file: is it whole?" in report.failures["s1.npz"]
    with pytest.raises(ImportFailed, match=r"ends a strict import\n  - s1\.npz: .*is no .npz file"):
        import_dataset(recipe(), source, tmp_path / "strict", jobs=jobs, strict=True)
    assert not (tmp_path / "strict").exists()


def test_nothing_is_written_when_no_file_is_good(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ImportFailed, match=r"nothing was written\n  - s0\.npz: .*has no array 'spikes'"):
        import_dataset(recipe(signal={"layout": "trials", "key": "spikes"}), source, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_two_files_with_one_session_id_are_told_apart(tmp_path: Path, source: Path) -> None:
    report = import_dataset(recipe(session_id="same"), source, tmp_path / "data")
    assert report.added == ["same"]
    assert report.failures["s2.npz"] == (
        "its session id 'same' is that of s0.npz too: make the ids unique in the recipe (session_id)"
    )


def test_a_process_that_dies_takes_only_its_file_along(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "make_part", die_at_s1)
    report = import_dataset(recipe(), source, tmp_path / "data", jobs=2)
    assert report.added == ["s0", "s2"]
    assert "ended with exit code -9" in report.failures["s1.npz"]


def die_at_s1(job: ImportJob, tar: Path) -> None:
    if job.name == "s1.npz":
        os.kill(os.getpid(), signal.SIGKILL)
    make_part(job, tar)


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path, source: Path) -> None:
    def interrupt(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        import_dataset(recipe(), source, out, progress=interrupt)
    assert not out.exists()
    seen: list[str] = []
    report = import_dataset(recipe(), source, out, progress=lambda done, total, name: seen.append(name))
    assert (report.resumed, seen) == (2, ["s2.npz"])
    import_dataset(recipe(), source, tmp_path / "other")
    assert contents(out) == contents(tmp_path / "other")


def test_what_changed_since_the_interruption_is_imported_again(tmp_path: Path, source: Path) -> None:
    def interrupt(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(recipe(), source, tmp_path / "data", progress=interrupt)
    save_session(source, "s0", 77, units=5)
    assert import_dataset(recipe(), source, tmp_path / "data").resumed == 1
    with pytest.raises(KeyboardInterrupt):
        import_dataset(recipe(), source, tmp_path / "other", progress=interrupt)
    assert import_dataset(recipe(sample_bins=20), source, tmp_path / "other").resumed == 0


def test_new_sessions_are_added_without_touching_old_shards(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "data"
    first = import_dataset(recipe(), source, out, shard_bytes=SHARD_BYTES).manifest
    before = contents(out)
    save_session(source, "s3", 3)
    save_session(source, "a0", 4)
    report = import_dataset(recipe(), source, out, shard_bytes=SHARD_BYTES, extend=True)
    assert report.added == ["a0", "s3"]
    assert report.skipped == ["s0.npz (s0)", "s1.npz (s1)", "s2.npz (s2)"]
    assert [entry.session_id for entry in report.manifest.sessions] == ["s0", "s1", "s2", "a0", "s3"]
    assert report.manifest.sessions[:3] == first.sessions
    assert check_whole(out) == report.manifest.hash()
    after = contents(out)
    assert {name for name in before if before[name] != after[name]} == {MANIFEST_FILE, INDEX_FILE}
    assert report.manifest.provenance["extensions"] == [{"sessions": ["a0", "s3"]}]
    assert dataset_problems(ShardDataset(out)) == []
    nothing = import_dataset(recipe(), source, out, extend=True)
    assert (nothing.added, len(nothing.skipped), contents(out)) == ([], 5, after)


def test_another_source_may_extend_it(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "data"
    import_dataset(recipe(), source, out)
    save_session(tmp_path / "more", "m0", 5)
    other = recipe(licence="MIT")
    report = import_dataset(other, tmp_path / "more", out, extend=True)
    assert report.added == ["m0"]
    assert report.manifest.provenance["extensions"][0]["recipe"]["licence"] == "MIT"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bin_s": 0.02}, "cannot be extended by recipe 'made': bin_s is 0.02, the data set has 0.01"),
        ({"sample_bins": 7}, "sample_bins is 7, the data set has 10"),
        ({"name": "other"}, "name is 'other', the data set has 'made'"),
    ],
)
def test_other_rules_do_not_extend_it(tmp_path: Path, source: Path, changes: dict[str, Any], message: str) -> None:
    import_dataset(recipe(), source, tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        import_dataset(recipe(**changes), source, tmp_path / "data", extend=True)


def test_another_recording_of_a_session_that_is_there_is_refused_by_name(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "data"
    import_dataset(recipe(), source, out)
    save_session(source, "s1", 99)
    save_session(source, "s3", 3)
    report = import_dataset(recipe(), source, out, extend=True)
    assert report.added == ["s3"]
    assert "session 's1' is in" in report.failures["s1.npz"]
    assert "made of another file (sha256 " in report.failures["s1.npz"]


def test_synthetic_sessions_extend_a_data_set(tmp_path: Path) -> None:
    def synthetic(subjects: list[str]) -> Recipe:
        system = {"system": "lorenz", "subjects": subjects, "trials": 10, "trial_bins": 10, "units": [3, 5]}
        values = {"name": "made", "importer": "synthetic", "bin_s": 0.01, "sample_bins": 10, "synthetic": system}
        return parse_settings(Recipe, values, "recipe")

    import_dataset(synthetic(["fox"]), None, tmp_path / "data")
    report = import_dataset(synthetic(["fox", "hare"]), None, tmp_path / "data", jobs=2, extend=True)
    assert (report.added, report.skipped) == (["hare_s1"], ["fox_s1 (fox_s1)"])


def test_extending_nothing_and_overwriting_are_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ValueError, match="no data set to extend: leave --extend out"):
        import_dataset(recipe(), source, tmp_path / "data", extend=True)
    import_dataset(recipe(), source, tmp_path / "data")
    with pytest.raises(ValueError, match=r"exists and is not overwritten.*--extend"):
        import_dataset(recipe(), source, tmp_path / "data")


def test_two_runs_into_one_data_set_are_refused(tmp_path: Path, source: Path) -> None:
    def again(done: int, total: int, name: str) -> None:
        with pytest.raises(ValueError, match="another run is writing it"):
            import_dataset(recipe(), source, tmp_path / "data")

    assert len(import_dataset(recipe(), source, tmp_path / "data", progress=again).added) == 3


def killed_at(step: int, body: Callable[[], object]) -> int:
    """Run `body` in a forked process that dies before its `step`-th opening, writing, renaming, syncing or removing.

    Returns its exit status: KILLED, or 0 when it was through before that.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = step

    def count(event: str = "", arguments: tuple[Any, ...] = ()) -> None:
        nonlocal left
        reading = event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in ("", "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and not reading:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (count(), function(*arguments))[1]

    os.fsync = counted(os.fsync)
    HashingFile.write = counted(HashingFile.write)
    sys.addaudithook(count)
    try:
        body()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for number in range(2):
        save_session(tmp_path / "source", f"s{number}", number, trials=4)
    return tmp_path / "source"


def test_a_kill_at_any_moment_leaves_no_data_set_or_all_of_it(tmp_path: Path, small: Path) -> None:
    def write(out: Path) -> object:
        return import_dataset(recipe(), small, out, shard_bytes=10_000)

    write(tmp_path / "whole")
    out, step = tmp_path / "data", 0
    whole = contents(tmp_path / "whole")
    while (status := killed_at(step, lambda: write(out))) != 0:
        assert status == KILLED
        if out.exists():
            assert contents(out) == whole
        elif step % 5 == 0:  # the same command goes on
            write(out)
            assert contents(out) == whole
        shutil.rmtree(out, ignore_errors=True)
        step += 1
    assert step > 30


def test_a_kill_at_any_moment_of_extending_leaves_the_old_or_the_new(tmp_path: Path, small: Path) -> None:
    def extend(out: Path) -> object:
        return import_dataset(recipe(), small, out, shard_bytes=10_000, extend=True)

    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "data"
    import_dataset(recipe(), small, old, shard_bytes=10_000)
    save_session(small, "s3", 3, trials=4)
    shutil.copytree(old, new)
    extend(new)
    hashes = [Manifest.load(path).hash() for path in (old, new)]
    shutil.copytree(old, out)
    step, found = 0, []
    while (status := killed_at(step, lambda: extend(out))) != 0:
        assert status == KILLED
        found.append(hashes.index(check_whole(out)))
        if step % 5 == 0 or found[-1]:  # goes on, and tidies up
            extend(out)
            assert contents(out) == contents(new)
            assert not working_directory(out).exists()
        shutil.rmtree(out)
        shutil.rmtree(working_directory(out), ignore_errors=True)
        shutil.copytree(old, out)
        step += 1
    assert found == sorted(found)  # once it is the new one, it stays that
    assert found.count(0) > 20
    assert found.count(1) >= 3


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("limit", [1_000, 15_000, 25_000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, source: Path, extend: bool, limit: int) -> None:
    """A limit on the size of a file makes write() fail as a full disk does."""
    out = tmp_path / "data"
    if extend:
        import_dataset(recipe(), source, out, shard_bytes=SHARD_BYTES)
    before = contents(out) if extend else None
    save_session(source, "s9", 9, trials=30)
    messages = tmp_path / "messages"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            import_dataset(recipe(), source, out, shard_bytes=SHARD_BYTES, extend=extend)
        except OSError as error:
            messages.write_text(str(error))
            raise

    assert killed_at(10**9, limited) == 1
    assert f"cannot write {out}: File too large; it is as it was before" in messages.read_text()
    assert (contents(out) if out.exists() else None) == before
    import_dataset(recipe(), source, out, shard_bytes=SHARD_BYTES, extend=extend)
    assert "s9" in [entry.session_id for entry in Manifest.load(out).sessions]


def on_a_full_disk(job: ImportJob, tar: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    make_part(job, tar)


def test_a_disk_that_is_full_in_a_process_ends_the_import(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(importing, "make_part", on_a_full_disk)
        with pytest.raises(OSError, match=r"cannot write .*data: File too large; it is as it was before"):
            import_dataset(recipe(), source, tmp_path / "data", jobs=2)
    assert not (tmp_path / "data").exists()
    assert len(import_dataset(recipe(), source, tmp_path / "data", jobs=2).added) == 3
