"""Two sessions for the tests of the evaluation suite, of the units that `small_model` knows.

a_s1: 60 aligned trials whose stimulus, a covariate and a label, drives the rates. b_s1: two long stretches, no more.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.writer import write_dataset
from neurochorus.pretrain.config import ForecastSection

CONTEXT, HORIZON, TRIALS = 8, 6, 60
BINS = CONTEXT + HORIZON
FORECAST = ForecastSection(context_bins=CONTEXT, horizon_bins=HORIZON, samples=3)
SPLITS = ("train", "train", "valid", "test", "test")


def write_suite_corpus(path: Path, modality: str = "spikes", silent: str | None = None, bin_s: float = 0.01) -> Corpus:
    rng = np.random.default_rng(0)
    stimulus_N = rng.choice([-1.0, 1.0], TRIALS)
    shape_TC = (1 + 0.3 * np.sin(np.arange(BINS)[:, None] / 3)) * np.cos(np.arange(5))
    drive_NTC = stimulus_N[:, None, None] * shape_TC
    aligned = recording(rng, "a_s1", "a", modality, drive_NTC.reshape(-1, 5))
    covariates = {"stimulus": np.repeat(stimulus_N, BINS)[:, None].astype(np.float32)}
    segments = [
        Segment(
            i * BINS,
            (i + 1) * BINS,
            SPLITS[i % 5],
            {"side": "left" if stimulus_N[i] < 0 else "right", "start_s": i * BINS * 0.01},
        )
        for i in range(TRIALS)
    ]
    stretch = TRIALS // 6 * BINS
    drift_TC = np.cumsum(rng.normal(0, 0.2, size=(6 * stretch, 8)), axis=0).clip(-1, 1)
    endless = recording(rng, "b_s1", "b", modality, drift_TC)
    pieces = [Segment(i * stretch, (i + 1) * stretch, split) for i, split in enumerate(("train", "valid", "test") * 2)]
    made = [
        Recording(**aligned, covariates=covariates, segments=segments),  # type: ignore[arg-type]
        Recording(**endless, segments=pieces),  # type: ignore[arg-type]
    ]
    made = [replace(one, bin_s=bin_s) for one in made]
    for one in made:
        if one.session_id == silent:
            one.signal_TC[:] = 0
    write_dataset(made, path, name="suite", sample_bins=BINS)
    return Corpus(path)


def recording(
    rng: np.random.Generator, session_id: str, subject_id: str, modality: str, drive_TC: np.ndarray
) -> dict[str, object]:
    if modality == "spikes":
        signal_TC = rng.poisson(0.6 * np.exp(0.7 * drive_TC)).astype(np.uint8)
    else:
        signal_TC = (drive_TC + rng.normal(size=drive_TC.shape)).astype(np.float32)
    units = [Unit(f"u{number}", "") for number in range(drive_TC.shape[1])]
    facts = {"session_id": session_id, "subject_id": subject_id, "modality": modality, "bin_s": 0.01}
    return {**facts, "signal_TC": signal_TC, "units": units, "provenance": {}}
