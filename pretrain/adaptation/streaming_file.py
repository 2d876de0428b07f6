"""The state of a stream as one safetensors file: rows, what they are held to, recent bins, settings in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neurochorus.models import NeuralModel
from neurochorus.pretrain.adaptation.session_rows import Rows, rows_of
from neurochorus.pretrain.evaluation.output_file import write_whole

if TYPE_CHECKING:
    from neurochorus.pretrain.adaptation.streaming import StreamingRows

KEY = "neurochorus_streaming"
SETTINGS = ("window_bins", "drift", "held_back", "learning_rate", "batch_windows")


def write_state(stream: "StreamingRows", path: Path) -> None:
    """Write a stream's state, whole or not at all."""
    signal_TC, stretch_T = stream.recent.in_order()
    session = stream.model.registry.session(stream.session_id)
    tensors = {f"rows.{name}": value.contiguous() for name, value in stream.rows.items()}
    tensors |= {f"anchor.{name}": value.contiguous() for name, value in stream.anchor.items()}
    # float32 holds every count of 16 bits
    tensors |= {"signal": torch.from_numpy(signal_TC.astype(np.float32)), "stretch": torch.from_numpy(stretch_T)}
    header = {
        "session": stream.session_id,
        "unit_hash": session.unit_hash,
        "bins": stream.recent.room,
        "settings": {name: getattr(stream, name) for name in SETTINGS},
        "training": stream.training,
    }
    write_whole(path, lambda file: file.write(save(tensors, {KEY: json.dumps(header)})))


def read_state(
    kind: "type[StreamingRows]", path: Path, model: NeuralModel, settings: Mapping[str, Any]
) -> "StreamingRows":
    """A stream as it was; see `StreamingRows.restore`."""
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            header = json.loads((opened.metadata() or {})[KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a state that StreamingRows.save wrote ({error})") from None
    session = model.registry.session(header["session"])
    if session.unit_hash != header["unit_hash"]:
        raise ValueError(
            f"{path}: session {session.session_id!r} has other units in the model (hash {session.unit_hash}, in the "
            f"file {header['unit_hash']}): give the model that the stream began with"
        )
    minutes = header["bins"] * session.bin_s / 60
    stream = kind(model, session.session_id, **{"minutes": minutes, **header["settings"], **settings})
    anchor, rows = (_part(tensors, part) for part in ("anchor", "rows"))
    own = rows_of(model, session.session_id)
    if any(name not in anchor or not torch.equal(anchor[name].to(own[name]), own[name]) for name in own):
        raise ValueError(
            f"{path}: its stream began with other rows of session {session.session_id!r} than those of this model: "
            "give the model that it began with"
        )
    stream.take_over(rows)
    stream.training = header["training"]
    signal_TC, stretch_T = tensors["signal"].numpy(), tensors["stretch"].numpy()
    for number, stretch in enumerate(np.split(signal_TC, np.flatnonzero(np.diff(stretch_T)) + 1)):
        # in the order of training, as it is kept
        stream.recent.push(stretch, continues=number == 0)
    return stream


def _part(tensors: Mapping[str, torch.Tensor], part: str) -> Rows:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
