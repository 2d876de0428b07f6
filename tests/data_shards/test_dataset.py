"""Reading gives exactly what was written, and nothing from a damaged or a hostile data set."""

import dataclasses
import hashlib
import io
import json
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError, ShardDataset
from neurochorus.data_shards.index import COLUMN_DTYPES, Index
from neurochorus.data_shards.manifest import Manifest
from neurochorus.data_shards.writer import write_dataset


@pytest.fixture
def copy(data_path: Path, tmp_path: Path) -> Path:
    """A data set that may be damaged."""
    return Path(shutil.copytree(data_path, tmp_path / "copy"))


def forge(path: Path, row: int, member: str, data: bytes) -> None:
    """Put other bytes into one member and make every size, checksum and hash fit again, as an attacker would."""
    dataset = ShardDataset(path)
    number = int(dataset.index.shard[row])
    shard = path / dataset.manifest.shards[number].file
    name = f"{dataset.key(row)}.{member}"
    with tarfile.open(shard, "r:") as tar:
        contents = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(shard, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for found, old in contents:
            info = tarfile.TarInfo(found)
            new = data if found == name else old
            info.size = len(new)
            tar.addfile(info, io.BytesIO(new))
    columns = {column: getattr(dataset.index, column).copy() for column in COLUMN_DTYPES}
    row_of = {dataset.key(i): i for i in np.flatnonzero(dataset.index.shard == number).tolist()}
    with tarfile.open(shard, "r:") as tar:
        for info in tar:
            key, column = info.name.split(".")[:2]
            columns[f"{column}_offset"][row_of[key]] = info.offset_data
            columns[f"{column}_bytes"][row_of[key]] = info.size
            columns[f"{column}_crc32"][row_of[key]] = zlib.crc32(tar.extractfile(info).read())  # type: ignore[union-attr]
    entries = list(dataset.manifest.shards)
    entries[number] = dataclasses.replace(
        entries[number], bytes=shard.stat().st_size, sha256=hashlib.sha256(shard.read_bytes()).hexdigest()
    )
    manifest = dataclasses.replace(dataset.manifest, shards=entries)
    manifest.save(path / "manifest.json")
    Index(manifest.hash(), **columns).save(path / "index.npz")


def as_npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def test_reading_gives_exactly_what_was_written(data_path, recordings):
    dataset = ShardDataset(data_path)
    assert len(dataset.manifest.shards) > 2
    row = 0
    for recording in recordings:
        for number, segment in enumerate(recording.segments):
            sample = dataset.read(row)
            assert sample.key == f"{recording.session_id}-{number:06d}"
            expected = recording.signal_TC[segment.start : segment.stop]
            assert sample.signal_TC.dtype == expected.dtype
            np.testing.assert_array_equal(sample.signal_TC, expected)
            if recording.covariates:
                columns = [recording.covariates[name] for name in sorted(recording.covariates)]
                assert sample.covariates_TK is not None
                np.testing.assert_array_equal(sample.covariates_TK, np.hstack(columns)[segment.start : segment.stop])
            else:
                assert sample.covariates_TK is None
            assert sample.meta["labels"] == segment.labels
            assert (sample.meta["start"], sample.meta["split"]) == (segment.start, segment.split)
            assert dataset.read(row, with_meta=False).meta == {}
            row += 1
    assert row == len(dataset)


def test_webdataset_reads_the_same(data_path):
    dataset = ShardDataset(data_path)
    urls = [str(data_path / shard.file) for shard in dataset.manifest.shards]
    seen = list(wds.WebDataset(urls, shardshuffle=False).decode())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(seen) == len(dataset)
    for row, theirs in enumerate(seen):
        ours = dataset.read(row)
        assert theirs["__key__"] == ours.key
        np.testing.assert_array_equal(theirs["signal.npy"], ours.signal_TC)
        assert theirs["meta.json"] == ours.meta


def test_rows_of_a_split_are_those_of_its_segments(data_path, recordings):
    dataset = ShardDataset(data_path)
    first = 0
    for recording in recordings:
        for split in ("train", "valid", "test"):
            expected = [first + i for i, segment in enumerate(recording.segments) if segment.split == split]
            assert dataset.rows_of(recording.session_id, split).tolist() == expected
        first += len(recording.segments)
    with pytest.raises(ValueError, match=r"'a3'.*'a1'"):
        dataset.rows_of("a3", "train")
    with pytest.raises(ValueError, match="'tests' is not one of"):
        dataset.rows_of("a1", "tests")


def test_a_whole_data_set_passes_every_check(data_path):
    dataset, calls = ShardDataset(data_path), []
    dataset.verify(lambda done, total: calls.append((done, total)))
    total = sum(shard.bytes for shard in dataset.manifest.shards)
    assert calls[-1] == (total, total)
    assert len(calls) == len(dataset.manifest.shards)


def test_a_pickled_reader_opens_again_and_notices_another_data_set(copy, data_path):
    dataset = ShardDataset(copy)
    dataset.read(0)
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.read(3).signal_TC, dataset.read(3).signal_TC)
    manifest = dataclasses.replace(dataset.manifest, name="another")
    manifest.save(copy / "manifest.json")
    columns = {column: getattr(dataset.index, column) for column in COLUMN_DTYPES}
    Index(manifest.hash(), **columns).save(copy / "index.npz")
    with pytest.raises(DatasetError, match="written anew"):
        pickle.loads(data)


