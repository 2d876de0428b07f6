"""Checking every byte of a data set: file checksums, what lies in the tars, and what the index says about it.

Of a data set behind a URL the copies of the shards in the cache are read, after bringing those that are not there.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from neurochorus.data_shards import index as index_file
from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.files import sha256_of
from neurochorus.data_shards.manifest import MANIFEST_FILE, ShardEntry
from neurochorus.data_shards.manifest_text import digest_of
from neurochorus.data_shards.members import COVARIATES_MEMBER, META_MEMBER, SIGNAL_MEMBER
from neurochorus.data_shards.recording import SPLITS
from neurochorus.data_shards.tar_walk import NotATar, bytes_of, members_of

MAX_PROBLEMS_A_SHARD = 10

_COLUMNS = {"signal": SIGNAL_MEMBER, "covariates": COVARIATES_MEMBER, "meta": META_MEMBER}


def dataset_problems(dataset: ShardDataset, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Return a line for everything that does not fit together in a data set directory; an empty list when all does.

    `progress` is called with the bytes checked so far and in all.
    """
    shards = dataset.manifest.shards
    total, done = sum(shard.bytes for shard in shards), 0
    stray = [f"{name}: not part of the data set: remove it" for name in dataset.files.stray(dataset.manifest)]
    problems = stray + dataset.files.missing(dataset.manifest) + _table_problems(dataset) + _split_problems(dataset)
    for number, shard in enumerate(shards):
        found = list(_shard_problems(dataset, number, shard))
        problems += [f"{shard.file}: {problem}" for problem in found[:MAX_PROBLEMS_A_SHARD]]
        if len(found) > MAX_PROBLEMS_A_SHARD:
            problems.append(f"{shard.file}: ... and {len(found) - MAX_PROBLEMS_A_SHARD} more")
        done += shard.bytes
        if progress is not None:
            progress(done, total)
    return problems


def _table_problems(dataset: ShardDataset) -> list[str]:
    """Bytes of manifest and index that differ from what is written for their contents."""
    tables, problems = dataset.files.tables(dataset.manifest), []
    text = tables[MANIFEST_FILE]
    if digest_of(text) != dataset.manifest_hash or not text.endswith(b"\n"):
        problems.append(f"{MANIFEST_FILE}: not the bytes that were written: it was edited")
    if not index_file.is_as_saved(tables[index_file.INDEX_FILE], dataset.index):
        problems.append(f"{index_file.INDEX_FILE}: not the bytes that were written: it was edited")
    return problems


def _split_problems(dataset: ShardDataset) -> list[str]:
    index, problems = dataset.index, []
    for number, split in enumerate(SPLITS):
        inside = index.split == number
        found = {"samples": int(inside.sum()), "bins": int(index.bins[inside].sum(dtype=np.int64))}
        stated = dataset.manifest.splits.get(split, {"samples": 0, "bins": 0})
        if found != stated:
            problems.append(f"split {split}: the index holds {found}, the manifest says {stated}")
    return problems


def _shard_problems(dataset: ShardDataset, number: int, shard: ShardEntry) -> Iterator[str]:
    try:
        there = dataset.files.size_there(shard)
        if there not in (None, shard.bytes):
            yield f"{there} bytes; the manifest says {shard.bytes}"
        with dataset.files.open(shard, dataset.close) as file:
            digest = sha256_of(file)
            if digest != shard.sha256:
                yield f"sha256 {digest[:16]}...; the manifest says {shard.sha256[:16]}..."
            found = list(_tar_problems(dataset, number, file))
    except (DatasetError, OSError) as error:
        yield str(error)
        return
    # bytes that are not what was written would only be named a second time
    yield from found or _content_problems(dataset, number)


def _tar_problems(dataset: ShardDataset, number: int, file: BinaryIO) -> Iterator[str]:
    """Compare the members of a tar, walked from its start, with what the index expects there, then their bytes."""
    expected = _expected_members(dataset, number)
    try:
        for member in members_of(file):
            place = expected.pop(member.name, None)
            if place is None:
                yield f"{member.name}: not in the index, or twice in the shard"
            elif member.kind is not None:
                yield f"{member.name}: {member.kind}, not a plain file"
            elif (member.offset, member.size) != place[:2]:
                yield (
                    f"{member.name}: {member.size} bytes at {member.offset}; the index says {place[1]} at {place[0]}"
                )
            elif zlib.crc32(bytes_of(file, member)) != place[2]:
                yield f"{member.name}: the checksum does not fit: the bytes were changed after writing"
    except NotATar as error:
        yield f"not a whole tar file: {error}"
    for name in expected:
        yield f"{name}: in the index, but not in the shard"


def _expected_members(dataset: ShardDataset, number: int) -> dict[str, tuple[int, int, int]]:
    """Name of each member of a shard -> offset, bytes, crc32 in the index."""
    index = dataset.index
    expected: dict[str, tuple[int, int, int]] = {}
    for row in map(int, np.flatnonzero(index.shard == number)):
        for column, member in _COLUMNS.items():
            size = int(getattr(index, f"{column}_bytes")[row])
            if size:
                offset, crc = getattr(index, f"{column}_offset")[row], getattr(index, f"{column}_crc32")[row]
                expected[f"{dataset.key(row)}.{member}"] = (int(offset), size, int(crc))
    return expected


def _content_problems(dataset: ShardDataset, number: int) -> Iterator[str]:
    """What reading the samples of a shard says about dtype, shape and meta."""
    for row in np.flatnonzero(dataset.index.shard == number):
        try:
            dataset.read(int(row))
        except DatasetError as error:
            yield str(error)
