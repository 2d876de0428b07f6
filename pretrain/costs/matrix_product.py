"""The peak that MFU is measured against where none is stated: a short product of two square matrices."""

import time

import torch

ROUNDS = 5


def measured_peak_tflops(device: torch.device, precision: str, size: int | None = None) -> float:
    """TFLOP/s of the fastest of five products in the precision of a run (fp32, bf16), on one device as it is now."""
    size = size or (8192 if device.type == "cuda" else 384)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    own = torch.Generator(device).manual_seed(0)  # the run's own draws stay as they are
    left, right = (torch.randn(size, size, device=device, generator=own).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(ROUNDS + 1):  # the first is to warm up
        begun = _now(device)
        torch.mm(left, right)
        seconds.append(_now(device) - begun)
    return 2 * size**3 / min(seconds[1:]) / 1e12


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
