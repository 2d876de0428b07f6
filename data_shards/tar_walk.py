"""The members of a shard as its tar lists them: plain ustar headers (POSIX.1-1988), nothing that extends them.

The tarfile module follows extensions that let a few bytes stand for names and sizes of any length; a shard needs none.
Nothing is ever extracted.
"""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a directory",
    tarfile.FIFOTYPE: "a pipe",
}


class NotATar(ValueError):
    """What a file has where a tar would have something else."""


class TarMember(NamedTuple):
    """`kind` says what it is instead of a plain file; offset and size are those of its data."""

    name: str
    kind: str | None
    offset: int
    size: int


def members_of(file: BinaryIO) -> Iterator[TarMember]:
    """Yield the members from the start of a file to the two zero blocks that end a tar; raises NotATar."""
    size, offset = file.seek(0, 2), 0
    while True:
        file.seek(offset)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise NotATar(f"it ends at byte {offset + len(header)}, without the zero blocks of an end")
        if not any(header):
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise NotATar(f"no header at byte {offset} ({error})") from None
        if not 0 <= info.size <= size - offset - BLOCK:
            raise NotATar(f"{info.name!r} would have {info.size} bytes, the file ends at {size}")
        kind = None if info.type in _PLAIN else _KINDS.get(info.type, f"of type {info.type!r}")
        yield TarMember(info.name, kind, offset + BLOCK, info.size)
        offset += BLOCK + -(-info.size // BLOCK) * BLOCK


def bytes_of(file: BinaryIO, member: TarMember) -> bytes:
    """Return the data of a member."""
    file.seek(member.offset)
    return file.read(member.size)
