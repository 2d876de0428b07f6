"""What a DeepSpeed checkpoint holds of each parameter, by name, whatever ranks and ZeRO stage wrote it.

ZeRO keeps float32 weights and the optimizer's state in flat tensors, a part of each on every rank:

    ZeRO-0      nothing is flat: one file has all parameters
    ZeRO-1, 2   the parameters of a group end to end, cut into equal parts; a file says which stretch of which parameter
                it has (`param_slice_mappings`)
    ZeRO-3      every parameter is cut into equal parts (the last ones padded), and a rank's parts are laid end to end

DeepSpeed's own way to other ranks, its universal format, is not used: it cannot read or write ZeRO-0, and at ZeRO-3 it
gives every parameter group the settings of the first (0.19.8), so that unit tables would begin to decay.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHT = "fp32"
"""Name of the weight itself, beside those of the optimizer's tensors (`exp_avg`, `exp_avg_sq`, ...)."""
PARAMETERS = "parameters"
"""Key under which an engine adds the names of its parameters to a checkpoint, in the optimizer's order."""

Addresses = list[dict[str, tuple[int, int]]]
"""Of one rank, for each of its flat tensors: name of a parameter -> where its stretch begins, and how long it is."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a parameter in one of the flat tensors of a rank."""

    rank: int
    group: int
    start: int
    numel: int
    offset: int
    """Where the stretch begins in the flattened parameter."""


def pieces_of(addresses: Sequence[Addresses]) -> dict[str, list[Piece]]:
    """Name -> its pieces, in the order in which they make up the parameter; `addresses` are those of all ranks."""
    found: dict[str, list[Piece]] = {}
    for rank, groups in enumerate(addresses):
        for group, places in enumerate(groups):
            for name, (start, numel) in places.items():
                pieces = found.setdefault(name, [])
                pieces.append(Piece(rank, group, start, numel, sum(piece.numel for piece in pieces)))
    return found


def addresses_in(state: Mapping[str, Any], shapes: Sequence[Mapping[str, Any]], rank: int, world: int) -> Addresses:
    """Where the parameters lie in the flat tensors of a rank, from its optimizer's state and all parameters' shapes."""
    if "param_slice_mappings" in state:
        return [{name: (at.start, at.numel) for name, at in group.items()} for group in state["param_slice_mappings"]]
    addresses: Addresses = []
    for group in shapes:
        places, start = {}, 0
        for name, shape in group.items():
            whole = math.prod(shape)
            part = math.ceil(whole / world)
            places[name] = (start, max(0, min(part, whole - rank * part)))
            start += part
        addresses.append(places)
    return addresses


def flat_weights(state: Mapping[str, Any]) -> list[Tensor]:
    """A rank's flat float32 weights, in its optimizer's state."""
    return state[
        "single_partition_of_fp32_groups" if "single_partition_of_fp32_groups" in state else "fp32_flat_groups"
    ]


def torch_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of PyTorch's optimizer over a rank's flat tensors, in that of DeepSpeed's."""
    return state["base_optimizer_state" if "base_optimizer_state" in state else "optimizer_state_dict"]


class SavedState:
    """The weights and the optimizer's state in a checkpoint; files are mapped: reading a parameter reads no other."""

    def __init__(self, checkpoint: Path):
        """Raises ValueError when the files are not those of a whole DeepSpeed checkpoint."""
        models = _by_rank(checkpoint, "*mp_rank_00_model_states.pt")
        if not models:
            raise ValueError(f"{checkpoint}: holds no model states of DeepSpeed")
        self.model: dict[str, Any] = _load(models[0])
        """Rank 0's model file: buffers and DeepSpeed's counters, and all weights below ZeRO-3."""
        self._ranks = [_load(path)["optimizer_state_dict"] for path in _by_rank(checkpoint, "*_optim_states.pt")]
        world = self.model["dp_world_size"]
        if self._ranks and len(self._ranks) != world:
            raise ValueError(f"{checkpoint}: holds optimizer states of {len(self._ranks)} ranks of {world}")
        self._pieces: dict[str, list[Piece]] = {}
        if self._ranks:
            shapes = self.model["param_shapes"]
            self._pieces = pieces_of([addresses_in(s, shapes, rank, world) for rank, s in enumerate(self._ranks)])
            self._shapes = {name: shape for group in shapes for name, shape in group.items()}
            first = torch_state(self._ranks[0])["state"]
        else:
            self._number = {name: number for number, name in enumerate(self.model[PARAMETERS])}
            first = self.model["optimizer"]["state"]
        example = next(iter(first.values()), {})
        self.step: Tensor | None = example.get("step")
        """The optimizer's count of steps; None before the first."""
        self.moments = [key for key, value in example.items() if key != "step"]
        """Names of the tensors that the optimizer keeps for each parameter."""

    @property
    def names(self) -> list[str]:
        """Parameters that are trained."""
        return list(self._pieces or self._number)

    def read(self, name: str, what: str) -> Tensor:
        """The whole weight (WEIGHT) of a parameter, or a tensor that the optimizer keeps for it; on the CPU."""
        if not self._ranks:
            number = self._number[name]
            return self.model["module"][name] if what == WEIGHT else self.model["optimizer"]["state"][number][what]
        parts = [
            self._flat(piece, what).flatten()[piece.start : piece.start + piece.numel] for piece in self._pieces[name]
        ]
        return torch.cat(parts).reshape(self._shapes[name])

    def buffers(self) -> dict[str, Tensor]:
        return {name: self.model["module"][name] for name in self.model["buffer_names"]}

    def _flat(self, piece: Piece, what: str) -> Tensor:
        state = self._ranks[piece.rank]
        return flat_weights(state)[piece.group] if what == WEIGHT else torch_state(state)["state"][piece.group][what]


def _by_rank(checkpoint: Path, pattern: str) -> list[Path]:
    def rank(path: Path) -> int:
        found = re.search(r"pp_rank_(\d+)_", path.name)
        return int(found[1]) if found else 0

    return sorted(checkpoint.glob(pattern), key=rank)


def _load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
