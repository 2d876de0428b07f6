"""Errors that several ranks meet are said once: a rank that others explain waits for its launcher to end it."""

import time

import pytest

from neurochorus.pretrain.distributed import ONE_VOICE_SECONDS, LostRanks, gpu_of, one_voice
from neurochorus.pretrain.loop import StoppedEarly

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is"


@pytest.mark.parametrize(
    ("rank", "error", "raised", "waits"),
    [
        (None, ValueError("no such session"), ValueError, False),
        ("0", ValueError("no such session"), ValueError, False),
        ("1", ValueError("no such session"), ValueError, True),
        ("0", RuntimeError(GLOO), LostRanks, True),
        ("1", RuntimeError(GLOO), LostRanks, True),
        ("1", StoppedEarly("asked to stop"), StoppedEarly, False),
    ],
)
def test_who_speaks_at_once(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, error: Exception, raised: type[Exception], waits: bool
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(raised) as caught, one_voice():
        raise error
    assert waited == [ONE_VOICE_SECONDS] * waits
    if raised is LostRanks:
        assert "(Connection closed by peer [127.0.0.1]:1)" in str(caught.value)


@pytest.mark.parametrize(("local_rank", "visible", "gpu"), [(0, 4, 0), (3, 4, 3), (3, 1, 0)])
def test_a_rank_takes_its_own_gpu_or_the_only_one_it_sees(local_rank: int, visible: int, gpu: int) -> None:
    assert gpu_of(local_rank, visible) == gpu


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rank 4 of node .* has no GPU: the node shows 4"):
        gpu_of(4, 4)
