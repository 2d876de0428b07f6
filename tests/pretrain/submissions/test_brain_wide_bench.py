"""Prediction files of BrainWideBench's task suite 2: made from a recording, scored by its formulas, checked."""

import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neurochorus.launch.submit import main
from neurochorus.models import NeuralModel, save
from neurochorus.pretrain.submissions.brain_wide_bench import (
    Predictions,
    content_problems,
    decoded_ids,
    encoded_ids,
    submission_problems,
    write_predictions,
)
from neurochorus.pretrain.submissions.brain_wide_windows import predict, read_recording
from tests.pretrain.submissions.small_models import model_of

EID = "0802ced5-33a3-405e-8336-b65ebc5cb07c"
UNITS = [f"probe00/{number}" for number in range(10)]
HELD_OUT = np.arange(10) == 3


def write_recording(path: Path, filtering: str = "selected_units") -> None:
    """A recording as the benchmark's pipeline writes it (temporaldata `Data.to_hdf5`), as far as it is read."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 12, 1500))
    with h5py.File(path, "w") as file:
        file.attrs["absolute_start"] = 0.0
        file.create_group("session").attrs["id"] = EID
        file.create_group("brainset").attrs.update({"unit_filtering": filtering, "derived_version": "0.1.0"})
        file["spikes/timestamps"], file["spikes/unit_index"] = times, rng.integers(0, 10, 1500)
        file["units/id"] = np.array(UNITS, dtype="S")
        file["units/ts2_co_smoothing_is_held_out_test"] = HELD_OUT
        domain = "task_aligned_intervals/domain"
        file[f"{domain}/start"], file[f"{domain}/end"] = np.array([1.0, 4.0, 9.3]), np.array([3.0, 8.11, 11.0])
        file["ts2_test_domain/start"], file["ts2_test_domain/end"] = np.array([5.0]), np.array([12.0])


@pytest.fixture(scope="module")
def model() -> NeuralModel:
    return model_of(EID, 10, 0.02, [name.replace("/", "_") for name in UNITS])


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of both tasks with three seeds, made by the command."""
    folder = tmp_path_factory.mktemp("bench")
    write_recording(folder / "recording.h5")
    save(model, folder / "export")
    for task in ("co_smoothing", "forecasting"):
        for seed in ("43", "44", "45"):
            arguments = ["--model", str(folder / "export"), "--recordings", str(folder / "recording.h5")]
            arguments += ["--task", task, "--label", "ours", "--seed", seed, "--samples", "2"]
            assert main(["brain-wide-bench", *arguments, "--out", str(folder / "predictions")]) == 0
    return folder


