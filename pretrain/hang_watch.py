"""A watchdog for ranks that hang: says which ranks have not arrived, and where they are, not only that time is out.

Collectives wait for the last rank, so that one rank that hangs (a file server, a driver, a full pipe) stops all.
Each rank notes where it is at a few places of every step, all ranks the same places in the same order; a thread posts
it to the ranks' store (a small message a second at most, no collective). When a rank stays at a place for too
long, the posts of the others tell who has not come as far.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol, Self

import torch.distributed as dist
from torch.distributed import distributed_c10d

from neurochorus.pretrain.distributed import Ranks

LOOK_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""How long a rank that gives up waits for the others to reach their limits too, and for itself to go on after all."""
STORE_SECONDS = 10.0
STACKS_SHOWN = 4


class Store(Protocol):
    """What is used of torch.distributed's key-value stores."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


@dataclass(frozen=True)
class Post:
    """Where a rank is."""

    arrivals: int
    """Places it has come to so far; the same number is the same place on every rank."""
    place: str
    since: float
    """Seconds, by a clock of its host that nobody sets."""
    host: str


class HangWatch:
    """While inside, ends this process with a report when the training thread stays at one place for over `minutes`.

    With `minutes` None it does nothing. Exit status 75, as when a rank is lost: the same command would continue.
    """

    def __init__(
        self,
        ranks: Ranks,
        minutes: float | None,
        name: str,
        store: Store | None = None,
        end: Callable[[int], object] = os._exit,
    ):
        """`name` tells this watch from others of the same run. `store` and `end` are for tests."""
        self._ranks, self._end = ranks, end
        self._limit = 0.0 if minutes is None else 60 * minutes
        self._store = _own_connection(name) if self._limit and store is None else store
        self._post = Post(0, "", time.monotonic(), socket.gethostname())
        self._over = threading.Event()
        self._trainer = threading.get_ident()

    def __enter__(self) -> Self:
        if self._limit:
            threading.Thread(target=self._watch, daemon=True, name="hang watch").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def at(self, place: str) -> None:
        """The training thread comes to a place. All ranks must say the same places in the same order."""
        self._post = Post(self._post.arrivals + 1, place, time.monotonic(), self._post.host)

    def _watch(self) -> None:
        posted, grace = 0, min(GRACE_SECONDS, self._limit / 2)
        while not self._over.wait(min(LOOK_SECONDS, self._limit / 10)):
            post = self._post
            if post.arrivals != posted:
                posted = post.arrivals
                self._tell(str(self._ranks.rank), json.dumps(asdict(post)))
            if posted and time.monotonic() - post.since > self._limit:
                self._report(post, grace)

    def _report(self, post: Post, grace: float) -> None:
        """Say what is known, and end the process unless the training thread has gone on meanwhile."""
        stack = stack_of(self._trainer)
        self._tell(f"{self._ranks.rank}/stack", stack)
        if not self._over.wait(grace) and self._post is post:
            print(f"error: {self._findings(post, stack)}", file=sys.stderr, flush=True)
        # the launcher ends all ranks when one ends: let those speak that came to their places later
        if not self._over.wait(2 * grace) and self._post is post:
            self._end(os.EX_TEMPFAIL)

    def _findings(self, post: Post, stack: str) -> str:
        minutes = (time.monotonic() - post.since) / 60
        head = f"rank {self._ranks.rank} on {post.host} has been at '{post.place}' for {minutes:.1f} min"
        try:
            posts = [self._post_of(rank) for rank in range(self._ranks.world)]
        except (dist.DistError, RuntimeError) as error:
            return f"{head}, and rank 0, whose store tells of the others, does not answer ({error}); it is at\n{stack}"
        behind = [rank for rank, other in enumerate(posts) if other.arrivals < max(p.arrivals for p in posts)]
        if self._ranks.rank in behind:
            return f"{head} while others wait for it; it is at\n{stack}"
        if not behind:
            return f"{head}, and so have all others: the network between them, or a device? It is at\n{stack}"
        named = ", ".join(f"rank {r} on {posts[r].host} (at '{posts[r].place}')" for r in behind)
        speaker = next(rank for rank in range(self._ranks.world) if rank not in behind)
        return f"{head}. Not arrived: {named}" + (self._stacks(behind) if speaker == self._ranks.rank else "")

    def _stacks(self, behind: Sequence[int]) -> str:
        shown = []
        for rank in behind[:STACKS_SHOWN]:
            text = self._heard(f"{rank}/stack") or "  no answer: stopped, or its node is gone"
            shown.append(f"\nrank {rank} is at\n{text}")
        return "".join(shown)

    def _post_of(self, rank: int) -> Post:
        text = self._heard(str(rank))
        return Post(0, "before the first step", 0.0, "an unknown node") if text is None else Post(**json.loads(text))

    def _heard(self, key: str) -> str | None:
        assert self._store is not None
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _tell(self, key: str, value: str) -> None:
        assert self._store is not None
        with suppress(dist.DistError, RuntimeError):  # rank 0 is gone: the training thread notices too
            self._store.set(key, value)


def stack_of(thread: int) -> str:
    """The calls that a thread is in, innermost last. It reads no source files: their disk may be what hangs."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "  a thread that has ended"
    calls = [
        f"  {one.f_code.co_filename}:{line} in {one.f_code.co_qualname}" for one, line in traceback.walk_stack(frame)
    ]
    return "\n".join(reversed(calls))


def _own_connection(name: str) -> Store:
    """A connection of this thread's own to the store at which the ranks met: the other one may be in use for long."""
    met: Any = distributed_c10d._get_default_store()
    store = distributed_c10d.PrefixStore(f"hang watch/{name}", met.clone() if hasattr(met, "clone") else met)
    store.set_timeout(timedelta(seconds=STORE_SECONDS))  # torch before 2.8 has no clone
    return store
