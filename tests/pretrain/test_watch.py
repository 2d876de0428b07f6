from pathlib import Path

import pytest

from neurochorus.pretrain.watch import cut_partial_line


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"one\n", b"one\n"), (b"one\ntw", b"one\n"), (b"on", b"")],
)
def test_a_line_that_a_crash_cut_does_not_spoil_the_next_one(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_partial_line(path)
    assert not path.exists()
    path.write_bytes(before)
    cut_partial_line(path)
    assert path.read_bytes() == after
