import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from neurochorus.data_shards.describe import summarise
from neurochorus.data_shards.index import Index
from neurochorus.data_shards.manifest import Manifest
from neurochorus.data_shards.recording import Recording, Segment, Unit, unit_hash
from neurochorus.data_shards.writer import write_dataset


def recordings() -> Iterator[Recording]:
    """Two sessions: counts with two covariates and gaps between trials, and a continuous one without covariates."""
    generator = np.random.default_rng(0)
    yield Recording(
        session_id="fox_s1",
        subject_id="fox",
        modality="spikes",
        bin_s=0.01,
        signal_TC=generator.poisson(1.0, (100, 5)).astype(np.uint8),
        units=[Unit(f"u{i}", "CA1", {"depth": i / 3}) for i in range(5)],
        segments=[
            Segment(0, 30, "train", {"choice": "left"}),
            Segment(30, 60, "test"),
            Segment(62, 75, "valid"),
            Segment(80, 100, "train", {"choice": "right"}),
        ],
        covariates={
            "speed": generator.normal(size=(100, 1)).astype(np.float32),
            "arm": np.full((100, 2), np.nan, np.float32),
        },
        provenance={"file": "fox.npz"},
    )
    yield Recording(
        session_id="hare_s1",
        subject_id="hare",
        modality="continuous",
        bin_s=0.02,
        signal_TC=generator.normal(size=(50, 7)).astype(np.float32),
        units=[Unit(f"c{i}") for i in range(7)],
        segments=[Segment(0, 50, "train")],
    )


def write(out: Path, shard_bytes: int = 2**20) -> Manifest:
    return write_dataset(recordings(), out, name="made", sample_bins=12, shard_bytes=shard_bytes)


