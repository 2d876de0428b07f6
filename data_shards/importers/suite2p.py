"""suite2p folders: fluorescence of regions of interest (ROIs), of one plane or several imaged together.

F.npy, Fneu.npy, spks.npy and iscell.npy are read, (ROIs, frames) each; ops.npy and stat.npy are pickled and never
opened, so the frame rate comes from the recipe. Keys give arrays as (frames, ROIs), the planes' ROIs side by side.
A key such as `F - 0.7 * Fneu` takes the surrounding neuropil off with that coefficient.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.source import ArrayView, KeyInfo, Source

TRACES = {"F": "fluorescence", "Fneu": "fluorescence of the neuropil around", "spks": "deconvolved activity"}
CORRECTED = re.compile(r"\s*F\s*-\s*(\d*\.?\d+)\s*\*?\s*Fneu\s*")
EXAMPLE = "F - 0.7 * Fneu"
RATE_ADVICE = (
    "the frame rate lies in ops.npy, which is pickled and never read: write it in the recipe "
    "(bin_s is 1 / frames per second of a plane; or set signal.sampling.rate)"
)


class Suite2pSource(Source):
    """A folder that suite2p wrote: that of a plane, or one that holds plane0, plane1, ..."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._planes = _plane_folders(path)
        present = [name for name in TRACES if all((plane / f"{name}.npy").is_file() for plane in self._planes)]
        self._traces = {name: [_mapped(plane / f"{name}.npy", ndim=2) for plane in self._planes] for name in present}
        rois = [len(trace) for trace in self._traces["F"]]
        self._frames = self._shortest()
        for name, traces in self._traces.items():
            if [len(trace) for trace in traces] != rois:
                raise ValueError(f"{path}: {name}.npy has {[len(t) for t in traces]} ROIs a plane but F.npy {rois}")
        self._columns = self._describe(rois)

    def keys(self) -> list[str]:
        corrected = [EXAMPLE] if "Fneu" in self._traces else []
        return [*self._traces, *corrected, *self._columns]

    def has(self, key: str) -> bool:
        return key in self.keys() or ("Fneu" in self._traces and CORRECTED.fullmatch(key) is not None)

    def info(self, key: str) -> KeyInfo:
        self._existing(key)
        if key in self._columns:
            return KeyInfo(key, self._columns[key].shape, self._columns[key].dtype.name)
        note = TRACES.get(key, "neuropil taken off; any coefficient may stand there")
        return KeyInfo(key, self.view(key).shape, "float32", f"{note}; {RATE_ADVICE}")

    def view(self, key: str, ndim: int | tuple[int, ...] | None = None) -> ArrayView:
        self._existing(key)
        if key in self._columns:
            return self.array(key, ndim)
        found = CORRECTED.fullmatch(key)
        view = Frames(
            self._traces["F" if found else key],
            self._traces["Fneu"] if found else None,
            float(found.group(1)) if found else 0.0,
            self._frames,
        )
        self._check_dimensions(key, view.shape, ndim)
        return view

    def _read(self, key: str) -> np.ndarray:
        return self._columns[key] if key in self._columns else self.view(key)[:]

    def _existing(self, key: str) -> str:
        if key in ("fs", "ops", "ops.npy", "frame_rate", "rate"):
            raise ValueError(f"{self.path}: has no array {key!r}: {RATE_ADVICE}")
        return super()._existing(key)

    def _shortest(self) -> int:
        """Return how many frames all planes have: one may lack the last, when the recording ended between planes."""
        frames = [trace.shape[1] for traces in self._traces.values() for trace in traces]
        if max(frames) - min(frames) > 1:
            raise ValueError(
                f"{self.path}: the arrays have {min(frames)} to {max(frames)} frames; they are not of one recording"
            )
        if max(frames) != min(frames):
            self.notes.append(f"planes have {min(frames)} or {max(frames)} frames: the last one is left out")
        if len(self._planes) > 1:
            self.notes.append(f"{len(self._planes)} planes are taken as imaged at the same time, frame by frame")
        return min(frames)

    def _describe(self, rois: list[int]) -> dict[str, np.ndarray]:
        numbers = [_plane_number(plane, place) for place, plane in enumerate(self._planes)]
        columns = {
            "roi_id": np.array(
                [f"plane{n}_{roi}" for n, count in zip(numbers, rois) for roi in range(count)], dtype=str
            ),
            "plane": np.repeat(numbers, rois),
        }
        if not all((plane / "iscell.npy").is_file() for plane in self._planes):
            self.notes.append("there is no iscell.npy: which ROIs are cells is not known")
            return columns
        cells = [_mapped(plane / "iscell.npy", ndim=2) for plane in self._planes]
        if [cell.shape for cell in cells] != [(count, 2) for count in rois]:
            raise ValueError(f"{self.path}: iscell.npy has shapes {[c.shape for c in cells]} for {rois} ROIs a plane")
        joined = np.concatenate(cells)
        return columns | {"iscell": joined[:, 0].astype(np.int64), "iscell_probability": joined[:, 1]}


@dataclass(frozen=True)
class Frames:
    """The traces of all planes by frame, (frames, ROIs) float32; only the frames asked for are read."""

    traces: list[np.ndarray]
    neuropil: list[np.ndarray] | None
    coefficient: float
    frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames, sum(len(trace) for trace in self.traces)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows, *rois = rows if isinstance(rows, tuple) else (rows,)
        values = self._joined(self.traces, rows)
        if self.neuropil is not None:
            values = values - np.float32(self.coefficient) * self._joined(self.neuropil, rows)
        return values[..., *rois]

    def _joined(self, traces: list[np.ndarray], rows: Any) -> np.ndarray:
        pieces = [np.asarray(trace[:, : self.frames][:, rows], dtype=np.float32).T for trace in traces]
        return np.concatenate(pieces, axis=-1)


def _plane_folders(path: Path) -> list[Path]:
    if (path / "F.npy").is_file():
        return [path]
    inside = path / "suite2p" if (path / "suite2p").is_dir() else path
    found = [folder for folder in inside.glob("plane*") if (folder / "F.npy").is_file()]
    if not found:
        raise ValueError(f"{path}: holds neither F.npy nor plane0/F.npy: is it a folder that suite2p wrote?")
    return sorted(found, key=lambda folder: _plane_number(folder, 0))


def _plane_number(folder: Path, default: int) -> int:
    digits = folder.name.removeprefix("plane")
    return int(digits) if digits.isdecimal() else default


def _mapped(path: Path, ndim: int) -> np.ndarray:
    """Return a .npy file of numbers, left on disk."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as an .npy file of numbers ({error}): is it whole?") from None
    if values.ndim != ndim or values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: is {values.dtype} of shape {values.shape}; expected numbers with {ndim} axes")
    return values