def test_a_data_set_that_is_extended_while_it_is_opened(copy, monkeypatch):
    before = Manifest.load(copy)
    after = dataclasses.replace(before, name="extended")
    columns = {column: getattr(ShardDataset(copy).index, column) for column in COLUMN_DTYPES}
    Index(after.hash(), **columns).save(copy / "index.npz")
    after.save(copy / "manifest.json")
    read = [before]
    load = Manifest.load
    monkeypatch.setattr(Manifest, "load", lambda path: read.pop() if read else load(path))
    assert ShardDataset(copy).manifest.name == "extended"
    read += [before, before]
    with pytest.raises(DatasetError, match="belongs to another data set"):
        ShardDataset(copy)


def test_only_so_many_shards_stay_open(data_path, monkeypatch):
    monkeypatch.setattr("neurochorus.data_shards.dataset.MAX_OPEN_SHARDS", 1)
    dataset = ShardDataset(data_path)
    expected = [ShardDataset(data_path).read(row).signal_TC for row in (0, len(dataset) - 1)]
    for _ in range(3):
        for row, signal in zip((0, len(dataset) - 1), expected):
            np.testing.assert_array_equal(dataset.read(row).signal_TC, signal)
            assert len(dataset._open_shards) == 1


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_a_shard_is_refused_and_not_executed(copy, tmp_path):
    trap = tmp_path / "executed"
    array = np.empty((12, 5), dtype=object)
    array[:] = Payload(trap)
    hostile = as_npy(array, allow_pickle=True)
    forge(copy, 0, "signal.npy", hostile)
    dataset = ShardDataset(copy)
    with pytest.raises(DatasetError, match=r"a1-000000\.signal\.npy: an array of python objects"):
        dataset.read(0)
    with pytest.raises(DatasetError, match="python objects"):
        dataset.verify()
    assert not trap.exists()
    np.load(io.BytesIO(hostile), allow_pickle=True)
    assert trap.exists(), "the trap would not have caught anything"


@pytest.mark.parametrize(
    ("member", "data", "text"),
    [
        ("signal.npy", as_npy(np.zeros((12, 5), np.float64)), "dtype float64; expected uint8 or uint16"),
        ("signal.npy", as_npy(np.zeros((12, 5), np.float32)), "dtype float32; expected uint8 or uint16"),
        ("signal.npy", as_npy(np.zeros((12, 5), ">u2")), "dtype >u2; expected uint8 or uint16"),
        ("signal.npy", as_npy(np.zeros((11, 5), np.uint8)), r"shape \(11, 5\).*\(12, 5\)"),
        ("signal.npy", as_npy(np.zeros((12, 6), np.uint8)), r"shape \(12, 6\).*\(12, 5\)"),
        ("signal.npy", as_npy(np.asfortranarray(np.zeros((12, 5), np.uint8))), "Fortran order"),
        ("signal.npy", as_npy(np.zeros((12, 5), np.uint8)) + b"more", "64 bytes of data.*has 60"),
        ("signal.npy", as_npy(np.zeros((12, 5), np.uint8))[:-1], "59 bytes of data.*has 60"),
        ("signal.npy", b"cbuiltins\nexec\n", "not an .npy array"),
        ("signal.npy", b"\x93NUMPY\x01\x00\x60\xea" + b"(" * 60000, "not an .npy array"),
        ("covariates.npy", as_npy(np.zeros((12, 2), np.float32)), r"shape \(12, 2\).*\(12, 3\)"),
        ("covariates.npy", as_npy(np.zeros((12, 3), np.float64)), "dtype float64; expected float32"),
        ("meta.json", b"{'a': 1}", "not valid JSON"),
        ("meta.json", b"[" * 100_000, "not valid JSON"),
        ("meta.json", b"[1]", "a JSON list"),
        ("meta.json", b'{"session_id": "b1"}', "session_id is 'b1'.*say 'a1'"),
    ],
)
def test_a_member_that_is_not_what_it_should_be_is_named(copy, member, data, text):
    forge(copy, 2, member, data)
    dataset = ShardDataset(copy)
    with pytest.raises(DatasetError, match=text) as caught:
        dataset.read(2)
    assert f"shard-000000.tar: a1-000002.{member}" in str(caught.value)
    assert "describe.py" in str(caught.value)
    dataset.read(1)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_found_where_it_lies(copy):
    dataset = ShardDataset(copy)
    flip(copy / "shard-000000.tar", int(dataset.index.signal_offset[1] + 130))
    dataset = ShardDataset(copy)
    dataset.read(0)
    with pytest.raises(DatasetError, match=r"a1-000001\.signal\.npy: the checksum does not fit"):
        dataset.read(1)
    with pytest.raises(DatasetError) as caught:
        dataset.verify()
    assert len(caught.value.problems) == 2
    assert "shard-000000.tar: sha256" in caught.value.problems[0]
    assert "a1-000001.signal.npy: the checksum" in caught.value.problems[1]


