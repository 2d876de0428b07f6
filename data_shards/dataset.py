"""Reading one data set, a directory or a URL.

Samples are read at random through the index, one `pread` a member, and decoded by `members.py` only. Size, dtype and
shape are checked at every read; the checksum, which costs as much as all the rest, when a process reads a member for
the first time. Everything wrong with a data set is a DatasetError that says what to do.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from neurochorus.data_shards.checksum import crc32
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.files import data_files, whole_or_raise
from neurochorus.data_shards.index import Index
from neurochorus.data_shards.manifest import Manifest, SessionEntry
from neurochorus.data_shards.mapped import Mapped, MappedShards
from neurochorus.data_shards.members import (
    COVARIATES_MEMBER,
    META_MEMBER,
    SIGNAL_MEMBER,
    MemberError,
    decode_array,
    decode_json,
)
from neurochorus.data_shards.recording import SIGNAL_DTYPES, SPLITS

MAX_OPEN_SHARDS = 128
"Files that a reader keeps open; a process may commonly open 1024."


class Sample(NamedTuple):
    """One sample as it was written; its arrays are read-only.

    signal_TC: uint8 or uint16 counts per bin, or float32. covariates_TK: float32, the session's covariates side by side
    in sorted name order, NaN where missing; None when it has none. meta: session_id, subject_id, split, segment, start,
    bins, labels, bin_s (empty when it was not asked for).
    """

    key: str
    session_id: str
    signal_TC: np.ndarray
    covariates_TK: np.ndarray | None
    meta: dict[str, Any]


class ShardDataset:
    """A data set, checked on opening: format, index, and that every shard is there in full size.

    `path` is a directory, or a URL (s3, gs, https, http, hf) whose shards are brought to the cache on first use, and
    checked then. May be pickled and forked: the files are opened where they are read. Not for use by several threads at
    once.
    """

    def __init__(self, path: str | Path, *, manifest_hash: str | None = None):
        self.files = data_files(path, manifest_hash)
        self.path = self.files.place
        try:
            self.manifest, self.index = self._tables(manifest_hash)
            self.manifest_hash = self.manifest.hash()
        except DatasetError:
            raise
        except ValueError as error:
            raise DatasetError(str(error)) from error
        whole_or_raise(self.files, self.manifest)
        problems = self._index_problems()
        if problems:
            raise DatasetError(f"{self.path}: the index does not fit: copy it again, or write it again", problems)
        self._number = {entry.session_id: number for number, entry in enumerate(self.manifest.sessions)}
        self._units = [len(entry.units) for entry in self.manifest.sessions]
        self._widths = [sum(entry.covariates.values()) for entry in self.manifest.sessions]
        self._places = {
            "signal": (self.index.signal_offset, self.index.signal_bytes, self.index.signal_crc32),
            "covariates": (self.index.covariates_offset, self.index.covariates_bytes, self.index.covariates_crc32),
            "meta": (self.index.meta_offset, self.index.meta_bytes, self.index.meta_crc32),
        }
        self._intact = {member: np.zeros(len(self.index), dtype=bool) for member in self._places}
        self._number_in_session = _count_within(self.index.session)
        groups = self.index.session.astype(np.int64) * len(SPLITS) + self.index.split
        self._rows_by_group = np.argsort(groups, kind="stable")
        self._group_bounds = np.searchsorted(
            groups[self._rows_by_group], np.arange(len(self.manifest.sessions) * len(SPLITS) + 1)
        )
        self._open_shards: OrderedDict[int, BinaryIO] = OrderedDict()
        self._mapped = MappedShards(MAX_OPEN_SHARDS)

    def _tables(self, manifest_hash: str | None) -> tuple[Manifest, Index]:
        """Manifest and index, read once more where the data set was extended between the two."""
        manifest = self.files.manifest()
        if manifest_hash is not None and manifest.hash() != manifest_hash:
            raise DatasetError(f"{self.path}: was written anew while in use: start again")
        try:
            return manifest, self.files.index(manifest)
        except ValueError:
            newer = self.files.manifest()
            if newer.hash() == manifest.hash():
                raise
            return newer, self.files.index(newer)

    def __len__(self) -> int:
        """Samples of all sessions and splits."""
        return len(self.index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.manifest_hash)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        if hasattr(self, "_mapped"):
            self._mapped.clear()
        open_shards = getattr(self, "_open_shards", {})
        while open_shards:
            open_shards.popitem()[1].close()

    def key(self, row: int) -> str:
        """Return the webdataset key of a sample: session and number within it."""
        session = self.manifest.sessions[self.index.session[row]]
        return f"{session.session_id}-{self._number_in_session[row]:06d}"

    def rows_of(self, session_id: str, split: str) -> np.ndarray:
        """Return the rows of one session in one split, ascending, which is in order of time (int64)."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        if session_id not in self._number:
            self.manifest.session(session_id)  # raises, naming the nearest
        group = self._number[session_id] * len(SPLITS) + SPLITS.index(split)
        return self._rows_by_group[self._group_bounds[group] : self._group_bounds[group + 1]]

    def read(self, row: int, with_meta: bool = True) -> Sample:
        """Read one sample, checked; without its meta it is not read, and `Sample.meta` is empty.

        Raises DatasetError naming shard, key and member when bytes were damaged or are not what the manifest says, and
        IndexError for a row that does not exist.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.path}: row {row} of {len(self)} samples")
        number = int(self.index.session[row])
        entry = self.manifest.sessions[number]
        bins = int(self.index.bins[row])
        member = SIGNAL_MEMBER
        try:
            signal = decode_array(
                self._member(row, "signal"), SIGNAL_DTYPES[entry.modality], (bins, self._units[number])
            )
            covariates, meta = None, {}
            if self._widths[number]:
                member = COVARIATES_MEMBER
                covariates = decode_array(self._member(row, "covariates"), ("float32",), (bins, self._widths[number]))
            if with_meta:
                member = META_MEMBER
                meta = decode_json(self._member(row, "meta"))
                self._check_meta(meta, row, entry)
        except (MemberError, OSError) as error:
            shard = self.files.name(self.manifest.shards[self.index.shard[row]])
            raise DatasetError(
                f"{shard}: {self.key(row)}.{member}: {error}; "
                f"find all damage with `python launch/describe.py {self.path} --verify`, then {self.files.remedy}"
            ) from error
        return Sample(self.key(row), entry.session_id, signal, covariates, meta)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read everything; raises DatasetError with every problem found: checksums, sizes, counts, order, stray files.

        `progress` is called with the bytes checked so far and in all.
        """
        from neurochorus.data_shards.verify import dataset_problems

        problems = dataset_problems(self, progress)  # pyright: ignore[reportArgumentType]  (one file, two names: typings/)
        if problems:
            raise DatasetError(
                f"{self.path}: {len(problems)} problems: copy the files again, or write the data set again", problems
            )

    def _member(self, row: int, name: str) -> bytes:
        """The bytes of one member of a sample; their checksum is compared with the index the first time."""
        offsets, sizes, checksums = self._places[name]
        size = int(sizes[row])
        data = os.pread(self._shard(int(self.index.shard[row])).fileno(), size, int(offsets[row]))
        if len(data) != size:
            raise MemberError(f"only {len(data)} of {size} bytes could be read: the shard was cut short")
        if not self._intact[name][row]:
            if crc32(data) != checksums[row]:
                raise MemberError("the checksum does not fit: the bytes were changed after writing")
            self._intact[name][row] = True
        return data

    def _shard(self, number: int) -> BinaryIO:
        file = self._open_shards.get(number)
        if file is None:
            file = self.files.open(self.manifest.shards[number], self.close)
            self._open_shards[number] = file
            if len(self._open_shards) > MAX_OPEN_SHARDS:
                self._open_shards.popitem(last=False)[1].close()
        self._open_shards.move_to_end(number)
        return file

    def _mapped_shard(self, number: int) -> Mapped:
        return self._mapped.get(number, lambda: self._shard(number))

    def _check_meta(self, meta: dict[str, Any], row: int, entry: SessionEntry) -> None:
        expected = {
            "session_id": entry.session_id,
            "subject_id": entry.subject_id,
            "split": SPLITS[self.index.split[row]],
            "start": int(self.index.start[row]),
            "bins": int(self.index.bins[row]),
        }
        for name, value in expected.items():
            if meta.get(name) != value:
                raise MemberError(f"{name} is {meta.get(name)!r}; the index and the manifest say {value!r}")

    def _index_problems(self) -> list[str]:
        """Rows that point outside the shards, sessions or splits, and counts other than the manifest's."""
        index, shards = self.index, self.manifest.shards
        problems = [] if self.manifest.sessions else ["manifest.json: lists no session"]
        for column, limit in (
            ("shard", len(shards)),
            ("session", len(self.manifest.sessions)),
            ("split", len(SPLITS)),
        ):
            values = getattr(index, column)
            if len(values) and not (values.min() >= 0 and values.max() < limit):
                problems.append(f"index.npz: column {column} has values outside 0..{limit - 1}")
        if problems:
            return problems
        for number, found in enumerate(np.bincount(index.shard, minlength=len(shards))):
            if found != shards[number].samples:
                problems.append(
                    f"index.npz: {found} samples in {shards[number].file}; the manifest says {shards[number].samples}"
                )
        sizes = np.array([shard.bytes for shard in shards], dtype=np.int64)[index.shard]
        for name in ("signal", "covariates", "meta"):
            offset, size = getattr(index, f"{name}_offset"), getattr(index, f"{name}_bytes")
            outside = (offset < 0) | (size < 0) | (offset > sizes - size)
            if outside.any():
                problems.append(f"index.npz: row {int(outside.argmax())}: {name} lies outside its shard")
        return problems


def _reopen(path: Path | str, manifest_hash: str) -> ShardDataset:
    """Open a data set in another process, which must find what the first one found."""
    return ShardDataset(path, manifest_hash=manifest_hash)


def _count_within(groups: np.ndarray) -> np.ndarray:
    """Number each entry among the equal ones in front of it, from 0: [5, 7, 5] gives [0, 0, 1]."""
    order = np.argsort(groups, kind="stable")
    in_order = groups[order]
    counts = np.empty(len(groups), dtype=np.int64)
    counts[order] = np.arange(len(groups)) - np.searchsorted(in_order, in_order)
    return counts
