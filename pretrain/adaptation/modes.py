"""What moves when a model is adapted: new rows alone, low-rank updates, layer after layer, or everything.

    rows       rows, biases and vectors of the new sessions and subjects
    lora       these, and low-rank updates of chosen linear layers (low_rank.py)
    unfreeze   these, and the trunk from its output downwards (unfreezing.py)
    full       these, and the whole trunk

The trunk is all that is no row of a table: it moves at `trunk_factor` times the learning rate of the new rows, read-in
rows among these at `read_in_factor` times it. Old rows
stay as they are in every mode, unless replay trains on them.

The whitening and the sd of increments stay those of the pretraining, also where stage 1 moves the encoder: they are the
units in which the dynamics were trained and in which every known session's latents are expressed. Fitted anew on a few
minutes of one session they would turn and scale the space under the dynamics and all old sessions at once; kept, what
the encoder has moved is a drift that stage 2, which is trained on top of it, sees and follows.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from neurochorus.models import Autoencoder
from neurochorus.pretrain.adaptation.low_rank import LoraSection, add_low_rank
from neurochorus.pretrain.adaptation.old_rows import tables_of
from neurochorus.pretrain.adaptation.unfreezing import UnfreezeSection, beginnings
from neurochorus.pretrain.optimizer import PACES, Pace
from neurochorus.pretrain.stages import StageName

AdaptName = Literal["rows", "lora", "unfreeze", "full"]


@dataclass(frozen=True)
class Mode:
    """What moves besides rows, and how fast."""

    name: AdaptName
    trunk_factor: float
    lora: LoraSection
    unfreeze: UnfreezeSection
    seed: int
    read_in_factor: float = 1.0

    def apply(self, part: nn.Module, stage: StageName) -> None:
        """Let the parameters of the mode move in a part, the copy of a model's that is about to be trained."""
        match self.name:
            case "rows":
                pass
            case "lora":
                add_low_rank(part, stage, self.lora, self.trunk_factor, self.seed)
            case "unfreeze":
                _release(part, beginnings(part, self.unfreeze), self.trunk_factor)
            case "full":
                _release(part, beginnings(part, UnfreezeSection(last=0.0)), self.trunk_factor)
            case _:
                raise ValueError(f"adapt {self.name!r} is unknown; valid: rows, lora, unfreeze, full")
        if isinstance(part, Autoencoder):
            setattr(part.read_in_rows, PACES, {"weight": Pace(self.read_in_factor)})

    def numbers(self) -> dict[str, object]:
        """What a model card says of the mode."""
        match self.name:
            case "lora":
                own: dict[str, object] = {
                    "rank": self.lora.rank,
                    "alpha": self.lora.alpha,
                    "targets": self.lora.targets,
                }
            case "unfreeze":
                begins = self.unfreeze.begins
                own = {"last": self.unfreeze.last} if begins is None else {"begins": begins}
            case _:
                own = {}
        return own if self.name == "rows" else {**own, "trunk_factor": self.trunk_factor}


def _release(part: nn.Module, begins: dict[str, float | None], factor: float) -> None:
    tables = {id(table) for _, table in tables_of(part)}
    for prefix, module in part.named_modules():
        if id(module) in tables:
            continue
        paces: dict[str, Pace] = {}
        for name, parameter in module.named_parameters(recurse=False):
            share = begins[f"{prefix}.{name}" if prefix else name]
            parameter.requires_grad_(share is not None)
            if share is not None:
                paces[name] = Pace(factor, share)
        setattr(module, PACES, paces)
