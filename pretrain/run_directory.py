"""The directory of a run: config.yaml, run.json, metrics.jsonl, checkpoints/, autoencoder/, export/."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.fingerprint import Fingerprint
from neurochorus.pretrain.position import complete_checkpoints, read_position, refuse_difference


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def autoencoder(self) -> Path:
        """Model directory written when stage 1 is done; resuming starts stage 2 from it."""
        return self.path / "autoencoder"

    @property
    def export(self) -> Path:
        return self.path / "export"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    def in_use(self) -> bool:
        return self.autoencoder.exists() or any(
            complete_checkpoints(folder) for folder in self.path.glob("checkpoints/*")
        )

    def prepare(
        self, config: RunConfig, ranks: Ranks, deepspeed: dict[str, Any], fingerprints: Mapping[str, Fingerprint]
    ) -> None:
        """Make the directory and note what runs in it; `fingerprints` are those of the stages still to be trained.

        Raises ValueError when a used directory may not be continued, or none can be made; a used one is then as before.
        """
        if config.run.resume == "never" and self.in_use():
            raise ValueError(f"run.dir {self.path} holds checkpoints and run.resume is 'never': give another run.dir")
        for stage, fingerprint in fingerprints.items():
            newest = next(reversed(complete_checkpoints(self.checkpoints(stage))), None)
            if newest is not None:
                refuse_difference(newest, read_position(newest), fingerprint)
        ranks.barrier()  # every rank has looked before the first one writes
        if ranks.first:
            try:
                self._note(config, describe_run(ranks) | {"deepspeed": deepspeed})
            except OSError as error:
                raise ValueError(f"run.dir {self.path}: cannot be written ({error}): give another run.dir") from None

    def _note(self, config: RunConfig, facts: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "STOP").unlink(missing_ok=True)
        (self.path / "config.yaml").write_text(yaml.safe_dump(settings_to_dict(config), sort_keys=False))
        (self.path / "run.json").write_text(json.dumps(facts, indent=1))


def describe_run(ranks: Ranks) -> dict[str, Any]:
    """Versions, commit, command and world of this run, as plain values."""
    packages = ("neurochorus", "torch", "deepspeed", "webdataset", "numpy", "safetensors")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "host": socket.gethostname(),
        "pid": os.getpid(),  # of rank 0: signals to it stop the run
        "world": ranks.world,
        "device": ranks.device.type,
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in packages},
        "commit": _commit(),
    }


def version_of(package: str) -> str | None:
    """The installed version of a package; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this code, with a + when files differ from it; None outside a git checkout."""
    here = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(here), *arguments), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