def test_bytes_between_the_members_are_checked_too(copy):
    flip(copy / "shard-000001.tar", int(ShardDataset(copy).index.signal_offset[0]) - 512)
    with pytest.raises(DatasetError, match=r"shard-000001\.tar"):
        ShardDataset(copy).verify()


def cut(path: Path) -> None:
    shard = path / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-5000])


def exchange_index(path: Path) -> None:
    dataset = ShardDataset(path)
    columns = {column: getattr(dataset.index, column) for column in COLUMN_DTYPES}
    Index("0123456789abcdef", **columns).save(path / "index.npz")


def edit_manifest(path: Path) -> None:
    values = json.loads((path / "manifest.json").read_text())
    values["sessions"][0]["subject_id"] = "bert"
    (path / "manifest.json").write_text(json.dumps(values))


def later_format(path: Path) -> None:
    values = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(values | {"format_version": 7}))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (cut, r"shard-000001\.tar: .* cut short"),
        (lambda path: (path / "shard-000001.tar").open("ab").write(b"x"), r"shard-000001\.tar: .*was added"),
        (lambda path: (path / "shard-000001.tar").unlink(), r"shard-000001\.tar: missing"),
        (lambda path: (path / "index.npz").unlink(), "index.npz: no index"),
        (lambda path: flip(path / "index.npz", 3000), "index.npz: cannot be read"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json: no manifest"),
        (exchange_index, "index.npz: belongs to another data set"),
        (edit_manifest, "index.npz: belongs to another data set"),
        (later_format, "format version 7"),
    ],
)
def test_a_damaged_data_set_is_refused_on_opening(copy, damage: Callable[[Path], object], text):
    damage(copy)
    with pytest.raises(DatasetError, match=text) as caught:
        ShardDataset(copy)
    assert str(copy) in str(caught.value)
    assert any(fix in str(caught.value) for fix in ("write it again", "write the data set again", "launch/shard.py"))


@pytest.mark.parametrize("column", ["shard", "session", "split", "signal_offset", "meta_bytes"])
@pytest.mark.parametrize("value", [-1, 10**9])
def test_an_index_that_points_outside_is_refused(copy, column, value):
    dataset = ShardDataset(copy)
    columns = {name: getattr(dataset.index, name).copy() for name in COLUMN_DTYPES}
    columns[column][4] = min(value, np.iinfo(columns[column].dtype).max)
    Index(dataset.manifest.hash(), **columns).save(copy / "index.npz")
    with pytest.raises(DatasetError, match=r"index\.npz: (column|row 4)"):
        ShardDataset(copy)


def test_an_index_with_a_row_too_few_is_refused(copy):
    dataset = ShardDataset(copy)
    columns = {name: getattr(dataset.index, name)[:-1] for name in COLUMN_DTYPES}
    Index(dataset.manifest.hash(), **columns).save(copy / "index.npz")
    with pytest.raises(DatasetError, match=r"samples in shard-.*the manifest says"):
        ShardDataset(copy)


def test_a_shard_that_shrinks_while_in_use_is_named(copy):
    dataset = ShardDataset(copy)
    (copy / "shard-000000.tar").write_bytes((copy / "shard-000000.tar").read_bytes()[:700])
    with pytest.raises(DatasetError, match=r"a1-000000\.signal\.npy: only \d+ of"):
        dataset.read(0)