def test_plain_webdataset_reads_what_was_written(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", shard_bytes=4000)
    assert len(manifest.shards) > 2
    originals = {recording.session_id: recording for recording in recordings()}
    samples = []
    for shard in manifest.shards:
        dataset = wds.WebDataset(str(tmp_path / "data" / shard.file), shardshuffle=False).decode()  # type: ignore[attr-defined]
        read = list(dataset)
        assert len(read) == shard.samples
        samples += read
    keys = [f"fox_s1-{i:06d}" for i in range(10)] + [f"hare_s1-{i:06d}" for i in range(5)]
    assert [sample["__key__"] for sample in samples] == keys
    for sample in samples:
        meta = sample["meta.json"]
        original = originals[meta["session_id"]]
        span = slice(meta["start"], meta["start"] + meta["bins"])
        segment = original.segments[meta["segment"]]
        assert segment.start <= span.start < span.stop <= segment.stop
        assert (meta["split"], meta["labels"], meta["bin_s"]) == (segment.split, segment.labels, original.bin_s)
        np.testing.assert_array_equal(sample["signal.npy"], original.signal_TC[span])
        assert sample["signal.npy"].dtype == original.signal_TC.dtype
        assert ("covariates.npy" in sample) == bool(original.covariates)
        if original.covariates:
            expected = np.concatenate([original.covariates["arm"][span], original.covariates["speed"][span]], axis=1)
            np.testing.assert_array_equal(sample["covariates.npy"], expected)


def test_samples_cover_every_segment_once(tmp_path: Path) -> None:
    write(tmp_path / "data")
    index = Index.load(tmp_path / "data")
    for number, recording in enumerate(recordings()):
        rows = index.session == number
        covered = np.zeros(len(recording.signal_TC), int)
        for start, bins in zip(index.start[rows], index.bins[rows]):
            assert bins <= 12
            covered[start : start + bins] += 1
        expected = np.zeros(len(recording.signal_TC), int)
        for segment in recording.segments:
            expected[segment.start : segment.stop] = 1
        np.testing.assert_array_equal(covered, expected)


def test_the_index_points_at_the_members(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", shard_bytes=4000)
    index = Index.load(tmp_path / "data", manifest.hash())
    row = 0
    for number, shard in enumerate(manifest.shards):
        data = (tmp_path / "data" / shard.file).read_bytes()
        assert len(data) == shard.bytes
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        with tarfile.open(tmp_path / "data" / shard.file) as tar:
            members = {member.name: member for member in tar.getmembers()}
        rows = np.flatnonzero(index.shard == number)
        assert len(rows) == shard.samples
        assert sorted(index.shard.tolist()) == index.shard.tolist()
        counts: dict[int, int] = {}
        for row in rows:
            session = int(index.session[row])
            first = int(np.flatnonzero(index.session == session)[0])
            key = f"{manifest.sessions[session].session_id}-{row - first:06d}"
            counts[session] = counts.get(session, 0) + 1
            for member, suffix in (("signal", "npy"), ("covariates", "npy"), ("meta", "json")):
                offset, size = (int(getattr(index, f"{member}_{what}")[row]) for what in ("offset", "bytes"))
                if f"{key}.{member}.{suffix}" not in members:
                    assert (member, size) == ("covariates", 0)
                    continue
                info = members[f"{key}.{member}.{suffix}"]
                assert (offset, size) == (info.offset_data, info.size)
                assert zlib.crc32(data[offset : offset + size]) == int(getattr(index, f"{member}_crc32")[row])
    assert row == len(index) - 1


def test_the_manifest_tells_what_is_there(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data")
    assert Manifest.load(tmp_path / "data") == manifest
    fox, hare = manifest.sessions
    original = next(recordings())
    train = np.concatenate([original.signal_TC[:30], original.signal_TC[80:]])
    assert fox.train_bins == 50
    np.testing.assert_allclose(fox.unit_mean, train.mean(axis=0))
    np.testing.assert_allclose(fox.unit_sd, train.std(axis=0))
    assert fox.unit_hash == unit_hash(f"u{i}" for i in range(5))
    assert fox.units[1] == {"unit_id": "u1", "region": "CA1", "depth": 1 / 3}
    assert fox.covariates == {"arm": 2, "speed": 1}
    assert hare.covariates == {}
    assert manifest.splits == {
        "train": {"samples": 3 + 2 + 5, "bins": 100},
        "valid": {"samples": 2, "bins": 13},
        "test": {"samples": 3, "bins": 30},
    }
    summary = summarise(tmp_path / "data")
    assert summary.sessions[0].samples == {"train": 5, "valid": 2, "test": 3}
    assert summary.sessions[0].hours == pytest.approx(93 * 0.01 / 3600)
    np.testing.assert_allclose(summary.sessions[0].level_C, train.mean(axis=0) / 0.01)


def test_the_same_recordings_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one", shard_bytes=4000)
    time.sleep(1.1)  # a time of writing in a header would show
    write(tmp_path / "two", shard_bytes=4000)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_an_existing_directory_is_refused_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "data"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not overwritten: choose another directory"):
        write(out)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "notes.txt"]


def test_a_bad_recording_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Recording]:
        yield next(recordings())
        raise ValueError("session two is bad")

    def twice() -> Iterator[Recording]:
        yield next(recordings())
        yield next(recordings())

    def untrained() -> Iterator[Recording]:
        good = next(recordings())
        yield dataclasses.replace(good, segments=[Segment(0, 30, "test")])

    for source, message in (
        (broken, "session two is bad"),
        (twice, "two recordings have the session id 'fox_s1'"),
        (untrained, "'fox_s1': no segment is in the train split"),
        (lambda: iter(()), "no recording to write"),
    ):
        with pytest.raises(ValueError, match=message):
            write_dataset(source(), tmp_path / "data", name="made", sample_bins=10)
        assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Recording]:
        yield next(recordings())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(interrupted(), tmp_path / "data", name="made", sample_bins=10)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_reading_is_not_called_one_of_writing(tmp_path: Path) -> None:
    def unreadable() -> Iterator[Recording]:
        yield next(recordings())
        (tmp_path / "source" / "gone.npz").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        write_dataset(unreadable(), tmp_path / "data", name="made", sample_bins=10)


def test_a_target_inside_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/data: .*choose another directory"):
        write(tmp_path / "file" / "data")


WRITE_SLOWLY = """
import sys, time
import numpy as np
from pathlib import Path
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.writer import write_dataset

def recordings():
    for number in range(100):
        yield Recording(f"s{number}", "fox", "spikes", 0.01, np.ones((20000, 5), np.uint8),
                        [Unit(f"u{i}") for i in range(5)], [Segment(0, 20000, "train")])
        print("one", flush=True)
        time.sleep(float(sys.argv[2]))

write_dataset(recordings(), Path(sys.argv[1]), name="made", sample_bins=1000, shard_bytes=50000)
"""


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_SLOWLY, str(tmp_path / "data"), "1"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["one\n"] * 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".data.partial-")
    assert list(left.glob("shard-*.tar"))
    with pytest.raises(ValueError, match="not a finished data set"):
        Manifest.load(left)
    write(tmp_path / "data")  # what is left does not stand in the way
    assert Manifest.load(tmp_path / "data").name == "made"


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file size makes write() fail as a full disk does."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n" + WRITE_SLOWLY
    process = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path / "data"), "0"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert f"cannot write {tmp_path / 'data'}: File too large; nothing was left behind" in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_holds_no_nan(tmp_path: Path) -> None:
    write(tmp_path / "data")
    text = (tmp_path / "data" / "manifest.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
