"""Early stopping: a stage ends when its validation loss has not improved for some evaluations, and its best is kept.

A stage that comes to the end of its steps keeps its last weights, unless others were better by more than the standard
error of the difference: after a handful of windows the smallest of many losses is chosen by chance, and learning rates
have fallen for the last ones.

    checkpoints/STAGE/best/step_00000120.safetensors     weights that would be kept if the stage ended now

A checkpoint says which weights were kept when it was written, and those of every step that a checkpoint names stay. So
a resumed run stops where an undisturbed one would, with the same weights.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor

from neurochorus.pretrain.batch_losses import BatchLosses, difference_error
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.position import complete_checkpoints, read_position
from neurochorus.pretrain.stop_section import StopSection
from neurochorus.pretrain.validation import Scores

LEAST_WINDOWS = 30
"""Windows of validation data below which a choice by their loss is called uncertain: with n windows the standard error
of a mean is itself known to 1 / sqrt(2 n), 13 % at 30."""


class EarlyStopping:
    """The best evaluation of one stage so far, and how many came after it. All ranks must make the same calls."""

    def __init__(self, settings: StopSection, folder: Path, windows: int, ranks: Ranks, say: Callable[[str], None]):
        """`folder`: where the stage's checkpoints lie; `windows`: how many there are in the data that are scored."""
        self.settings, self.windows = settings, windows
        self._folder, self._ranks, self._say = folder, ranks, say
        self._weights: dict[str, Tensor] = {}
        self._state: dict[str, Any] = {
            "step": None,  # this and the next three: of the best
            "loss": None,
            "error": None,
            "losses": [],
            "kept": None,
            "waited": 0,
            "last": 0,
        }
        self._handed: int | None = None

    @property
    def spent(self) -> bool:
        """Whether the stage should end."""
        return self._state["waited"] >= self.settings.patience

    @property
    def begun(self) -> bool:
        """Whether anything was scored."""
        return self._state["step"] is not None

    @property
    def state(self) -> dict[str, Any]:
        """To be saved with a checkpoint."""
        self._handed = self._state["kept"]
        return dict(self._state)

    def resume(self, state: Mapping[str, Any], elsewhere: Path | None = None) -> None:
        """Go on from a checkpoint's state. Raises ValueError when the weights that it names are not there.

        `elsewhere`: the folder of checkpoints of another run, if the checkpoint is of one.
        """
        self._state |= {"kept": state["step"], **state}
        folders = [folder for folder in (self._folder, elsewhere) if folder is not None]
        files = [file for folder in folders if (file := _file(folder, self._state["kept"])).is_file()]
        if not files:
            raise ValueError(
                f"{_file(self._folder, self._state['kept'])}: the best weights so far are missing; without them the "
                "run cannot continue: put the file back, or remove the checkpoints of this stage to train it anew"
            )
        try:
            self._weights = load_file(files[0])
        except SafetensorError as error:
            raise ValueError(f"{files[0]}: not a readable safetensors file ({error}): train the stage anew") from None
        self._ranks.barrier()  # all have read it
        if files[0].parent.parent != self._folder:
            self._save()

    def note(
        self, step: int, scores: Scores, weights: Callable[[], dict[str, Tensor]], at_the_end: bool = False
    ) -> None:
        """Take in an evaluation; `at_the_end`: of the stage's last step."""
        loss = self._ranks.gather(scores.values["validation_loss"])[0]
        first = not self.begun
        self._state["last"] = step
        best = first or self._better(loss)
        if best:
            losses = [[number, *values] for number, values in scores.losses.items()]
            error = scores.values.get("validation_se")
            self._state |= {"step": step, "loss": loss, "error": error, "losses": losses, "waited": 0}
        else:
            self._state["waited"] += 1
        if best or (at_the_end and self._as_good(loss, scores.losses)):
            self._state["kept"] = step
            self._weights = {name: value.contiguous() for name, value in weights().items()}
            self._save()
        if first and self.windows < LEAST_WINDOWS:
            self._say(
                f"stop: the valid split has {self.windows} windows, fewer than {LEAST_WINDOWS}: "
                f"its loss is {self._shown()}, and the choice of the best step is as uncertain"
            )

    def _better(self, loss: float) -> bool:
        """A loss that is no number is better than none alone."""
        return loss < self._state["loss"] or (math.isnan(self._state["loss"]) and not math.isnan(loss))

    def _as_good(self, loss: float, losses: BatchLosses) -> bool:
        """Whether the best was not better by more than the standard error of the difference."""
        best = {int(number): (value, bins) for number, value, bins in self._state["losses"]}
        error = self._ranks.gather(difference_error(losses, best))[0]
        return error is not None and loss - self._state["loss"] <= error

    def kept_weights(self) -> dict[str, Tensor]:
        """Of the whole stage, on the CPU."""
        return self._weights

    def line(self) -> dict[str, float]:
        """For metrics.jsonl."""
        return {"best_step": self._state["step"], "best_validation_loss": self._state["loss"]}

    def facts(self) -> dict[str, Any]:
        """What a model card says."""
        return {
            "best_step": self._state["step"],
            "kept_step": self._state["kept"],
            "validation_loss": self._state["loss"],
            "standard_error": self._state["error"],
            "stopped_at": self._state["last"] if self.spent else None,
            "validation_windows": self.windows,
        }

    def summary(self, stage: str) -> str:
        """One line for the screen."""
        why = f"stopped at step {self._state['last']}, after {self._state['waited']} evaluations without a new best"
        return (
            f"{stage}: {why if self.spent else 'ran to its last step'}; the weights of step {self._state['kept']} are "
            f"kept, the best validation loss was {self._shown()} at step {self._state['step']}"
        )

    def _shown(self) -> str:
        error = self._state["error"]
        return f"{self._state['loss']:.5g}" + ("" if error is None else f" ± {error:.2g} (standard error)")

    def _save(self) -> None:
        """Write the best weights, and remove those that neither a checkpoint nor this run needs."""
        problem = self._ranks.gather(self._written() if self._ranks.first else None)[0]
        if problem is not None:
            raise OSError(problem)

    def _written(self) -> str | None:
        """On the first rank; what went wrong, None where nothing did."""
        file = _file(self._folder, self._state["kept"])
        partial = file.with_name(".partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as handle:
                handle.write(serialized(self._weights))
                handle.flush()
                os.fsync(handle.fileno())  # a checkpoint that names it may outlive the machine's power
            os.replace(partial, file)
            saved = [read_position(checkpoint).early for checkpoint in complete_checkpoints(self._folder)]
            named = {early.get("kept", early["step"]) for early in saved if early}
            needed = {self._state["kept"], self._handed, *named}
            for other in file.parent.glob("step_*.safetensors"):
                if int(re.sub(r"\D", "", other.stem)) not in needed:
                    other.unlink()
        except (OSError, SafetensorError) as error:
            return f"{file}: cannot be written ({error}); make room, and run the same command again"
        return None


def _file(folder: Path, step: int) -> Path:
    return folder / "best" / f"step_{step:08d}.safetensors"