def scored(predictions: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """ibl_bwb_eval `metrics/bps.py` and `metrics/poisson_d2.py`, written out: bits per spike and Poisson D2."""
    log_rates, counts = (values.reshape(-1, values.shape[-1]).double() for values in (predictions, targets))
    total, mean = counts.sum(0), counts.mean(0)
    fitted = (log_rates.exp() - log_rates * counts).sum(0)
    null = total * (1 - mean.log())
    best = total - torch.xlogy(counts, counts).sum(0)
    bits = (null - fitted).sum() / (total.sum() * np.log(2))
    return float(bits), float((1 - (fitted - best) / (null - best)).mean())


@pytest.mark.parametrize(("task", "bins", "units"), [("co_smoothing", 50, [3]), ("forecasting", 5, list(range(10)))])
def test_predictions_of_every_test_window_are_scored_by_the_benchmarks_formulas(
    folder: Path, task: str, bins: int, units: list[int]
) -> None:
    file = folder / "predictions" / "ours" / f"ts2-{task}" / EID / "seed_43.safetensors"
    found = load_file(file)
    recording = read_recording(folder / "recording.h5")
    # 5 to 8.11 s: 106 windows on the grid and one that ends with it; 9.3 to 11 s: 36 on the grid
    starts = found["window_timestamps"].numpy()
    assert starts.dtype == np.float64
    assert len(starts) == len(np.unique(starts)) == 106 + 1 + 36
    assert starts[0] == 5.0
    assert starts[106] == 8.11 - 1.0
    assert np.all((starts >= 5) & (starts + 1 <= 11))
    assert found["predictions"].shape == (len(starts), bins, len(units))
    assert found["predictions"].dtype == torch.float16
    assert decoded_ids(found["unit_ids"]) == [f"{EID}/{UNITS[number]}" for number in units]
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert {key: metadata[key] for key in ("label", "task", "seed", "recording_id", "unit_filtering")} == {
        "label": "ours", "task": f"ts2-{task}", "seed": "43", "recording_id": EID, "unit_filtering": "selected_units"
    }  # fmt: skip
    targets = torch.from_numpy(recording.counts(starts, 50)[:, -bins:][..., units].astype(np.float32)).contiguous()
    bits, d2 = scored(found["predictions"], targets)
    assert -5 < bits < 0.1  # untrained
    assert np.isfinite(d2)
    if importlib.util.find_spec("ibl_bwb_eval") is not None:
        scoring = importlib.import_module("ibl_bwb_eval.scoring.ts2")
        truth = folder / f"truth-{task}.safetensors"
        save_file({"targets": targets, "window_timestamps": found["window_timestamps"]}, truth)
        official = scoring.score_file(file, truth)
        assert official["bps"] == pytest.approx(bits, abs=1e-4)
        assert official["poisson_d2"] == pytest.approx(d2, abs=1e-4)


def test_counts_of_a_window_are_those_of_its_spikes(folder: Path) -> None:
    recording = read_recording(folder / "recording.h5")
    counts_NTC = recording.counts(np.array([5.013, 7.11]), 50)
    for counts_TC, start in zip(counts_NTC, (5.013, 7.11), strict=True):
        edges = start + 0.02 * np.arange(51)
        for unit in range(10):
            expected = np.histogram(recording.times[recording.units == unit], edges)[0]
            assert np.array_equal(counts_TC[:, unit], expected)


def test_scored_bins_and_held_out_units_are_not_read(folder: Path, model) -> None:
    recording = read_recording(folder / "recording.h5")
    starts = recording.window_starts()
    hidden = {  # the same recording with other spikes where nothing may be read
        "co_smoothing": np.array(recording.units) == 3,
        "forecasting": recording.times >= starts[-1] + 0.9,
    }
    for task, mask in hidden.items():
        changed = type(recording)(
            **{**vars(recording), "times": recording.times[~mask], "units": recording.units[~mask]}
        )
        made = [
            predict(model, one, task, session_id=EID, samples=2, seed=0).log_rates_NHC  # type: ignore[arg-type]
            for one in (recording, changed)
        ]
        assert np.array_equal(made[0][-1], made[1][-1])


def test_a_longer_context_changes_predictions_and_not_the_windows(folder: Path, model) -> None:
    recording = read_recording(folder / "recording.h5")
    short, long = (
        predict(model, recording, "forecasting", session_id=EID, samples=2, seed=0, context_s=seconds)
        for seconds in (1.0, 3.0)
    )
    assert np.array_equal(short.window_starts_N, long.window_starts_N)
    assert not np.array_equal(short.log_rates_NHC, long.log_rates_NHC)
    with pytest.raises(ValueError, match="context of 30 s"):
        predict(model, recording, "forecasting", session_id=EID, samples=2, seed=0, context_s=30.0)


def test_a_whole_submission_is_checked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder / "predictions" / "ours"
    assert submission_problems(root, [EID]) == []
    assert main(["check", str(root), "--recording-ids", EID, "other"]) == 1
    assert "ts2-forecasting: recording other is missing (E104)" in capsys.readouterr().out
    one = root / "ts2-forecasting" / EID / "seed_44.safetensors"
    held = one.read_bytes()
    try:
        one.unlink()
        assert [problem[-6:] for problem in submission_problems(root)] == ["(E101)"]
        one.with_name("seed_47.safetensors").write_bytes(held)
        assert [problem[-6:] for problem in submission_problems(root)] == ["(E013)", "(E101)"]
        one.with_name("seed_47.safetensors").unlink()
        (root / "notes.md").write_text("hello")
        assert "ours/notes.md: not a prediction file (E014)" in submission_problems(root)
    finally:
        (root / "notes.md").unlink(missing_ok=True)
        one.write_bytes(held)
    assert "no seed_N" in submission_problems(tmp_path)[0]


def good() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors = {
        "predictions": torch.zeros(3, 5, 2, dtype=torch.float16),
        "window_timestamps": torch.arange(3, dtype=torch.float64),
        "unit_ids": encoded_ids(["s/a", "s/bb"]),
    }
    metadata = {"label": "L", "task": "ts2-forecasting", "seed": "1", "recording_id": "r"}
    return tensors, {**metadata, "unit_filtering": "selected_units", "dataset_version": "0.1.0"}


@pytest.mark.parametrize(
    ("tensor", "text", "said"),
    [
        ({"predictions": torch.zeros(3, 2)}, {}, "E007"),
        ({"predictions": torch.zeros(3, 50, 2)}, {}, "expected (windows, 5 bins, units) for forecasting (E007)"),
        ({"predictions": torch.full((3, 5, 2), float("nan"))}, {}, "E107"),
        ({"window_timestamps": torch.zeros(3, dtype=torch.float64)}, {}, "E008"),
        ({"window_timestamps": torch.arange(3.0)}, {}, "expected float64"),
        ({"unit_ids": encoded_ids(["s/a"])}, {}, "expected uint8 (2, width)"),
        ({"unit_ids": encoded_ids(["s/a", "s/a"])}, {}, "hold an id twice"),
        ({}, {"seed": "2"}, "E013"),
        ({}, {"unit_filtering": "all_units"}, "E109"),
        ({}, {"dataset_version": "1.0"}, "E003"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tensor: dict, text: dict, said: str) -> None:
    tensors, metadata = good()
    assert content_problems("L/ts2-forecasting/r/seed_1.safetensors", tensors, metadata) == []
    (problem,) = content_problems("L/ts2-forecasting/r/seed_1.safetensors", {**tensors, **tensor}, {**metadata, **text})
    assert said in problem


def test_what_cannot_be_scored_is_not_written(tmp_path: Path, model, folder: Path) -> None:
    bad = Predictions(np.full((2, 5, 1), np.inf), np.array([0.0, 0.0]), ["s/a"])
    with pytest.raises(ValueError, match=r"E107.*E008"):
        write_predictions(
            tmp_path, bad, label="l", task="forecasting", recording_id="r", seed=1, dataset_version="0.1.0"
        )
    assert not list(tmp_path.iterdir())
    write_recording(tmp_path / "all.h5", "all_units")
    with pytest.raises(ValueError, match="is of the build 'all_units'"):
        read_recording(tmp_path / "all.h5")
    lacking = model_of(EID, 9, 0.02, [name.replace("/", "_") for name in UNITS[1:]])
    with pytest.raises(ValueError, match="lacks 1 of 10 units \\(probe00_0\\)"):
        predict(lacking, read_recording(folder / "recording.h5"), "forecasting", session_id=EID, samples=2, seed=0)
