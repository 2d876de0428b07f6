"""The trainings of a comparison: adaptations of a pretrained model, and the same architecture from nothing.

Every training of a (fraction, seed) sees the same samples in batches of the same size, and stops early by the same
rule. Adaptations have their own steps, trainings from nothing those of the run that the pretrained model came from.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from neurochorus.data_shards.settings import parse_settings, settings_to_dict
from neurochorus.launch.commands import Part, next_free_port, on_ranks
from neurochorus.models import TransformerConfig
from neurochorus.models.model import ModelConfig
from neurochorus.pretrain.config import RunConfig, TrainSection
from neurochorus.pretrain.evaluation.transfer import SCRATCH, fraction_text
from neurochorus.pretrain.evaluation.transfer_measures import Measure
from neurochorus.pretrain.finetuning import FinetuneConfig
from neurochorus.pretrain.fingerprint import FREE_OF_TRAIN
from neurochorus.pretrain.pretraining import STAGES

JOINTLY, TUNED, PER_SESSION = f"{SCRATCH}, jointly", f"{SCRATCH}, jointly, tuned", f"{SCRATCH}, per session"
FIRST_PORT = 29700
OF_THE_BASE_RUN = ("base_width", "ema", "head_learning_rate_factor")
"Settings of `train` that belong to the learning rates of a run."
MOVE_NO_RESULT = {
    "": {"run", "model", "wandb", "watch", "checkpoint"},
    "data": {"path", "workers", "prefetch"},
    "train": FREE_OF_TRAIN,
}
"""Settings that a comparison may be continued without, by section. The model and the data are known by their contents,
not by their paths."""


@dataclass(frozen=True)
class Size:
    """A model and a training for little data: width and blocks of encoder and dynamics, latent channels, steps."""

    width: int
    blocks: int
    latents: int
    steps: float = 1.0
    """Share of the steps of the base run. Its learning rates fall over these alone: where little data are over-fitted
    within a few hundred steps, a schedule of thousands never leaves its warm-up."""

    @classmethod
    def parse(cls, text: str) -> "Size":
        """WIDTH:BLOCKS:LATENTS or WIDTH:BLOCKS:LATENTS:SHARE. Raises ValueError for anything else."""
        whole, share = text.split(":")[:3], text.split(":")[3:] or ["1"]
        found = re.fullmatch(r"\d*\.?\d+", share[0]) if len(share) == 1 else None
        if len(whole) != 3 or not all(part.isdecimal() and int(part) for part in whole) or found is None:
            raise ValueError(
                f"--tuned {text!r}: expected WIDTH:BLOCKS:LATENTS or WIDTH:BLOCKS:LATENTS:SHARE-OF-STEPS, such as "
                "48:1:8:0.125"
            )
        if not 0 < float(share[0]) <= 1:
            raise ValueError(f"--tuned {text!r}: {share[0]} of the steps; expected a share above 0, at most 1")
        width, blocks, latents = map(int, whole)
        return cls(width, blocks, latents, float(share[0]))

    @property
    def text(self) -> str:
        whole = f"{self.width}:{self.blocks}:{self.latents}"
        return whole if self.steps == 1 else f"{whole}:{self.steps:g}"

    def shortened(self, stages: Mapping[str, Any]) -> dict[str, Any]:
        """Sections of stages with their share of the steps."""
        return {
            name: section and {**section, "steps": max(1, round(self.steps * section["steps"]))}
            for name, section in stages.items()
        }

    def of(self, model: ModelConfig) -> ModelConfig:
        """The model's settings at this size. Raises ValueError for a width that no number of heads divides."""

        def smaller(transformer: TransformerConfig) -> TransformerConfig:
            heads = next((n for n in range(transformer.heads, 0, -1) if self.width % (2 * n) == 0), None)
            if heads is None:
                raise ValueError(f"--tuned {self.text}: a width of {self.width}; expected an even number")
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
    """The model's own size and half the width with one block and half the latents, in an eighth of the steps; the
    latter in all of them.
    """
    own, latents = model.autoencoder.encoder, model.autoencoder.latents
    half, fewer = max(2, own.width // 4 * 2), max(1, latents // 2)
    sizes = [Size(own.width, own.blocks, latents, 0.125), Size(half, 1, fewer, 0.125), Size(half, 1, fewer)]
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
    measure: Measure
    weights: str = ""
    """Hash of the pretrained model's weights."""
    data: str = ""
    """Hash of the data sets."""
    covariates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Session -> covariates that it has."""
    _ports: dict[Path, int] = field(default_factory=dict, compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        """All that the results depend on, but which arms, fractions and seeds there are: those may be added."""
        adaptation = that_move_results(settings_to_dict(self.finetune))
        del adaptation["adapt"]
        scratch = settings_to_dict(self.scratch)
        return {
            "finetune": adaptation,
            "scratch": {**that_move_results(scratch), "model": scratch["model"]},
            "sessions": list(self.sessions),
            "ranks": self.ranks,
            "weights of the model": self.weights,
            "contents of the data": self.data,
        }

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
        """Training from nothing on `sessions`, at the size of the pretrained model or another one.

        A covariate that none of them has is one that the model does not read: it is missing to an adapted model too.
        """
        values = settings_to_dict(self.scratch)
        values["data"] |= {"fraction": fraction, "fraction_seed": seed, "sessions": list(sessions), "exclude": []}
        if size is not None:
            values["model"] = settings_to_dict(size.of(self.scratch.model))
            values |= size.shortened({stage: values[stage] for stage in STAGES if stage in values})
        had = frozenset[str]().union(*(self.covariates.get(session, frozenset()) for session in sessions))
        read = values["model"]["dynamics"]["covariates"]
        values["model"]["dynamics"]["covariates"] = {name: one for name, one in read.items() if name in had}
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
        command = on_ranks(self.ranks, self._port(folder), script, *words)
        title = f"{100 * fraction:g} % of the data, seed {seed}: {name}"
        return Part(title, command, folder / "export" / "config.json", self.out / "logs" / f"{file.stem}.txt")

    def _port(self, folder: Path) -> int:
        """Where the ranks of a training meet: each has a port of its own, the next one that is free."""
        if folder not in self._ports:
            self._ports[folder] = next_free_port(1 + max(self._ports.values(), default=FIRST_PORT - 1))
        return self._ports[folder]


def that_move_results(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those of MOVE_NO_RESULT."""
    kept = {name: value for name, value in settings.items() if name not in MOVE_NO_RESULT[""]}
    for section in ("data", "train"):
        own = kept[section]
        kept[section] = {name: own[name] for name in own if name not in MOVE_NO_RESULT[section]}
    return kept


def scratch_settings(
    finetune: FinetuneConfig,
    model: Mapping[str, Any],
    forecast: Mapping[str, Any],
    base: Mapping[str, Any],
    source: str = "the base run",
) -> RunConfig:
    """Training from nothing as the pretrained model was trained, on the data of an adaptation.

    `model`, `forecast`: settings of the pretrained model and of its forecasts. `base`: settings of a run, read from
    `source`, whose stages are kept (steps, learning rates, decay and schedules), and of `train` what belongs to them:
    OF_THE_BASE_RUN. Batches, precision, early stopping and the rest of how it is trained are those of the adaptation.
    Raises ValueError for settings that do not fit, and for a base run that did not train a stage from nothing.
    """
    if (base.get("run") or {}).get("init"):
        raise ValueError(
            f"{source}: run.init: it went on from weights of another run, so its steps do not tell how to train from "
            "nothing: give with --scratch-config the config.yaml of a run that does"
        )
    values = {key: value for key, value in base.items() if key in (*STAGES, "spikes") and value is not None}
    for stage in STAGES:
        own = values.get(stage)
        if isinstance(own, Mapping):
            values[stage] = own = {key: value for key, value in own.items() if key != "init"}
        if stage != "joint" and not (own and own.get("steps")):
            raise ValueError(
                f"{source}: has no {stage}.steps, which training from scratch takes: give with --scratch-config the "
                "config.yaml of a run that trained this stage"
            )
    shared = ("run", "data", "train", "zero", "checkpoint", "wandb", "watch", "stop")
    values |= {key: settings_to_dict(finetune)[key] for key in shared}
    defaults, found = settings_to_dict(TrainSection()), base.get("train") or {}
    values["train"] = {**values["train"], **{name: found.get(name, defaults[name]) for name in OF_THE_BASE_RUN}}
    values["run"] = {**values["run"], "init": None}
    return parse_settings(
        RunConfig,
        {**values, "model": dict(model), "forecast": dict(forecast)},
        f"training from scratch, after {source}",
    )
