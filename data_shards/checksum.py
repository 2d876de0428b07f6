"""CRC-32, the checksum of every member of a shard. ISA-L computes the same number about ten times as fast as zlib."""

from zlib import crc32 as zlib_crc32

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this processor: the same, slower
    crc32 = zlib_crc32

__all__ = ["crc32"]
