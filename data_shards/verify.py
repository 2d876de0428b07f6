"""Checking every byte of a data set: file checksums, what lies in the tars, and what the index says about it."""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from neurochorus.data_shards.dataset import DatasetError, ShardDataset
from neurochorus.data_shards.index import INDEX_FILE, pending_index_file
from neurochorus.data_shards.manifest import MANIFEST_FILE, ShardEntry
from neurochorus.data_shards.members import COVARIATES_MEMBER, META_MEMBER, SIGNAL_MEMBER
from neurochorus.data_shards.recording import SPLITS

CHUNK_BYTES = 1 << 22
MAX_PROBLEMS_A_SHARD = 10

_COLUMNS = {"signal": SIGNAL_MEMBER, "covariates": COVARIATES_MEMBER, "meta": META_MEMBER}


def dataset_problems(dataset: ShardDataset, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Return a line for everything that does not fit together in a data set directory; an empty list when all does.

    `progress` is called with the bytes checked so far and in all.
    """
    shards = dataset.manifest.shards
    total, done = sum(shard.bytes for shard in shards), 0
    problems = _stray_files(dataset) + _split_problems(dataset)
    for number, shard in enumerate(shards):
        path = dataset.path / shard.file
        if not path.is_file():
            problems.append(f"{shard.file}: missing")
            continue
        problems += [f"{shard.file}: {problem}" for problem in _file_problems(dataset, shard)]
        found = [f"{shard.file}: {problem}" for problem in _tar_problems(dataset, number)]
        # bytes that are not what was written would only be named a second time
        found = found or list(_content_problems(dataset, number))
        problems += found[:MAX_PROBLEMS_A_SHARD]
        if len(found) > MAX_PROBLEMS_A_SHARD:
            problems.append(f"{shard.file}: ... and {len(found) - MAX_PROBLEMS_A_SHARD} more")
        done += shard.bytes
        if progress is not None:
            progress(done, total)
    return problems


def _stray_files(dataset: ShardDataset) -> list[str]:
    pending = pending_index_file(dataset.manifest_hash)
    known = {MANIFEST_FILE, INDEX_FILE, pending, *(shard.file for shard in dataset.manifest.shards)}
    stray = sorted(path.name for path in dataset.path.iterdir() if path.name not in known)
    return [f"{name}: not part of the data set: remove it" for name in stray]


def _split_problems(dataset: ShardDataset) -> list[str]:
    index, problems = dataset.index, []
    for number, split in enumerate(SPLITS):
        inside = index.split == number
        found = {"samples": int(inside.sum()), "bins": int(index.bins[inside].sum(dtype=np.int64))}
        stated = dataset.manifest.splits.get(split, {"samples": 0, "bins": 0})
        if found != stated:
            problems.append(f"split {split}: the index holds {found}, the manifest says {stated}")
    return problems


def _file_problems(dataset: ShardDataset, shard: ShardEntry) -> Iterator[str]:
    digest, size = hashlib.sha256(), 0
    with (dataset.path / shard.file).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    if size != shard.bytes:
        yield f"{size} bytes; the manifest says {shard.bytes}"
    if digest.hexdigest() != shard.sha256:
        yield f"sha256 {digest.hexdigest()[:16]}...; the manifest says {shard.sha256[:16]}..."


def _tar_problems(dataset: ShardDataset, number: int) -> Iterator[str]:
    """Compare the members of a tar, walked from its start, with what the index expects there, then their bytes."""
    index = dataset.index
    rows = np.flatnonzero(index.shard == number)
    expected: dict[str, tuple[int, int, int]] = {}
    for row in map(int, rows):
        for column, member in _COLUMNS.items():
            size = int(getattr(index, f"{column}_bytes")[row])
            if size:
                offset, crc = getattr(index, f"{column}_offset")[row], getattr(index, f"{column}_crc32")[row]
                expected[f"{dataset.key(row)}.{member}"] = (int(offset), size, int(crc))
    try:
        with tarfile.open(dataset.path / dataset.manifest.shards[number].file, "r:") as tar:
            for member in tar:
                place = expected.pop(member.name, None)
                if place is None:
                    yield f"{member.name}: not in the index, or twice in the shard"
                elif not member.isreg():
                    yield f"{member.name}: not a plain file"
                elif (member.offset_data, member.size) != place[:2]:
                    yield (
                        f"{member.name}: {member.size} bytes at {member.offset_data}; "
                        f"the index says {place[1]} at {place[0]}"
                    )
                elif _crc32(tar, member) != place[2]:
                    yield f"{member.name}: the checksum does not fit: the bytes were changed after writing"
    except (tarfile.TarError, OSError) as error:
        yield f"not a whole tar file: {error}"
    for name in expected:
        yield f"{name}: in the index, but not in the shard"


def _content_problems(dataset: ShardDataset, number: int) -> Iterator[str]:
    """What reading the samples of a shard says about dtype, shape and meta."""
    for row in np.flatnonzero(dataset.index.shard == number):
        try:
            dataset.read(int(row))
        except DatasetError as error:
            yield str(error)


def _crc32(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    data = tar.extractfile(member)
    assert data is not None  # only for members that are not plain files, which the caller has set apart
    crc = 0
    while chunk := data.read(CHUNK_BYTES):
        crc = zlib.crc32(chunk, crc)
    return crc
