"""Evaluation inside training: it leaves the weights as they would be without it, and its scores are a pure function."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import load
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.early_stopping import EarlyStopping
from neurochorus.pretrain.pretraining import pretrain
from neurochorus.pretrain.stages import dynamics_stage
from neurochorus.pretrain.stop_section import StopSection
from neurochorus.pretrain.training_data import TrainingData
from neurochorus.pretrain.validation import Scores, Validation, validation_windows
from tests.data_shards.conftest import small_recording
from tests.distributed import run_ranks

TRANSFORMER = {"width": 16, "blocks": 1, "heads": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("validation") / "data"
    sessions = [small_recording(name, f"of_{name}", units, 30, units) for name, units in (("a1", 5), ("b1", 8))]
    write_dataset(sessions, path, name="small", sample_bins=12)
    return path


def run_config(data: Path, folder: Path, **sections: Any) -> RunConfig:
    values = {
        "run": {"dir": str(folder)},
        "data": {"path": str(data), "workers": 0},
        "model": {
            "autoencoder": {"latents": 4, "encoder": TRANSFORMER, "future_weights": {1: 0.5}},
            "dynamics": {"transformer": TRANSFORMER},
            "heads": {"energy": {"width": 16, "blocks": 1}},
        },
        "autoencoder": {"steps": 5},
        "dynamics": {"steps": 5},
        "train": {"global_batch": 8, "micro_batch": 4, "precision": "fp32", "log_every": 5, "ema": 0.5},
        "zero": {"stage": 3, "persistence_threshold": 0},
        "checkpoint": {"every": 4, "best": True, "keep": 1},
        "evaluation": {"every": 2, "batches": 3},
        "wandb": {"mode": "disabled"},
        "forecast": {"context_bins": 8, "horizon_bins": 4},
    }
    return parse_settings(RunConfig, values | sections, "test")


def with_and_without(data: Path, folder: Path) -> None:
    with process_group() as ranks:
        pretrain(run_config(data, folder / "evaluated"), ranks)
        pretrain(run_config(data, folder / "plain", evaluation={}, checkpoint={"every": 4, "keep": 1}), ranks)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of both stages on two ranks at ZeRO-3, with an average of the weights."""
    folder = tmp_path_factory.mktemp("runs")
    run_ranks(with_and_without, 2, data, folder)
    return folder


