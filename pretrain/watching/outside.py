"""Where lines of metrics go besides metrics.jsonl: wandb, offline unless there is a key, and TensorBoard."""

import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.pretrain.config import RunConfig

WANDB_ID = "wandb_id.txt"


class WandbSink:
    """One wandb run for all restarts of a run: its id is kept in the run directory."""

    def __init__(self, config: RunConfig, run_dir: Path, say: Callable[[str], None]):
        self._say = say
        self._run: Any = _start_wandb(config, run_dir)

    def write(self, stage: str, line: Mapping[str, Any]) -> None:
        named = {f"{stage}/{name}": value for name, value in _numbers(line).items() if name != "step"}
        self._tell(lambda run: run.log({**named, "step": line["step"]}))

    def close(self, exit_code: int) -> None:
        self._tell(lambda run: run.finish(exit_code=exit_code))

    def _tell(self, act: Callable[[Any], object]) -> None:
        """wandb works in a process of its own, which the SIGTERM of a launcher ends too: then go on without it."""
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:  # of many kinds, by what it was doing; none may end a run
            self._run = None
            self._say(f"wandb is left out from here on ({error}); metrics.jsonl has everything")
            _forget_wandb()


class TensorBoardSink:
    """Event files in `tensorboard/` of the run directory."""

    def __init__(self, run_dir: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))

    def write(self, stage: str, line: Mapping[str, Any]) -> None:
        for name, value in _numbers(line).items():
            if name != "step":
                self._writer.add_scalar(f"{stage}/{name}", value, line["step"])

    def close(self, exit_code: int) -> None:
        self._writer.close()


def refuse_missing_tensorboard(config: RunConfig) -> None:
    """Raise ValueError when watch.tensorboard is set and the package is not there; on every rank alike."""
    if config.watch.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "watch.tensorboard: the package tensorboard is not installed: pip install 'neurochorus[tensorboard]', or "
            "set it to false"
        )


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The line's numbers, those of a mapping as name/key."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": number for key, number in value.items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found


def _start_wandb(config: RunConfig, run_dir: Path) -> Any:
    mode = config.wandb.mode
    if mode == "disabled":
        return None
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    import wandb

    try:
        return wandb.init(
            project=config.wandb.project,
            dir=str(run_dir),
            mode=mode,
            name=run_dir.name,
            id=wandb_id(run_dir),
            resume="allow" if mode == "online" else None,  # `wandb sync` joins offline parts by their id
            config=settings_to_dict(config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
    except wandb.Error as error:
        raise ValueError(f"wandb.mode {mode}: {error} (wandb.mode=offline works without)") from None


def wandb_id(run_dir: Path) -> str:
    """The id of the run, made once, or given by the agent of a sweep, and kept in its directory."""
    path = run_dir / WANDB_ID
    if path.is_file() and (known := path.read_text().strip()):
        return known
    made = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    path.write_text(made + "\n")
    return made


def _forget_wandb() -> None:
    """Drop the broken connection, which would raise once more at the end of the process."""
    import wandb

    with suppress(Exception):
        wandb.teardown()
