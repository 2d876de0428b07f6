"""How fast a run goes: bins a second, the share of waiting for data, model FLOPs utilisation, memory."""

import resource
import sys
import time
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch


class CountsFlops(Protocol):
    def flops(self, bins: int, units: int) -> dict[str, float]: ...


class Speed:
    """Sums since the last line. MFU is that of this rank's device: its own micro-batches, padding included."""

    def __init__(self, peak_tflops: float):
        self._peak = peak_tflops * 1e12
        self.restart()

    def restart(self) -> None:
        """Begin a stage, whose FLOPs are counted anew."""
        self._flops_a_bin: dict[tuple[int, int], float] = {}
        self._begin_line()

    def _begin_line(self) -> None:
        self._since = time.perf_counter()
        self._bins: Tensor | float = 0.0
        self._waited = self._flops = 0.0

    def add(self, bins: Tensor | float, waited_s: float) -> None:
        """Count in a step: valid bins over all ranks, and seconds waited for its data."""
        self._bins = self._bins + bins
        self._waited += waited_s

    def add_work(self, stage: CountsFlops, batches: Iterable[Batch]) -> None:
        """Count in the FLOPs of this rank's micro-batches of a step."""
        for batch in batches:
            samples, bins, units = batch.signal_BTC.shape
            if (bins, units) not in self._flops_a_bin:
                self._flops_a_bin[bins, units] = sum(stage.flops(bins, units).values())
            self._flops += self._flops_a_bin[bins, units] * samples * bins

    def take(self) -> dict[str, float]:
        """elapsed_s, bins_per_s, data_wait and mfu (shares; the latter where FLOPs were counted), memory_gib.

        Starts anew.
        """
        elapsed = time.perf_counter() - self._since
        found = {"elapsed_s": elapsed, "bins_per_s": float(self._bins) / elapsed, "data_wait": self._waited / elapsed}
        if self._flops and self._peak:
            found["mfu"] = self._flops / elapsed / self._peak
        self._begin_line()
        return {**found, "memory_gib": peak_memory_gib()}


def peak_memory_gib() -> float:
    """The most memory so far: of the device's tensors on a GPU, else of the whole process (resident)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
