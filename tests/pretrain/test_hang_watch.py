"""A rank that hangs is named, with its place and its stack, by the ranks that wait for it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.hang_watch import HangWatch, stack_of
from tests.distributed import free_port

SECONDS = 3.0


def hang_in_a_read() -> None:
    time.sleep(600)


def train() -> None:
    """Three steps of a training loop on two ranks, in whose last one rank 1 reads for ever; run as a program."""
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), 2, 0, torch.device("cpu"))
    with HangWatch(ranks, SECONDS / 60, "test") as watch:
        for step in (1, 2, 3):
            watch.at(f"step {step}: reading")
            time.sleep(SECONDS / 4)  # each place has the whole time
            if step == 3 and ranks.rank == 1:
                hang_in_a_read()
            watch.at(f"step {step}: training")
            ranks.sum(torch.ones(1))


def test_the_rank_that_did_not_arrive_is_named_by_all(tmp_path: Path) -> None:
    with_store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", "from tests.pretrain.test_hang_watch import train; train()"],
            env={**os.environ, **with_store, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    waiting, hung = (process.communicate()[1] for process in begun)
    ended = [process.returncode for process in begun]
    assert 0 not in ended, waiting + hung
    assert os.EX_TEMPFAIL in ended  # the other one may lose its connection first
    assert "rank 0" in waiting.partition("error: ")[2]
    assert "at 'step 3: training'" in waiting
    assert "Not arrived: rank 1 on" in waiting
    assert "(at 'step 3: reading')" in waiting
    assert "while others wait for it" in hung
    for report in (waiting, hung):
        assert "in hang_in_a_read" in report.partition("Traceback")[0]
        assert "step 2" not in report


def test_a_watch_that_is_left_ends_nothing() -> None:
    ended: list[int] = []
    with HangWatch(Ranks(0, 1, 0, torch.device("cpu")), 0.2 / 60, "test", Posts(), ended.append) as watch:
        watch.at("reading")
    time.sleep(1.0)
    assert ended == []


class Posts(dict[str, str]):
    """A store that other ranks have posted to."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


def test_a_rank_that_is_frozen_cannot_show_its_stack(capfd) -> None:
    """Its whole process stands still, or its node is gone: the last post is all that is known."""
    ended: list[int] = []
    store = Posts({"0": '{"arrivals": 6, "place": "step 3: reading", "since": 0, "host": "far"}'})
    ranks, deadline = Ranks(1, 2, 0, torch.device("cpu")), time.monotonic() + 60
    with HangWatch(ranks, 0.3 / 60, "test", store, ended.append) as watch:
        for place in ("reading", "training") * 4:
            watch.at(f"step 4: {place}")
        while not ended and time.monotonic() < deadline:
            time.sleep(0.05)
    assert os.EX_TEMPFAIL in ended
    error = capfd.readouterr().err
    assert "Not arrived: rank 0 on far (at 'step 3: reading')" in error
    assert "rank 0 is at\n  no answer: stopped, or its node is gone" in error


def test_a_stack_names_files_lines_and_functions() -> None:
    lines = stack_of(threading.get_ident()).splitlines()
    inner = next(line for line in lines if "test_a_stack_names" in line)
    assert inner.startswith(f"  {__file__}:")
    assert lines.index(inner) > 0
