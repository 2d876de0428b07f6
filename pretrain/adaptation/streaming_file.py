"""The state of a stream as one safetensors file: rows, what they are held to, recent bins, settings in its header.

T bins, C units.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neurochorus.pretrain.adaptation.session_rows import Rows
from neurochorus.pretrain.evaluation.output_file import write_whole

KEY = "neurochorus_streaming"


@dataclass(frozen=True)
class StreamState:
    session_id: str
    unit_hash: str
    room_bins: int
    "Bins that the buffer can hold."
    settings: dict[str, Any]
    training: dict[str, Any]
    rows: Rows
    anchor: Rows
    signal_TC: np.ndarray
    "What the buffer holds, the oldest first, units in the order of training."
    stretch_T: np.ndarray
    "Number of the unbroken stretch of each bin."

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        tensors = {f"rows.{name}": value.contiguous() for name, value in self.rows.items()}
        tensors |= {f"anchor.{name}": value.contiguous() for name, value in self.anchor.items()}
        # float32 holds every count of 16 bits
        signal, stretch = self.signal_TC.astype(np.float32), self.stretch_T.astype(np.int64)
        tensors |= {"signal": torch.from_numpy(signal), "stretch": torch.from_numpy(stretch)}
        header = {
            "session": self.session_id,
            "unit_hash": self.unit_hash,
            "bins": self.room_bins,
            "settings": self.settings,
            "training": self.training,
        }
        write_whole(path, lambda file: file.write(save(tensors, {KEY: json.dumps(header)})))

    @classmethod
    def read(cls, path: Path) -> "StreamState":
        """Raises ValueError for a file that `write` did not write."""
        try:
            with safe_open(path, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                header = json.loads((opened.metadata() or {})[KEY])
            return cls(
                session_id=header["session"],
                unit_hash=header["unit_hash"],
                room_bins=header["bins"],
                settings=header["settings"],
                training=header["training"],
                rows=_part(tensors, "rows"),
                anchor=_part(tensors, "anchor"),
                signal_TC=tensors["signal"].numpy(),
                stretch_T=tensors["stretch"].numpy(),
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a state that StreamingRows.save wrote ({error})") from None


def _part(tensors: Mapping[str, torch.Tensor], part: str) -> Rows:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
