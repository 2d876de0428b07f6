"""What PyTorch's allocator really gave out while some code ran, as its profiler reports it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile


@dataclass
class Allocations:
    """Bytes on the CPU, against those when the measurement began."""

    kept: int = 0
    peak: int = 0


@contextmanager
def measured_allocations() -> Iterator[Allocations]:
    """Give an object that is filled in when the block ends. Temporary memory of kernels counts too."""
    found = Allocations()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        yield found
    assert record.profiler is not None
    results = record.profiler.kineto_results
    assert results is not None
    events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events)
    for _, size in changes:
        found.kept += size
        found.peak = max(found.peak, found.kept)
