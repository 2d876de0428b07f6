"""Hundreds of small damages to a data set, at every boundary and at random: each one is found.

Reading after a damage gives DatasetError that names what was damaged, or exactly the samples that were written (bytes
between the members do not matter to them); `verify` finds the damage either way.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.blocks import read_block
from neurochorus.data_shards.dataset import Sample, ShardDataset
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.index import COLUMN_DTYPES, Index
from neurochorus.data_shards.tar_walk import BLOCK, members_of
from neurochorus.data_shards.writer import write_dataset

SEED = 5


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, make_recording) -> Path:
    """Two shards of the same size, and a data set small enough to be read hundreds of times."""
    path = tmp_path_factory.mktemp("damage") / "data"
    recordings = [make_recording(name, "anna", 4, 3, seed) for seed, name in enumerate(("a1", "b1"))]
    for recording in recordings:
        values = np.arange(2 * len(recording.signal_TC), dtype=np.float32).reshape(-1, 2)
        recording.covariates["position"] = values
    write_dataset(recordings, path, name="damage", sample_bins=12, shard_bytes=8_000)
    assert len({file.stat().st_size for file in path.glob("*.tar")}) == 1
    assert len(list(path.glob("*.tar"))) == 2
    return path


@pytest.fixture(scope="module")
def written(original: Path) -> list[Sample]:
    return read_all(original)


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


def read_all(path: Path) -> list[Sample]:
    dataset = ShardDataset(path)
    return [dataset.read(row, with_meta) for row in range(len(dataset)) for with_meta in (False, True)]


def same_blocks(path: Path, written: list[Sample]) -> bool:
    """Whether training, which reads blocks of samples, would be given what was written."""
    dataset, bins = ShardDataset(path), Index.load(path).bins.astype(np.int64)
    for number in range(len(dataset.manifest.sessions)):
        rows = np.flatnonzero(dataset.index.session == number)
        block = read_block(dataset, rows, np.zeros_like(rows), bins[rows])
        for place, row in enumerate(rows.tolist()):
            expected = written[2 * row]
            assert block.covariates_NTK is not None
            if not np.array_equal(block.signal_NTC[place, : bins[row]], expected.signal_TC):
                return False
            if not np.array_equal(block.covariates_NTK[place, : bins[row]], expected.covariates_TK):  # type: ignore[arg-type]
                return False
    return True


def same(ours: list[Sample], theirs: list[Sample]) -> bool:
    """Equal to the bit, meta included."""
    return len(ours) == len(theirs) and all(
        (a.key, a.session_id, a.meta) == (b.key, b.session_id, b.meta)
        and a.signal_TC.dtype == b.signal_TC.dtype
        and np.array_equal(a.signal_TC, b.signal_TC)
        and np.array_equal(a.covariates_TK, b.covariates_TK)  # type: ignore[arg-type]
        for a, b in zip(ours, theirs)
    )


def read_or_refused(path: Path, written: list[Sample], named: str) -> bool:
    """Whether reading everything was refused, naming the file; otherwise all is as it was written."""
    refused = 0
    for read in (lambda: same(read_all(path), written), lambda: same_blocks(path, written)):
        try:
            assert read(), f"{named}: other samples were read, and nothing was said"
        except DatasetError as error:
            message = str(error)
            if named not in message:
                raise
            refused += 1
    return refused > 0


def found_by_verify(path: Path, named: str) -> bool:
    try:
        ShardDataset(path).verify()
    except DatasetError as error:
        return named in str(error)
    return False


def boundaries(path: Path) -> list[int]:
    """First and last bytes of the parts of a file: tar headers, data, padding; or of a zip's entries."""
    places = {0, 1, path.stat().st_size - 1}
    if path.suffix == ".tar":
        with path.open("rb") as file:
            for member in members_of(file):
                padded = member.offset + -(-member.size // BLOCK) * BLOCK
                fields = [member.offset - BLOCK + place for place in (0, 99, 100, 124, 148, 156, 157, 257, 345, 511)]
                places |= {*fields, member.offset, member.offset + member.size - 1}
                places |= {member.offset + member.size, padded - 1} if padded > member.offset + member.size else set()
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                header = entry.header_offset
                places |= {header, header + 4, header + 8, header + 10, header + 14, header + 18, header + 26}
                places |= {header + 30, header + 30 + len(entry.filename), header + 30 + len(entry.filename) + 130}
            places |= set(range(archive.start_dir, path.stat().st_size, 29))
    return sorted(places)


def places_in(path: Path, count: int) -> list[int]:
    """Boundaries and `count` random places."""
    random = np.random.default_rng(SEED).integers(path.stat().st_size, size=count).tolist()
    return sorted({*boundaries(path), *random})


def flips(data: bytes, places: list[int]) -> Iterator[bytes]:
    """One byte changed: by one bit at even places of the list, in all bits at odd ones."""
    for number, place in enumerate(places):
        yield data[:place] + bytes([data[place] ^ (1 << number % 8 if number % 2 else 0xFF)]) + data[place + 1 :]


FILES = ["shard-000000.tar", "shard-000001.tar", "index.npz", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_found(copy, written, name):
    file = copy / name
    data = file.read_bytes()
    places, refused, verified = places_in(file, 25), 0, 0
    for damaged in flips(data, places):
        file.write_bytes(damaged)
        refused += read_or_refused(copy, written, name)
        verified += found_by_verify(copy, name)
    print(f"{name}: {len(places)} flips, {refused} refused in reading, {verified} by verify")
    assert verified == len(places)
    assert refused > len(places) // 10


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_found_on_opening(copy, name):
    file = copy / name
    data = file.read_bytes()
    places = places_in(file, 40)
    for place in places:
        file.write_bytes(data[:place])
        if (name, place) == ("manifest.json", len(data) - 1):  # the end of the line, which means nothing
            assert found_by_verify(copy, name)
            continue
        with pytest.raises(DatasetError, match=name):
            ShardDataset(copy)
    file.write_bytes(data + b"\0")
    assert found_by_verify(copy, name)
    print(f"{name}: {len(places)} cuts")


def test_every_cut_while_in_use_is_found(copy, written):
    """The size is looked at on opening; what is cut afterwards is met when it is read."""
    file = copy / FILES[0]
    data = file.read_bytes()
    for place in places_in(file, 60):
        dataset = ShardDataset(copy)
        file.write_bytes(data[:place])
        rows = np.flatnonzero(dataset.index.shard == 0)
        whole = dataset.index.meta_offset[rows] + dataset.index.meta_bytes[rows] <= place
        whole &= dataset.index.signal_offset[rows] + dataset.index.signal_bytes[rows] <= place
        for row in rows[whole].tolist():
            assert same([dataset.read(row)], [written[2 * row + 1]])
        for row in rows[~whole].tolist():
            with pytest.raises(DatasetError, match=rf"{FILES[0]}.*cut short"):
                dataset.read(row)
        file.write_bytes(data)


def exchange(path: Path, first: str, second: str) -> None:
    ours, theirs = (path / first).read_bytes(), (path / second).read_bytes()
    (path / first).write_bytes(theirs)
    (path / second).write_bytes(ours)


def test_two_shards_of_the_same_size_exchanged(copy, written):
    exchange(copy, *FILES[:2])
    dataset = ShardDataset(copy)
    for row in range(len(dataset)):
        with pytest.raises(DatasetError, match="shard-"):
            dataset.read(row)
    with pytest.raises(DatasetError) as caught:
        dataset.verify()
    assert {problem.split(":")[0] for problem in caught.value.problems} == set(FILES[:2])


def members_as_bytes(path: Path) -> tuple[list[bytes], bytes]:
    """Header and data of each member, and what follows the last."""
    data = path.read_bytes()
    with path.open("rb") as file:
        starts = [member.offset - BLOCK for member in members_of(file)]
    last = starts[-1] + 2 * BLOCK
    return [data[a:b] for a, b in zip(starts, [*starts[1:], last])], data[last:]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda parts: parts[:-1], id="last member missing"),
        pytest.param(lambda parts: parts[3:], id="first sample missing"),
        pytest.param(lambda parts: [*parts, parts[0]], id="a member twice"),
        pytest.param(lambda parts: parts[:3] + parts[:3] + parts[6:], id="a sample in place of another"),
        pytest.param(lambda parts: parts[3:6] + parts[:3] + parts[6:], id="two samples exchanged"),
    ],
)
@pytest.mark.parametrize("same_size", [False, True])
def test_a_missing_or_extra_member(copy, written, change: Callable[[list[bytes]], list[bytes]], same_size):
    shard = copy / FILES[0]
    size = shard.stat().st_size
    parts, end = members_as_bytes(shard)
    data = b"".join(change(parts)) + end
    shard.write_bytes((data + bytes(size))[:size] if same_size else data)
    assert read_or_refused(copy, written, FILES[0]) or len(change(parts)) > len(parts)
    assert found_by_verify(copy, FILES[0])


