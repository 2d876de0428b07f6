"""A model as a directory: model.safetensors, config.json, sessions.json, README.md (the model card).

Pretraining adds reference.safetensors, what new sessions are aligned to; a model works without it.

Nothing in it is a pickle. It is written beside its place and renamed, so a crash leaves the old model or
the new one, never half of one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import parse_settings, settings_to_dict
from neurochorus.models.card import model_card
from neurochorus.models.model import ModelConfig, NeuralModel
from neurochorus.models.reference import LatentReference

FORMAT_VERSION = 1
SETTINGS_KEY = "model_settings_sha256"
WEIGHTS_FILE, CONFIG_FILE, SESSIONS_FILE, CARD_FILE = "model.safetensors", "config.json", "sessions.json", "README.md"


def save(model: NeuralModel, path: str | Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write the model directory; `training` (plain values: data, steps, seed, ...) goes into config.json and the card.

    A model directory that is already there is replaced as a whole. Raises ValueError when `path` holds something else.
    """
    path = Path(path)
    if path.exists() and not (path / CONFIG_FILE).is_file() and any(path.iterdir() if path.is_dir() else [path]):
        raise ValueError(f"{path}: exists and is not a model directory; give another path")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(model, partial, dict(training or {}))
        _replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def load(path: str | Path, device: torch.device | str = "cpu") -> NeuralModel:
    """Read a model directory, in evaluation mode; outputs are bit-identical to those of the saved model.

    `device`: cpu, cuda, cuda:1, or auto: the accelerator when there is one, else the CPU. Raises ValueError naming the
    file when it is missing, cut, edited or of another format version, and for a `device` that is not there.
    """
    path = Path(path)
    config = _read_json(path / CONFIG_FILE)
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path / CONFIG_FILE}: format version {version}; this neurochorus reads {FORMAT_VERSION}")
    sessions_text = _read_text(path / SESSIONS_FILE)
    if hashlib.sha256(sessions_text.encode()).hexdigest() != config.get("sessions_sha256"):
        raise ValueError(
            f"{path / SESSIONS_FILE}: is not the file this model was saved with (its checksum differs from the one in "
            f"{CONFIG_FILE}); its rows would be given to the wrong units: take the file from the export again"
        )
    model_config = parse_settings(ModelConfig, config.get("model"), f"{path / CONFIG_FILE}: model")
    model = NeuralModel(model_config, UnitRegistry.from_json(json.loads(sessions_text)))
    _load_weights(model, path / WEIGHTS_FILE, config["model"])
    own = model_config.autoencoder
    model.reference = LatentReference.load(path, own.latents, own.encoder.width)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises depends on the device and on its build
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}): try cpu"
        ) from None


def read_training(path: str | Path) -> dict[str, Any]:
    """The `training` values a model directory was saved with."""
    file = Path(path) / CONFIG_FILE
    training = _read_json(file).get("training", {})
    if not isinstance(training, dict):
        raise ValueError(f"{file}: training is {training!r}; expected an object: take the file from the export again")
    return training


def _write(model: NeuralModel, folder: Path, training: dict[str, Any]) -> None:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    settings = settings_to_dict(model.config)
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt", SETTINGS_KEY: _settings_hash(settings)})
    if model.reference is not None:
        model.reference.save(folder)
    sessions_text = json.dumps(model.registry.to_json(), indent=1)
    (folder / SESSIONS_FILE).write_text(sessions_text)
    config = {
        "format_version": FORMAT_VERSION,
        "modality": model.modality,
        "model": settings,
        "sessions_sha256": hashlib.sha256(sessions_text.encode()).hexdigest(),
        "training": training,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2))
    (folder / CARD_FILE).write_text(model_card(model, training))
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _replace(new: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def _settings_hash(settings: dict[str, Any]) -> str:
    """Of the settings as they stand in config.json: one that a later version adds does not change it."""
    in_file = json.loads(json.dumps(settings))
    return hashlib.sha256(json.dumps(in_file, sort_keys=True).encode()).hexdigest()


def _load_weights(model: NeuralModel, file: Path, settings: dict[str, Any]) -> None:
    if not file.is_file():
        raise ValueError(f"{file}: missing; the directory is not a complete model export")
    try:
        weights = load_file(file)
        with safe_open(file, framework="pt") as opened:
            stated = (opened.metadata() or {}).get(SETTINGS_KEY)
    except SafetensorError as error:
        raise ValueError(f"{file}: not a readable safetensors file ({error}); copy or export it again") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{file}: {len(differing)} tensors do not fit {CONFIG_FILE} and {SESSIONS_FILE}, the first is '{name}': "
            f"expected shape {wanted.get(name)}, found {found.get(name)}; the files are of different models"
        )
    if stated is not None and stated != _settings_hash(settings):
        # some settings (heads, history_scales, target) give other outputs from tensors of the same shapes
        raise ValueError(
            f"{file.parent / CONFIG_FILE}: 'model' is not what {WEIGHTS_FILE} was trained with: the file was edited; "
            "take it from the export again"
        )
    model.load_state_dict(weights)


def _read_text(file: Path) -> str:
    if not file.is_file():
        raise ValueError(
            f"{file}: missing; expected a model directory with {WEIGHTS_FILE}, {CONFIG_FILE}, {SESSIONS_FILE}"
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file ({error}); take the file from the export again") from None


def _read_json(file: Path) -> dict[str, Any]:
    text = _read_text(file)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); export the model again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(values).__name__}")
    return values
