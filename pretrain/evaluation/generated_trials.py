"""What launch/generate.py wrote for one session: sampled continuations, their contexts, and what was recorded instead.

Shapes: S samples, B trials (contexts), T context bins, H generated bins, C units, L latent channels.
"""

import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = {"latents": "SBHL", "rates": "SBHC", "counts": "SBHC", "context": "BTC"}
OPTIONAL_ARRAYS = {"held_out": "BHC", "held_out_latents": "BHL", "context_latents": "BTL"}
SCALARS = ("session_id", "subject_id", "head", "modality", "bin_s", "seed", "temperature")
MAY_BE_EMPTY = "T"


@dataclass(frozen=True)
class GeneratedTrials:
    latents_SBHL: np.ndarray
    counts_SBHC: np.ndarray
    "Sampled spikes per bin, or values of a continuous signal."
    context_BTC: np.ndarray
    "What the model saw; T may be 0."
    held_out_BHC: np.ndarray | None
    "What was recorded after the context, of which the model saw nothing."
    held_out_latents_BHL: np.ndarray | None
    "Whitened latents that the encoder gives for the recorded bins."
    session_id: str
    subject_id: str
    head: str
    modality: str
    bin_s: float
    seed: int
    temperature: float
    rates_SBHC: np.ndarray | None = None
    "Expected counts per bin of each sample, or values of a continuous signal."
    context_latents_BTL: np.ndarray | None = None
    "Whitened latents that the encoder gives for the context alone."
    unit_ids: tuple[str, ...] = ()
    "Empty where the file does not name its units."

    @property
    def samples(self) -> int:
        return self.counts_SBHC.shape[0]

    @property
    def trials(self) -> int:
        return self.counts_SBHC.shape[1]

    @property
    def horizon_bins(self) -> int:
        return self.counts_SBHC.shape[2]

    @property
    def units(self) -> int:
        return self.counts_SBHC.shape[3]

    @property
    def context_bins(self) -> int:
        return self.context_BTC.shape[1]

    @property
    def spikes(self) -> bool:
        return self.modality == "spikes"


def read_generated_trials(path: Path) -> GeneratedTrials:
    """Read the npz of launch/generate.py.

    Raises ValueError naming the file and the key for a file that is no npz, a missing array, shapes that do not fit
    together, values that are not finite, and an unknown modality; OSError when it cannot be read.
    """
    return trials_of(path, read_arrays(path))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz. Raises ValueError for what is no npz of plain arrays; OSError when it cannot be read."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not an npz of plain arrays ({error}): make it with launch/generate.py"
            ) from error


def trials_of(path: Path, arrays: dict[str, np.ndarray], may_lack: Collection[str] = ()) -> GeneratedTrials:
    """Arrays of a file, checked as read_generated_trials says; those in `may_lack` may be missing."""
    missing = [name for name in (*ARRAYS, *SCALARS) if name not in arrays and name not in may_lack]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: make it with launch/generate.py")
    _check_shapes(path, arrays)
    scalars: dict[str, Any] = {name: arrays[name].item() for name in SCALARS}
    if scalars["modality"] not in ("spikes", "continuous"):
        raise ValueError(f"{path}: modality is {scalars['modality']!r}, expected spikes or continuous")
    if not scalars["bin_s"] > 0:
        raise ValueError(f"{path}: bin_s is {scalars['bin_s']}, expected the width of a bin in seconds, above 0")
    units = arrays["counts"].shape[-1]
    names = arrays.get("unit_ids", np.zeros(0, dtype=str))
    if names.shape not in ((0,), (units,)):
        raise ValueError(f"{path}: unit_ids has shape {names.shape}, expected one for each of the {units} units")
    return GeneratedTrials(
        latents_SBHL=arrays["latents"],
        counts_SBHC=arrays["counts"],
        context_BTC=arrays["context"],
        held_out_BHC=arrays.get("held_out"),
        held_out_latents_BHL=arrays.get("held_out_latents"),
        rates_SBHC=arrays.get("rates"),
        context_latents_BTL=arrays.get("context_latents"),
        unit_ids=tuple(map(str, names)),
        **scalars,
    )


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Hold every axis letter to one size over all arrays."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, axes in (ARRAYS | OPTIONAL_ARRAYS).items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.ndim != len(axes):
            raise ValueError(f"{path}: {name} has shape {array.shape}, expected {len(axes)} axes ({', '.join(axes)})")
        for axis, size in zip(axes, array.shape):
            known, source = sizes.setdefault(axis, (size, name))
            if size != known:
                raise ValueError(f"{path}: axis {axis} is {size} in {name} but {known} in {source}: expected the same")
            if size == 0 and axis not in MAY_BE_EMPTY:
                raise ValueError(f"{path}: {name} has shape {array.shape}: axis {axis} is empty")
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds NaN or infinite values: expected finite ones")
    for name in SCALARS:
        if arrays[name].size != 1:
            raise ValueError(f"{path}: {name} has shape {arrays[name].shape}, expected one value")