def test_a_member_under_another_name_is_found_by_verify(copy):
    """A tar whose names were changed reads well through the index, but not with webdataset."""
    shard = copy / "shard-000000.tar"
    with tarfile.open(shard, "r:") as tar:
        info = next(member for member in tar if member.name == "a1-000001.signal.npy")
        place = info.offset
    info.name = "a1-000007.signal.npz"
    data = bytearray(shard.read_bytes())
    data[place : place + 512] = info.tobuf(format=tarfile.USTAR_FORMAT)
    shard.write_bytes(data)
    dataset = ShardDataset(copy)
    dataset.read(1)
    with pytest.raises(DatasetError) as caught:
        dataset.verify()
    assert [problem.split(": ", 1)[1].split(":")[0] for problem in caught.value.problems[1:]] == [
        "a1-000007.signal.npz",
        "a1-000001.signal.npy",
    ]


def test_a_stray_file_and_a_wrong_count_are_found_by_verify(copy):
    dataset = ShardDataset(copy)
    (copy / "shard-000009.tar").write_bytes(b"")
    splits = dataset.manifest.splits | {"train": {"samples": 1, "bins": 2}}
    manifest = dataclasses.replace(dataset.manifest, splits=splits)
    manifest.save(copy / "manifest.json")
    columns = {column: getattr(dataset.index, column) for column in COLUMN_DTYPES}
    Index(manifest.hash(), **columns).save(copy / "index.npz")
    with pytest.raises(DatasetError) as caught:
        ShardDataset(copy).verify()
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["shard-000009.tar", "split train"]


def test_a_row_that_does_not_exist_is_an_index_error(data_path):
    dataset = ShardDataset(data_path)
    for row in (-1, len(dataset)):
        with pytest.raises(IndexError, match="of 67 samples"):
            dataset.read(row)
        with pytest.raises(IndexError, match="of 67 samples"):
            Corpus(dataset).read(row)


def test_several_data_sets_read_as_one(data_path, tmp_path, make_recording):
    other = make_recording("c1", "carl", 4, 10, 5)
    write_dataset([other], tmp_path / "more", name="more", sample_bins=12)
    corpus = Corpus([data_path, tmp_path / "more"])
    first = len(ShardDataset(data_path))
    assert len(corpus) == first + 10
    assert [entry.session_id for entry in corpus.sessions] == ["a1", "a2", "b1", "c1"]
    assert corpus.rows_of("a1", "valid").tolist() == ShardDataset(data_path).rows_of("a1", "valid").tolist()
    rows = corpus.rows_of("c1", "train")
    assert rows.min() >= first
    for row, segment in zip(rows, [segment for segment in other.segments if segment.split == "train"]):
        sample = corpus.read(row)
        assert sample.session_id == "c1"
        np.testing.assert_array_equal(sample.signal_TC, other.signal_TC[segment.start : segment.stop])
    assert corpus.session("c1").subject_id == "carl"
    assert corpus.dataset_of("c1").manifest.name == "more"
    hashes = {corpus.hash(), Corpus(data_path).hash(), Corpus([tmp_path / "more", data_path]).hash()}
    assert len(hashes) == 3
    assert Corpus(str(data_path)).hash() == Corpus([data_path]).hash()
    with pytest.raises(ValueError, match=r"'a9'.*'a1'"):
        corpus.session("a9")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"session_id": "a1"}, "'a1' is in .*small and again in .*more"),
        ({"modality": "continuous"}, "'c1' has modality continuous.*has spikes"),
        ({"bin_s": 0.01}, r"'c1' has bin_s 0\.01.*has 0\.02"),
    ],
)
def test_data_sets_that_do_not_go_together_are_refused(data_path, tmp_path, make_recording, changes, text):
    values = {"session_id": "c1", "subject_id": "carl", "units": 4, "trials": 10, "seed": 5}
    write_dataset([make_recording(**(values | changes))], tmp_path / "more", name="more", sample_bins=12)
    with pytest.raises(DatasetError, match=text):
        Corpus([data_path, tmp_path / "more"])


def test_no_data_set_at_all_is_refused():
    with pytest.raises(DatasetError, match=r"set data\.path"):
        Corpus([])


def test_the_manifest_of_the_small_data_set_is_what_the_tests_assume(data_path):
    manifest = Manifest.load(data_path)
    assert [len(entry.units) for entry in manifest.sessions] == [5, 9, 3]
    assert manifest.sessions[0].covariates == {"position": 2, "speed": 1}