def test_training_is_the_same_to_the_bit(runs: Path) -> None:
    one, other = (load_file(runs / name / "export" / "model.safetensors") for name in ("evaluated", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    losses = [[(m["stage"], m["step"], m["loss"]) for m in metrics(runs / name)] for name in ("evaluated", "plain")]
    assert set(losses[1]) <= set(losses[0])
    assert len(losses[1]) == 4


def test_scores_are_written_at_their_steps_and_choose_the_best_checkpoint(runs: Path) -> None:
    lines = metrics(runs / "evaluated")
    for stage in ("autoencoder", "dynamics"):
        own = [line for line in lines if line["stage"] == stage]
        assert [line["step"] for line in own if "validation_loss" in line] == [2, 4, 5]
        assert all("validation_loss_energy" in line for line in own if stage == "dynamics" and line["step"] > 1)
    saved = sorted((runs / "evaluated" / "checkpoints" / "dynamics").glob("step_*"))
    scores = {p.name: json.loads((p / "COMPLETE.json").read_text())["score"] for p in saved}
    of_step = {f"step_{line['step']:08d}": line["validation_loss"] for line in own if "validation_loss" in line}
    assert scores.items() <= of_step.items()
    assert set(scores) == {"step_00000005", min(("step_00000004", "step_00000005"), key=of_step.__getitem__)}


class Fixed:
    """Stands for the engine: gives weights."""

    def __init__(self, weights: dict[str, Tensor]):
        self.state_dict = lambda: weights


def test_scores_are_those_of_the_export_whatever_the_ranks(data: Path, runs: Path) -> None:
    model = load(runs / "evaluated" / "export")
    config = run_config(data, runs / "unused", evaluation={"every": 2, "batches": 3})
    opened = TrainingData.open(config)
    registry = UnitRegistry.from_sessions(opened.entries)
    stage = dynamics_stage(model, "fp32")

    def scores(world: int) -> dict[str, float]:
        numbered = [
            window
            for rank in range(world)
            for window in validation_windows(config, opened, registry, Ranks(rank, world, rank, CPU))()
        ]
        assert sorted(number for number, _ in numbered) == [0, 1, 2]
        return Validation(stage, lambda: numbered, 0, Ranks(0, 1, 0, CPU)).scores(Fixed(stage.state_dict())).values  # type: ignore[arg-type]

    (last,) = [m for m in metrics(runs / "evaluated") if m["stage"] == "dynamics" and m["step"] == 5]
    alone, shared = scores(1), scores(3)
    assert alone == pytest.approx(shared, rel=1e-9)
    assert alone["validation_loss"] == pytest.approx(last["validation_loss"], rel=1e-5)
    assert set(alone) <= set(last)


@pytest.mark.parametrize("batches", [2, 4, 16])
def test_with_early_stopping_few_windows_are_all_scored_once_whatever_the_ranks(
    data: Path, runs: Path, batches: int
) -> None:
    """Each session has five windows; of twelve ranks some have none."""
    model = load(runs / "evaluated" / "export")
    config = run_config(data, runs / "unused", evaluation={"every": 2, "batches": batches},
                        train={"global_batch": 8, "micro_batch": 8})  # fmt: skip
    opened = TrainingData.open(config)
    registry = UnitRegistry.from_sessions(opened.entries)
    stage = dynamics_stage(model, "fp32")

    def scored(world: int) -> tuple[list[str], list[tuple[int, Batch]]]:
        numbered: list[tuple[int, Batch]] = []
        for rank in range(world):
            own = [*validation_windows(config, opened, registry, Ranks(rank, world, rank, CPU), once=True)()]
            assert own  # or the ranks would not sum the same
            numbered += own
        keys = [key for _, batch in numbered if batch.bin_mask_BT.any() for key in batch.sample_ids]
        return sorted(keys), numbered

    wanted = sorted(
        opened.corpus.read(row).key for name in opened.session_ids for row in opened.corpus.rows_of(name, "valid")
    )
    assert len(wanted) == 10
    found = []
    for world in (1, 3, 12):
        keys, numbered = scored(world)
        assert keys == wanted
        assert all(len(batch.sample_ids) <= math.ceil(10 / batches) for _, batch in numbered)
        scores = Validation(stage, lambda numbered=numbered: numbered, 0, Ranks(0, 1, 0, CPU))
        found.append(scores.scores(Fixed(stage.state_dict())).values)  # type: ignore[arg-type]
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


def test_a_first_loss_that_is_no_number_is_soon_beaten(tmp_path: Path) -> None:
    stopping = EarlyStopping(StopSection(patience=2), tmp_path, 40, Ranks(0, 1, 0, CPU), print)
    for step, loss in enumerate((math.nan, math.nan, 2.0, math.nan, 3.0)):
        stopping.note(step, Scores({"validation_loss": loss}), lambda: {"weight": torch.ones(1)})
    assert stopping.line() == {"best_step": 2, "best_validation_loss": 2.0}
    assert stopping.spent


@pytest.mark.parametrize(
    ("last", "at_the_end", "kept"),
    [
        pytest.param([1.1, 0.8, 1.3], True, 2, id="worse by chance"),
        pytest.param([1.1, 0.8, 1.3], False, 1, id="worse by chance before the end"),
        pytest.param([1.1, 1.1, 1.1], True, 1, id="worse in every window"),
        pytest.param([0.8, 0.9, 0.8], False, 2, id="better"),
        pytest.param([math.nan, 1.0, 1.0], True, 1, id="no number"),
        pytest.param([1.1], True, 1, id="of one micro-batch, which tells no error"),
    ],
)
def test_at_the_end_the_last_weights_are_kept_unless_others_are_surely_better(
    tmp_path: Path, last: list[float], at_the_end: bool, kept: int
) -> None:
    def note(step: int, losses: list[float], at_the_end: bool) -> None:
        values = {"validation_loss": sum(losses) / len(losses)}
        scores = Scores(values, {number: (10 * loss, 10.0) for number, loss in enumerate(losses)})
        stopping.note(step, scores, lambda: {"weight": torch.full((1,), float(step))}, at_the_end)

    stopping = EarlyStopping(StopSection(patience=9), tmp_path, 3, Ranks(0, 1, 0, CPU), print)
    note(0, [3.0] * len(last), False)
    note(1, [1.0] * len(last), False)
    resumed = EarlyStopping(StopSection(patience=9), tmp_path, 3, Ranks(0, 1, 0, CPU), print)
    resumed.resume(json.loads(json.dumps(stopping.state)))  # as from a checkpoint
    stopping = resumed
    note(2, last, at_the_end)
    assert stopping.facts()["kept_step"] == kept
    assert stopping.facts()["best_step"] == stopping.line()["best_step"] == (2 if sum(last) < len(last) else 1)
    assert float(stopping.kept_weights()["weight"]) == kept
    assert [file.name for file in (tmp_path / "best").iterdir()] == [f"step_{kept:08d}.safetensors"]


def test_what_cannot_be_evaluated_is_refused(data: Path, tmp_path: Path) -> None:
    config = run_config(data, tmp_path, evaluation={"every": 2, "batches": 3})
    opened = TrainingData.open(config)
    registry = UnitRegistry.from_sessions(opened.entries)
    with pytest.raises(ValueError, match=r"evaluation\.batches: 3 for 4 ranks"):
        validation_windows(config, opened, registry, Ranks(0, 4, 0, CPU))