@pytest.mark.parametrize("column", COLUMN_DTYPES)
def test_an_edited_index_with_fitting_checksums_is_refused(copy, column):
    """As someone with numpy would do it: every zip checksum is right again."""
    with np.load(copy / "index.npz") as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    for edit in (lambda values: values[::-1], lambda values: np.roll(values, 1), lambda values: values + 1):
        edited = edit(columns[column]).astype(columns[column].dtype)
        if np.array_equal(edited, columns[column]):
            continue
        np.savez(copy / "index.npz", **(columns | {column: edited}))
        with pytest.raises(DatasetError, match=r"index\.npz: a column was edited"):
            ShardDataset(copy)


def test_an_index_of_another_data_set(copy, tmp_path, make_recording):
    write_dataset([make_recording("a1", "anna", 4, 6, 9)], tmp_path / "other", name="other", sample_bins=12)
    shutil.copy(tmp_path / "other" / "index.npz", copy)
    with pytest.raises(DatasetError, match=r"index\.npz: belongs to another data set"):
        ShardDataset(copy)


def test_a_data_set_of_an_earlier_version_is_read(copy, written):
    """Its index was written by numpy.savez and has no digest."""
    index = Index.load(copy)
    columns = {name: getattr(index, name) for name in COLUMN_DTYPES}
    np.savez(copy / "index.npz", manifest_hash=np.array(index.manifest_hash), **columns)
    assert same(read_all(copy), written)
    ShardDataset(copy).verify()


def test_numpy_reads_an_index(original):
    index = Index.load(original)
    with np.load(original / "index.npz", allow_pickle=False) as arrays:
        assert str(arrays["manifest_hash"]) == index.manifest_hash
        for name in COLUMN_DTYPES:
            np.testing.assert_array_equal(arrays[name], getattr(index, name))
