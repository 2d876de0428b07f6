"""Which DeepSpeed settings a user may pass on: DeepSpeed itself ignores a misspelt top-level key in silence."""

import difflib
from typing import Any

OWN_KEYS = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_optimization",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
    "data_types",
    "checkpoint",
}
"""Derived from our own settings."""
PASSTHROUGH_KEYS = {
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "comms_logger",
    "flops_profiler",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
}

SECTIONS = {"comms_logger", "flops_profiler"}
"""Pass-through keys whose value is a mapping of further settings."""


def passthrough_problems(values: dict[str, Any]) -> list[str]:
    """Problems of the `deepspeed:` section of a run, a line each."""
    found = []
    for key, value in values.items():
        if key in OWN_KEYS:
            found.append(
                f"deepspeed.{key}: is derived from the sections train, zero, checkpoint, autoencoder and dynamics; "
                "set it there"
            )
        elif key not in PASSTHROUGH_KEYS:
            near = difflib.get_close_matches(key, PASSTHROUGH_KEYS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(sorted(PASSTHROUGH_KEYS))}"
            found.append(f"deepspeed.{key}: unknown key; {hint}")
        elif key in SECTIONS and not isinstance(value, dict):
            found.append(f"deepspeed.{key}: expected a mapping of settings, found {value!r}")
    return found
