"""Data sets made to do harm: refused with a message, nothing executed, written outside, or allocated without bound."""

import io
import json
import os
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.index import COLUMN_DTYPES, Index
from neurochorus.data_shards.members import MemberError, decode_array, decode_column, decode_json
from tests.data_shards.test_dataset import Payload, as_npy, forge

MEGABYTE = 2**20
SHARD = "shard-000000.tar"


@pytest.fixture
def copy(data_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data_path, tmp_path / "inside" / "copy"))


@contextmanager
def little_memory(most: int = 16 * MEGABYTE) -> Iterator[None]:
    """Fail when more than `most` bytes are allocated inside."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most


def header(shape: str, descr: str = "'|u1'", version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """The header of an .npy file as anybody may write it."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    packed = struct.pack("<H" if version[0] == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + packed + text


HEADERS = {
    "a huge shape": header(f"({2**60}, 5)"),
    "a shape beyond 64 bits": header(f"({2**70}, {2**70})"),
    "a negative shape": header("(-12, -5)"),
    "a shape of truths": header("(True, 5)"),
    "a shape of text": header("('12', 5)"),
    "many dimensions": header("(" + "1, " * 2000 + ")"),
    "nested brackets": header("(" * 3000 + ")" * 3000),
    "nested signs": header("(" + "-" * 9000 + "1, 5)"),
    "a call": header("(__import__('os').getpid(), 5)"),
    "an object dtype": header("(12, 5)", "'|O'"),
    "a record of objects": header("(12, 5)", "[('a', '|O')]"),
    "an empty dtype": header("(12, 5)", "'|V0'"),
    "a huge dtype": header("(12, 5)", "'|V2147483647'"),
    "an unknown dtype": header("(12, 5)", "'nothing'"),
    "a later version": header("(12, 5)", version=(3, 0)),
    "a header longer than the file": header("(12, 5)", version=(2, 0), length=2**32 - 1),
    "no text": b"\x93NUMPY\x01\x00\x40\x00" + b"\xff" * 64,
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADERS)
def test_arrays_that_lie_about_themselves(name):
    data = HEADERS[name] + bytes(60)
    with little_memory(), pytest.raises(MemberError):
        decode_array(data, ("uint8", "uint16"), (12, 5))
    with little_memory(), pytest.raises(MemberError):
        decode_column(data)


JSON = {
    "deep lists": b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep mappings": b'{"a": ' * 50_000 + b"1" + b"}" * 50_000,
    "a huge whole number": b'{"a": ' + b"9" * 100_000 + b"}",
    "a number beyond floats": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice further in": b'{"b": [{"a": 1, "a": 1}]}',
    "no text": b'{"a": "\xff\xfe"}',
    "two values": b'{"a": 1} {"a": 2}',
    "a list": b"[1]",
    "nothing": b"",
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_not_plain(copy, name):
    with little_memory(), pytest.raises(MemberError):
        decode_json(JSON[name])
    (copy / "manifest.json").write_bytes(JSON[name])
    with (
        little_memory(),
        pytest.raises(DatasetError, match=r"(?s)manifest\.json: .*(write the data set again|expected a mapping)"),
    ):
        ShardDataset(copy)


