"""The trainings of a comparison: adaptations of a pretrained model, and the same architecture from nothing.

Every training of a (fraction, seed) sees the same samples and has the same steps, batches, and early stopping.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from neurochorus.data_shards.settings import parse_settings, settings_to_dict
from neurochorus.launch.commands import Part, deepspeed, python
from neurochorus.models import TransformerConfig
from neurochorus.models.model import ModelConfig
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.evaluation.transfer import SCRATCH, fraction_text
from neurochorus.pretrain.finetuning import FinetuneConfig

JOINTLY, SMALL, PER_SESSION = f"{SCRATCH}, jointly", f"{SCRATCH}, jointly, small", f"{SCRATCH}, per session"
FIRST_PORT = 29700


@dataclass(frozen=True)
class Size:
    """A smaller model: width and blocks of encoder and dynamics, and latent channels."""

    width: int
    blocks: int
    latents: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """WIDTH:BLOCKS:LATENTS. Raises ValueError for anything else."""
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"--small {text!r}: expected WIDTH:BLOCKS:LATENTS, such as 48:1:8")
        return cls(*map(int, parts))

    @property
    def text(self) -> str:
        return f"{self.width}:{self.blocks}:{self.latents}"

    def of(self, model: ModelConfig) -> ModelConfig:
        """The model's settings at this size. Raises ValueError for a width that no number of heads divides."""

        def smaller(transformer: TransformerConfig) -> TransformerConfig:
            heads = next((n for n in range(transformer.heads, 0, -1) if self.width % (2 * n) == 0), None)
            if heads is None:
                raise ValueError(f"--small {self.text}: a width of {self.width}; expected an even number")
            return replace(transformer, width=self.width, blocks=self.blocks, heads=heads)

        autoencoder = replace(model.autoencoder, latents=self.latents, encoder=smaller(model.autoencoder.encoder))
        return replace(
            model,
            autoencoder=autoencoder,
            dynamics=replace(
                model.dynamics,
                transformer=smaller(model.dynamics.transformer),
                gru=replace(model.dynamics.gru, width=self.width),
            ),
        )


def default_sizes(model: ModelConfig) -> list[Size]:
    """Half the width with one block, with all and half the latents, and a quarter of the width."""
    width, latents = model.autoencoder.encoder.width, model.autoencoder.latents
    half, quarter, fewer = max(2, width // 4 * 2), max(2, width // 8 * 2), max(1, latents // 2)
    sizes = [Size(half, 1, latents), Size(half, 1, fewer), Size(quarter, 1, fewer)]
    return list(dict.fromkeys(sizes))


@dataclass(frozen=True)
class Comparison:
    """What is compared: settings of the adaptation, of training from scratch, and where it all goes."""

    finetune: FinetuneConfig
    scratch: RunConfig
    sessions: tuple[str, ...]
    arms: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    sizes: tuple[Size, ...]
    ranks: int
    out: Path

    def describe(self) -> dict[str, Any]:
        """All that the results depend on, but which arms, fractions and seeds there are: those may be added."""
        adaptation = settings_to_dict(self.finetune)
        del adaptation["run"], adaptation["adapt"]
        scratch = settings_to_dict(self.scratch)
        del scratch["run"]
        return {"finetune": adaptation, "scratch": scratch, "sessions": list(self.sessions), "ranks": self.ranks}

    def folder(self, fraction: float, seed: int, name: str) -> Path:
        return self.out / f"fraction{fraction_text(fraction)}" / f"seed{seed}" / name

    def cells(self) -> Iterator[tuple[float, int]]:
        """(fraction, seed), the smallest shares first: these take as long and fail as early."""
        return ((fraction, seed) for fraction in self.fractions for seed in self.seeds)

    def adaptation(self, fraction: float, seed: int, arm: str) -> Part:
        """Adapting the pretrained model in one of the modes."""
        values = settings_to_dict(self.finetune)
        values["adapt"] = arm
        values["data"] |= {"fraction": fraction, "fraction_seed": seed, "sessions": list(self.sessions), "exclude": []}
        return self._part("finetune.py", values, fraction, seed, arm)

    def scratch_model(
        self, fraction: float, seed: int, name: str, sessions: Sequence[str], size: Size | None = None
    ) -> Part:
        """Training from nothing on `sessions`, at the size of the pretrained model or another one."""
        values = settings_to_dict(self.scratch)
        values["data"] |= {"fraction": fraction, "fraction_seed": seed, "sessions": list(sessions), "exclude": []}
        if size is not None:
            values["model"] = settings_to_dict(size.of(self.scratch.model))
        return self._part("pretrain.py", values, fraction, seed, name)

    def _part(self, script: str, values: dict[str, Any], fraction: float, seed: int, name: str) -> Part:
        folder = self.folder(fraction, seed, name)
        values["run"] |= {"dir": str(folder), "seed": seed}
        file = folder.parent / f"{folder.name.replace('/', '_')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
        words = ["--config", str(file)]
        if script == "finetune.py":
            words += ["--model", self.finetune.model, "--data", *self.finetune.data.paths, "--out", str(folder)]
        # runs that go on side by side must not meet at one port
        port = FIRST_PORT + zlib.crc32(str(folder).encode()) % 250
        command = python(script, *words) if self.ranks == 1 else deepspeed(self.ranks, port, script, *words)
        title = f"{100 * fraction:g} % of the data, seed {seed}: {name}"
        return Part(title, command, folder / "export" / "config.json", self.out / "logs" / f"{file.stem}.txt")


def scratch_settings(
    finetune: FinetuneConfig, model: Mapping[str, Any], forecast: Mapping[str, Any], base: Mapping[str, Any]
) -> RunConfig:
    """Training from nothing that matches an adaptation: the model's architecture, the adaptation's budget.

    `model`, `forecast`: settings of the pretrained model and of its forecasts. `base`: settings of a run, whose
    learning rates, decay and schedules are kept. Steps, batches, precision, early stopping and the rest of how it is
    trained are those of the adaptation. Raises ValueError for settings that do not fit.
    """
    values = {key: value for key, value in base.items() if key in ("autoencoder", "dynamics", "spikes")}
    for stage in ("autoencoder", "dynamics"):
        section = getattr(finetune, stage)
        own = {key: value for key, value in dict(values.get(stage) or {}).items() if key != "init"}
        values[stage] = {"learning_rate": section.learning_rate, **own, "steps": section.steps}
    shared = ("run", "data", "train", "zero", "checkpoint", "wandb", "watch", "stop")
    values |= {key: settings_to_dict(finetune)[key] for key in shared}
    values["run"] = {**values["run"], "init": None}
    return parse_settings(
        RunConfig, {**values, "model": dict(model), "forecast": dict(forecast)}, "training from scratch"
    )
