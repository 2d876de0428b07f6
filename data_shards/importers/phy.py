"""Kilosort and phy folders: spike times in samples, the cluster of each spike, and the clusters' labels.

Only .npy, .tsv and .csv files are read, and of params.py the one number `sample_rate`, which is parsed and never run.
After curation clusters differ from templates, so `spike_clusters.npy` is used where it exists. Clusters that were
labelled noise are left out.
"""

import ast
from pathlib import Path

import numpy as np

from neurochorus.data_shards.importers.phy_labels import cluster_labels
from neurochorus.data_shards.importers.source import KeyInfo, Source

LONGEST_PARAMS = 100_000  # characters of params.py; ast takes memory by the length of what it parses
NOTES = {
    "spike_times": "in samples: set signal.time_scale to {key: seconds_per_sample}",
    "spike_unit": "the unit of each spike, from 0, in the order of cluster_id",
    "sample_rate": "per second, from params.py",
    "cluster_id": "one a unit, as phy shows it",
    "group": "the label given in curation; unsorted where there is none",
}


class PhySource(Source):
    """A folder that Kilosort or phy wrote, read at once. Keys: see NOTES, and every column of the clusters' tables."""

    def __init__(self, path: Path, keep_noise: bool = False):
        super().__init__(path)
        times, clusters = _column(path / "spike_times.npy"), self._clusters()
        if len(times) != len(clusters):
            raise ValueError(
                f"{path}: spike_times.npy has {len(times)} spikes but there are clusters for {len(clusters)}: "
                "the files are not of one sorting"
            )
        ids = np.unique(clusters)
        labels = cluster_labels(path, ids)
        kept = np.isin(clusters, ids)
        if not keep_noise:
            noise = labels["group"] == "noise"
            kept = ~np.isin(clusters, ids[noise])
            self._note_noise(noise, clusters, kept)
            ids, labels = ids[~noise], {name: values[~noise] for name, values in labels.items()}
        rate = sample_rate(path / "params.py")
        self._arrays = {
            **labels,
            **self._spikes(times[kept], np.searchsorted(ids, clusters[kept])),
            "cluster_id": ids,
            "sample_rate": np.array(rate),
            "seconds_per_sample": np.array(1 / rate),
        }

    def keys(self) -> list[str]:
        return list(self._arrays)

    def info(self, key: str) -> KeyInfo:
        values = self._read(self._existing(key))
        return KeyInfo(key, values.shape, values.dtype.name, NOTES.get(key, ""))

    def _read(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def _clusters(self) -> np.ndarray:
        path = self.path / "spike_clusters.npy"
        if not path.exists():
            path = self.path / "spike_templates.npy"
            self.notes.append("there is no spike_clusters.npy: units are Kilosort's templates, before any curation")
        return _column(path)

    def _note_noise(self, noise: np.ndarray, clusters: np.ndarray, kept: np.ndarray) -> None:
        if noise.any():
            self.notes.append(
                f"{int(noise.sum())} of {len(noise)} clusters are labelled noise and left out, with "
                f"{int((~kept).sum())} of {len(clusters)} spikes (units.where can name 'noise' to keep them)"
            )

    def _spikes(self, times: np.ndarray, units: np.ndarray) -> dict[str, np.ndarray]:
        backwards = int((np.diff(times) < 0).sum())
        if backwards:
            self.notes.append(f"spike_times.npy goes back {backwards} times: the spikes are sorted by time")
            order = np.argsort(times, kind="stable")
            times, units = times[order], units[order]
        return {"spike_times": times, "spike_unit": units}


def sample_rate(path: Path) -> float:
    """Return the samples per second that params.py names; it is parsed, never run. ValueError if it names none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > LONGEST_PARAMS:
            raise ValueError(f"{len(text)} characters are no list of settings")
        statements = ast.parse(text).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: cannot be read ({error}): phy's params.py says the sample_rate") from None
    for statement in statements:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "sample_rate" for target in statement.targets
        ):
            value = statement.value.value if isinstance(statement.value, ast.Constant) else None
            if isinstance(value, (int, float)) and np.isfinite(value) and value > 0:
                return float(value)
            raise ValueError(
                f"{path}: sample_rate is {ast.unparse(statement.value)!r}; expected a plain positive number, as the "
                "file is not run"
            )
    raise ValueError(f"{path}: names no sample_rate: add a line such as `sample_rate = 30000.0`")


def _column(path: Path) -> np.ndarray:
    """Return a .npy file of whole numbers, one a spike, as int64; MATLAB writes them with a second axis of 1."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: is missing: a folder of Kilosort or phy has it") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as an .npy file ({error}): is it whole?") from None
    whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and (values == np.floor(values)).all())
    if values.size != len(values.reshape(-1)) or values.ndim > 2 or 1 not in (values.ndim, *values.shape) or not whole:
        raise ValueError(f"{path}: is {values.dtype} of shape {values.shape}; expected a whole number for each spike")
    return values.reshape(-1).astype(np.int64)