def edit_manifest(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest; the index is made to fit it where that is possible."""
    index = Index.load(path)
    values = json.loads((path / "manifest.json").read_text())
    edit(values)
    (path / "manifest.json").write_text(json.dumps(values))
    columns = {name: getattr(index, name) for name in COLUMN_DTYPES}
    Index("0" * 16, **columns).save(path / "index.npz")


def deep(levels: int) -> list[Any]:
    return [deep(levels - 1)] if levels else []


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        *(
            (lambda values, name=name: values["shards"][0].update(file=name), "is not a plain file name inside")
            for name in (
                "../evil.tar",
                "..",
                "",
                "/etc/passwd",
                "a/b.tar",
                "a\n.tar",
                ".hidden.tar",
                "manifest.json",
                "x.tar?y",
                "a\0.tar",
            )
        ),
        (lambda values: values["shards"][1].update(file=SHARD), "is listed twice"),
        (lambda values: values["shards"][0].update(sha256="../../evil"), "expected 64 hexadecimal digits"),
        (lambda values: values["shards"][0].update(bytes=-1), "expected 0 or more"),
        (lambda values: values["shards"][0].update(bytes=2**60), "the manifest says 1152921504606846976"),
        (lambda values: values["shards"][0].update(samples=2**62), "index.npz"),
        *(
            (lambda values, name=name: values["sessions"][0].update(session_id=name), "session_id .* must be")
            for name in ("../evil", "a.b", "", "x" * 65, "a/b", "a\n")
        ),
        (lambda values: values["sessions"][0].update(subject_id="../evil"), "subject_id .* must be"),
        (lambda values: values["sessions"][0].update(covariates={"../evil": 1}), "covariate .* must be"),
        (lambda values: values["sessions"][0].update(covariates={"x": -1}), "expected widths of at least 1"),
        (lambda values: values["sessions"][0].update(bin_s=-0.1), "expected a positive number of seconds"),
        (lambda values: values["sessions"][0].update(provenance={"a": deep(200)}), "provenance: nested too deeply"),
        (lambda values: values.update(provenance={"a": deep(200)}), "provenance: nested too deeply"),
        (lambda values: values.update(sessions=[]), "lists no session|belongs to another"),
    ],
)
def test_a_manifest_that_points_elsewhere(copy, edit, text):
    edit_manifest(copy, edit)
    with little_memory(), pytest.raises(DatasetError, match=f"{text}|belongs to another data set") as caught:
        ShardDataset(copy)
    assert str(copy) in str(caught.value)
    if "belongs to another" in str(caught.value):  # the hash alone would do; the rest is for those who forge that too
        values = json.loads((copy / "manifest.json").read_text())
        refit(copy, values)
        with little_memory(), pytest.raises(DatasetError, match=text):
            ShardDataset(copy)


def refit(path: Path, values: dict[str, Any]) -> None:
    """Let the index belong to a manifest."""
    from neurochorus.data_shards.manifest import Manifest

    manifest = Manifest.parse(json.dumps(values).encode(), "forged")
    columns = {name: getattr(Index.load(path), name) for name in COLUMN_DTYPES}
    Index(manifest.hash(), **columns).save(path / "index.npz")


def test_a_wide_covariate_is_not_allocated(copy):
    values = json.loads((copy / "manifest.json").read_text())
    values["sessions"][0]["covariates"] = {"x": 2**60}
    (copy / "manifest.json").write_text(json.dumps(values))
    refit(copy, values)
    dataset = ShardDataset(copy)
    with little_memory(), pytest.raises(DatasetError, match=r"a1-000000\.covariates\.npy: shape"):
        dataset.read(0)


def rewrite_index(
    path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path / "index.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path / "index.npz", "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_an_index_that_inflates_is_refused(copy):
    rewrite_index(copy, lambda entries: entries.update({"shard.npy": bytes(40 * MEGABYTE)}), zipfile.ZIP_DEFLATED)
    assert (copy / "index.npz").stat().st_size < MEGABYTE
    with little_memory(), pytest.raises(DatasetError, match=r"index\.npz: cannot be read \(it is compressed"):
        ShardDataset(copy)


def test_an_index_whose_directory_lies_is_refused(copy):
    data = bytearray((copy / "index.npz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    data[start + 20 : start + 28] = struct.pack("<II", 2**31, 2**31)  # compressed and plain size of the first entry
    (copy / "index.npz").write_bytes(data)
    with little_memory(), pytest.raises(DatasetError, match=r"index\.npz: .*would have more than the \d+ bytes"):
        ShardDataset(copy)


def test_entries_of_an_index_that_share_their_bytes_are_refused(copy):
    """As in a zip quine: many names for one stretch of the file."""
    data = bytearray((copy / "index.npz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start, size = archive.start_dir, len(data)
    data[start + 20 : start + 28] = struct.pack("<II", size - 100, size - 100)
    (copy / "index.npz").write_bytes(data)
    with little_memory(), pytest.raises(DatasetError, match=r"index\.npz: cannot be read"):
        ShardDataset(copy)


@pytest.mark.parametrize("name", HEADERS)
def test_columns_of_an_index_that_lie(copy, name):
    rewrite_index(copy, lambda entries: entries.update({"shard.npy": HEADERS[name] + bytes(60)}))
    with little_memory(), pytest.raises(DatasetError, match=r"index\.npz: "):
        ShardDataset(copy)


def test_a_pickle_in_an_index_is_not_executed(copy, tmp_path):
    array = np.empty(3, dtype=object)
    array[:] = Payload(tmp_path / "executed")
    rewrite_index(copy, lambda entries: entries.update({"shard.npy": as_npy(array, allow_pickle=True)}))
    with pytest.raises(DatasetError, match=r"index\.npz: .*python objects"):
        ShardDataset(copy)
    assert not (tmp_path / "executed").exists()


def test_names_in_an_index_are_not_paths(copy):
    rewrite_index(copy, lambda entries: entries.update({"../../evil.npy": entries["shard.npy"]}))
    with pytest.raises(DatasetError, match=r"columns missing or unknown: \.\./\.\./evil"):
        ShardDataset(copy)
    assert not list(copy.parent.parent.rglob("evil*"))


def test_a_shard_that_is_a_link_to_elsewhere_is_refused(copy, tmp_path):
    shutil.move(copy / SHARD, tmp_path / "elsewhere.tar")
    (copy / SHARD).symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(DatasetError, match=f"{SHARD}: a link to a file outside of the data set"):
        ShardDataset(copy)


def test_a_data_set_reached_through_a_link_is_read(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    ShardDataset(tmp_path / "link").read(0)


@pytest.mark.parametrize("name", [SHARD, "index.npz", "manifest.json"])
def test_a_pipe_or_directory_in_place_of_a_file_is_refused(copy, name):
    for make in (os.mkfifo, os.mkdir):
        (copy / name).unlink()
        make(copy / name)
        with pytest.raises(DatasetError, match=name):
            ShardDataset(copy)
        (copy / name).rmdir() if (copy / name).is_dir() else None
        (copy / name).touch()


TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a directory",
    tarfile.GNUTYPE_SPARSE: "of type b'S'",
    tarfile.GNUTYPE_LONGNAME: "of type b'L'",
    tarfile.XHDTYPE: "of type b'x'",
}


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_no_plain_file_in_a_shard_is_named(copy, kind):
    hostile_header(copy, lambda info: setattr(info, "type", kind))
    with pytest.raises(DatasetError, match=rf"a1-000000\.covariates\.npy: {TYPES[kind]}, not a plain file"):
        ShardDataset(copy).verify()


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a1-000000.__len__"])
def test_a_path_in_a_shard_is_named_and_not_followed(copy, name):
    hostile_header(copy, lambda info: setattr(info, "name", name))
    with pytest.raises(DatasetError, match=f"{name}: not in the index"):
        ShardDataset(copy).verify()
    assert not list(copy.parent.parent.rglob("evil*"))


@pytest.mark.parametrize("size", [2**33 - 1, 2**60])
def test_a_huge_member_is_not_allocated(copy, size):
    hostile_header(copy, lambda info: setattr(info, "size", size))
    dataset = ShardDataset(copy)
    with little_memory(), pytest.raises(DatasetError, match=f"would have {size} bytes"):
        dataset.verify()


def hostile_header(path: Path, change: Callable[[tarfile.TarInfo], object]) -> None:
    """Change the first header of the first shard, whose own checksum fits again."""
    data = bytearray((path / SHARD).read_bytes())
    info = tarfile.TarInfo.frombuf(bytes(data[:512]), "utf-8", "strict")
    change(info)
    data[:512] = info.tobuf(format=tarfile.GNU_FORMAT)[:512]
    (path / SHARD).write_bytes(data)


def test_a_meta_that_is_a_bomb_is_refused_even_with_fitting_checksums(copy):
    forge(copy, 1, "meta.json", JSON["deep lists"])
    dataset = ShardDataset(copy)
    dataset.read(1, with_meta=False)
    with little_memory(), pytest.raises(DatasetError, match=r"a1-000001\.meta\.json: not valid JSON"):
        dataset.read(1)
