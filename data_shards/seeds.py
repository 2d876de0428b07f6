"""Seeds that depend on what they are for and on nothing else, the same everywhere and always."""

import hashlib


def seed_number(text: str) -> int:
    """63 bits of a hash of `text`, for PyTorch's generators."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def keyed_bits(*parts: int | str) -> int:
    """128 bits that depend on all the parts, for counter-based generators."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
