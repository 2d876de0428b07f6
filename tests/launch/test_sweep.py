"""Grids of settings: their points, their table, and that a finished point is left alone."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
import yaml

from neurochorus.launch import sweep
from neurochorus.launch.commands import free_ports
from neurochorus.launch.sweep_points import Point, Score, grid_points, score_of

CONFIGS = Path(sweep.__file__).parent / "configs"


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    points = grid_points(["dynamics.learning_rate=1e-3,2e-3", "model.dynamics.history_scales=[1, 5],[1]"], tmp_path)
    assert [list(point.settings.values()) for point in points] == [
        ["1e-3", "[1, 5]"],
        ["1e-3", "[1]"],
        ["2e-3", "[1, 5]"],
        ["2e-3", "[1]"],
    ]
    assert len({point.folder for point in points}) == 4
    assert points[0].folder.name == "dynamics.learning_rate=1e-3,model.dynamics.history_scales=_1,_5_"
    assert f"run.dir={points[0].folder}" in points[0].overrides


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["run.seed"], "expected section.key=value"),
        (["run.seed=1,"], "expected section.key=value"),
        (["run.seed=1", "run.seed=2"], "given twice"),
        (["run.dir=a,b"], "each point gets one of its own"),
        (["run.seed=1,1"], "give each value once"),
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path: Path, grid: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grid_points(grid, tmp_path)


def write_run(point: Point, losses: list[float], validation: dict[int, float], finished: bool = True) -> None:
    point.folder.mkdir(parents=True)
    lines = [{"stage": "autoencoder", "step": 1, "loss": -9.0}]
    for step, loss in enumerate(losses, start=1):
        scores = {"validation_loss": validation[step]} if step in validation else {}
        lines.append({"stage": "dynamics", "step": step, "loss": loss, **scores})
    (point.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (point.folder / "export").mkdir()
        (point.folder / "export/config.json").write_text("{}")


def test_a_score_is_the_best_validation_loss_of_the_last_stage(tmp_path: Path) -> None:
    first, second, third, fourth = grid_points(["run.seed=0,1,2,3"], tmp_path)
    write_run(first, [3.0] * 18 + [1.0, 2.0], {10: 0.5, 20: 0.9})
    write_run(second, [4.0, 5.0], {})
    write_run(third, [0.1], {}, finished=False)
    scores = [score_of(point) for point in (first, second, third, fourth)]
    assert scores[0] == Score("dynamics", 20, 0.5, 1.5, True)
    assert scores[1] == Score("dynamics", 2, None, 5.0, True)
    assert sorted(scores, key=lambda score: score.order) == scores, "an unfinished run is no winner"
    assert scores[3] == Score("", 0, None, None, False)


def test_only_what_is_not_finished_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = grid_points(["run.seed=0,1,2"], tmp_path)
    write_run(points[0], [2.0], {})
    trained = []

    def train(command: list[str], title: str, log: Path) -> float:
        trained.append(command)
        if title == "run.seed=1":
            raise sweep.CommandFailed("it broke")
        point = next(point for point in points if point.name == title)
        point.folder.rmdir()
        write_run(point, [1.0], {})
        return 0.0

    monkeypatch.setattr(sweep, "run", train)
    arguments = ["--config", str(CONFIGS / "demo.yaml"), "train.log_every=1", "--out", str(tmp_path)]
    assert sweep.main([*arguments, "--grid", "run.seed=0,1,2"]) == 1, "one point failed"
    assert [next(part for part in command if part.startswith("run.seed")) for command in trained] == [
        "run.seed=1",
        "run.seed=2",
    ]
    assert all("train.log_every=1" in command for command in trained)
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    assert header == "run.seed,stage,step,validation loss,loss,finished,run"
    assert [row.split(",")[0] for row in rows] == ["2", "0", "1"]
    assert "it broke" in capsys.readouterr().err


def test_a_point_that_cannot_be_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(CONFIGS / "demo.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert sweep.main([*arguments, "--grid", "dynamics.learning_rate=1e-3,-1"]) == 1
    assert "dynamics.learning_rate: expected a positive number" in capsys.readouterr().err
    assert sweep.main([*arguments, "--grid", "run.seed=0,1"]) == 0
    assert "2 of 2 points to train" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_sweep_file_of_wandb_names_settings_that_exist() -> None:
    from neurochorus.data_shards.settings import read_settings
    from neurochorus.pretrain.config import RunConfig

    values = yaml.safe_load((CONFIGS / "sweeps/learning_rate.yaml").read_text())
    chosen = [f"{name}={axis.get('values', [axis.get('min')])[0]}" for name, axis in values["parameters"].items()]
    assert read_settings(RunConfig, CONFIGS / "steinmetz2019.yaml", [*chosen, "evaluation.every=200"])
    assert "launch/pretrain.py" in " ".join(values["command"])


def test_each_point_gets_a_port_that_is_free() -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # another program has it already, which is as good
            taken.bind(("", sweep.FIRST_PORT + 1))
        ports = free_ports(3, sweep.FIRST_PORT)
    assert len(set(ports)) == 3
    assert sweep.FIRST_PORT + 1 not in ports
