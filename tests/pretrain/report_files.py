"""Files with every part that a report can show, small and made up, some of it hostile or undefined."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = '<img src=x onerror="document.title=1">&amp;</script>'
SESSIONS = [HOSTILE, *(f"otter_{number}" for number in range(1, 20))]
LEADS = [1, 5, 10]
NAN = float("nan")


def row(value: float, undefined: int = 0) -> dict[str, Any]:
    """A row of a table that rises over the sessions around `value`; null in the last `undefined` of them."""
    values = [value + 0.01 * place for place in range(len(SESSIONS))]
    values = [*values[: len(values) - undefined], *[None] * undefined]
    known = [one for one in values if one is not None]
    sem = float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return {
        "mean": float(np.mean(known)) if known else None,
        "sem": sem,
        "sessions": dict(zip(SESSIONS, values)),
    }


def metrics() -> dict[str, Any]:
    """metrics.json with tables, horizons and comparisons."""
    rows = {"energy": row(0.3), "ridge": row(0.1), "train mean": row(-0.2)}
    leads: dict[str, Any] = {"mean": [0.3, 0.2, None], "sem": [0.01, 0.01, None]}
    empty = {"mean": [None] * 3, "sem": None, "sessions": {}}
    flat = {"mean": [0.05] * 3, "sem": [0.01] * 3, "sessions": {session: [0.05] * 3 for session in SESSIONS}}
    claim = {"table": "forecast", "better_row": "energy", "than_row": "ridge", "sessions": 20, "wins": 20}
    return {
        "model": "runs/energy/export", "head": "energy", "modality": "spikes", "data": ["data/demo"], "split": "test",
        "seed": 17, "samples": 32, "context_bins": 30, "horizon_bins": 10, "bin_s": 0.01,
        "forecast": {"metric": "bits_per_spike", "definition": "gain", "rows": rows},
        "reconstruction": {"metric": "bits_per_spike", "definition": "seen bins", "rows": {"autoencoder": row(0.8)}},
        "tables": [
            {"name": "decoding", "title": "Decoding of <speed>", "metric": "r2", "definition": "ridge",
             "better": "higher", "rows": {"latents": row(0.5, 3), "nothing": row(0.0, len(SESSIONS))}},
            {"name": "correlations", "title": "Generated correlations", "metric": "distance", "definition": "RMS",
             "better": "lower", "rows": {"energy": row(0.3), "noise floor": row(0.1)}},
        ],
        "horizons": {"metric": "bits_per_spike", "definition": "up to each lead", "leads_bins": LEADS,
                     "rows": {"energy": leads | {"sessions": {one: [0.4, 0.3, 0.2] for one in SESSIONS}},
                              "ridge": flat, "never defined": empty}},
        "comparisons": [
            claim | {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.0},
            claim | {"than_row": "train mean", "difference": None, "low": None, "high": None, "p": None},
        ],
        "sessions": {session: {"subject": "otter", "windows": 21, "units": 1234} for session in SESSIONS},
    }  # fmt: skip


def transfer() -> dict[str, Any]:
    """transfer.json of two arms, three fractions, two seeds; one seed undefined, one session missing."""
    texts, targets = ("0.1", "0.5", "1.0"), SESSIONS[1:4]
    arms: dict[str, Any] = {
        arm: {text: {one: [start + float(text), start + float(text) + 0.02] for one in targets} for text in texts}
        for arm, start in (("scratch", -0.1), ("rows", 0.1))
    }
    arms["rows"]["0.1"][targets[0]] = [None, 0.5]
    del arms["scratch"]["1.0"][targets[2]]
    return {
        "metric": "bits_per_spike", "definition": "forecast", "fractions": [0.1, 0.5, 1.0], "seeds": [0, 1],
        "arms": arms, "trials": {text: {one: round(100 * float(text)) for one in targets} for text in texts},
        "comparisons": [{"fraction": 0.1, "table": "", "better_row": "rows", "than_row": "scratch", "difference": 0.2,
                         "low": 0.1, "high": 0.3, "p": 0.004, "sessions": 3, "wins": 3, "subjects": 2,
                         "subjects_won": 2}],
        "baselines": {"ridge": {text: dict.fromkeys(targets, 0.1) for text in texts}},
    }  # fmt: skip


def trials(units: int = 5, count: int = 6, bins: int = 20) -> dict[str, np.ndarray]:
    """Arrays of launch/generate.py; one unit is silent, one has a hostile name."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (12, count, bins, units))
    counts[..., 0] = 0
    held_out = rng.poisson(1.0, (count, bins, units))
    held_out[..., 0] = 0
    arrays = {
        "latents": rng.standard_normal((12, count, bins, 4)), "rates": np.ones((12, count, bins, units)),
        "counts": counts, "context": rng.poisson(1.0, (count, 8, units)), "held_out": held_out,
        "held_out_latents": rng.standard_normal((count, bins, 4)),
        "context_latents": rng.standard_normal((count, 8, 4)),
        "unit_ids": np.array([HOSTILE, *(f"u{unit}" for unit in range(1, units))]), "session_id": HOSTILE,
        "subject_id": "otter", "head": "energy", "modality": "spikes", "bin_s": 0.01, "seed": 5, "temperature": 1.0,
    }  # fmt: skip
    return {name: np.asarray(value) for name, value in arrays.items()}


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def write_files(folder: Path) -> list[str]:
    """Write all of them; returns the arguments of launch/report.py that name them."""
    (folder / "metrics.json").write_text(json.dumps(metrics()))
    (folder / "transfer.json").write_text(json.dumps(transfer()))
    write_arrays(folder / "generated.npz", trials())
    sessions = [trials(), trials() | {"session_id": np.array("otter_1")}]
    examples = {f"{place}/{name}": value for place, one in enumerate(sessions) for name, value in one.items()}
    write_arrays(folder / "examples.npz", examples)
    lines = [
        {"stage": "dynamics", "step": step, "loss": NAN if step == 30 else 1 / step, "loss_energy": 0.5 / step,
         "validation_loss": 2 / step, "lr": 1e-3, "grad_norm": NAN, "bins_per_s": 1e4}
        for step in (1, 10, 20, 30)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    arguments = ["--metrics", folder / "metrics.json", "--transfer", folder / "transfer.json"]
    arguments += ["--generated", folder / "generated.npz", "--examples", folder / "examples.npz", "--runs", folder]
    return [*map(str, arguments), "--out", str(folder / "report.html")]
