"""Seeds for PyTorch's generators that depend on a text and on nothing else."""

import hashlib


def seed_number(text: str) -> int:
    """63 bits of a hash of `text`, the same everywhere and always."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
