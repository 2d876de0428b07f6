"""One picture of several runs, one of which was resumed, still runs, and has a cut last line."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from neurochorus.launch import plot
from neurochorus.pretrain.evaluation.run_comparison import compare_runs, smoothed
from neurochorus.pretrain.evaluation.run_history import read_run_history


def line(stage: str, step: int, loss: float, **more: float) -> str:
    values = {"stage": stage, "step": step, "samples_seen": 32 * step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0}
    return json.dumps({**values, "bins_per_s": 100.0, "elapsed_s": 1800.0, **more}) + "\n"


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    done, running = tmp_path / "done", tmp_path / "running"
    for folder in (done, running):
        folder.mkdir()
    text = "".join(line("autoencoder", step, 5.0 - step) for step in range(1, 5))
    (done / "metrics.jsonl").write_text(text + line("dynamics", 1, 3.0) + line("dynamics", 2, 2.0, validation_loss=2.5))
    repeated = line("autoencoder", 3, 9.0) + line("autoencoder", 4, 9.0) + line("autoencoder", 4, 0.5)
    (running / "metrics.jsonl").write_text(repeated + '{"stage": "autoenc')
    return done, running


def test_curves_are_those_of_the_files(runs: tuple[Path, Path]) -> None:
    histories = {path.name: read_run_history(path) for path in runs}
    figure = compare_runs(histories, "hours", smooth=0)
    losses = figure.axes[0].get_lines()
    assert [line.get_label() for line in losses] == ["done", "running"]
    assert np.array_equal(losses[0].get_ydata(), [4.0, 3.0, 2.0, 1.0])
    assert np.array_equal(losses[0].get_xdata(), [0.5, 1.0, 1.5, 2.0])
    assert np.array_equal(losses[1].get_ydata(), [9.0, 0.5]), "the later line of a step counts"
    _, dots = figure.axes[1].get_lines()
    assert np.array_equal(dots.get_xdata(), [1.0])
    assert np.array_equal(dots.get_ydata(), [2.5])
    by_samples = compare_runs(histories, "samples", smooth=0).axes[0].get_lines()[0]
    assert np.array_equal(by_samples.get_xdata(), [32, 64, 96, 128])


def test_smoothing_is_an_average_that_forgets() -> None:
    values = np.array([0.0, 1.0, np.nan, 1.0])
    keep = np.exp(-1 / 2)
    second = 1 / (1 + keep)
    fourth = (1 + keep) / (1 + keep + keep**2)
    assert smoothed(values, 2.0) == pytest.approx([0.0, second, second, fourth])
    assert np.isnan(smoothed(np.array([np.nan]), 2.0)).all()


def test_the_command_writes_a_picture(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "compared.png"
    assert plot.main([*map(str, runs), "--out", str(out), "--against", "samples"]) == 0
    assert imread(out)[..., :3].std() > 0.05, "something is drawn"


def test_what_cannot_be_drawn_is_said(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "a.png")]
    assert plot.main([str(runs[1]), "--stages", "dynamics", *out]) == 1
    assert "has no stage dynamics; it has autoencoder" in capsys.readouterr().err
    assert plot.main([str(tmp_path / "nowhere"), *out]) == 1
    old = tmp_path / "old"
    old.mkdir()
    (old / "metrics.jsonl").write_text('{"stage": "dynamics", "step": 1, "loss": 1.0}\n')
    assert plot.main([str(old), "--against", "hours", *out]) == 1
    assert "have no elapsed_s" in capsys.readouterr().err
