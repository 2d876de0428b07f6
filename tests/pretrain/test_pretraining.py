"""Parts of a run that need no launcher: settings that are derived, learning rates, checkpoints, stopping."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.pretrain.checkpoint import (
    COMPLETE,
    Checkpoints,
    Position,
    complete_checkpoints,
    read_position,
    refuse_difference,
)
from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import accumulation_steps, deepspeed_settings
from neurochorus.pretrain.loop import seed_step
from neurochorus.pretrain.optimizer import learning_rate, parameter_groups
from neurochorus.pretrain.stopping import StopRequest
from tests.models.conftest import small_model

STAGE = {"steps": 100}
MINIMAL: dict[str, Any] = {"run": {"dir": "x"}, "data": {"path": "y"}, "autoencoder": STAGE, "dynamics": STAGE}
ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))


def config(**sections: Any) -> RunConfig:
    return parse_settings(RunConfig, {**MINIMAL, **sections}, "test")


def test_deepspeed_settings_are_derived_and_explicit() -> None:
    made = config(train={"global_batch": 32, "micro_batch": 4}, zero={"stage": 2}, deepspeed={"dump_state": True})
    assert deepspeed_settings(made, world=2) == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": 2, "stage3_param_persistence_threshold": 100_000},
        "dump_state": True,
    }
    with pytest.raises(ValueError, match=r"global_batch 32 is not a multiple of 12 .*4 x 3 ranks"):
        accumulation_steps(made, world=3)


def test_impossible_combinations_are_all_named() -> None:
    with pytest.raises(SettingsError) as caught:
        config(
            train={"global_batch": 30, "micro_batch": 4},
            dynamics={"steps": 0, "beta2": 0.999},
            deepspeed={"fp16": {"enabled": True}, "gradient_clipp1ng": 1},
            model={"dynamics": {"history_scales": [2]}, "autoencoder": {"encoder": {"width": 30}}},
        )
    text = str(caught.value)
    for words in (
        "train.global_batch: 30 is not a multiple of micro_batch 4",
        "dynamics.steps: expected 1 or more, found 0",
        "dynamics.beta2: expected a number in [0.5, 0.95]",
        "deepspeed.fp16: is derived from",
        "deepspeed.gradient_clipp1ng: unknown key",
        "model.dynamics.history_scales: must contain 1",
        "model.autoencoder.encoder.width: 30 is not a multiple of twice the 4 heads",
    ):
        assert words in text


def test_every_parameter_is_in_one_group_and_tables_do_not_decay() -> None:
    model = small_model("energy")
    section = StageSection(steps=1, weight_decay=0.1, table_weight_decay=0.05)
    groups = parameter_groups(model, section, head_factor=0.25)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert of[id(model.autoencoder.read_in_rows.weight)]["weight_decay"] == 0.05
    assert of[id(model.autoencoder.unit_offsets.weight)]["weight_decay"] == 0.0
    assert of[id(model.dynamics.session_vectors.weight)]["weight_decay"] == 0.0
    assert of[id(model.get_parameter("dynamics.transformer.norm.weight"))]["weight_decay"] == 0.0
    read = model.get_parameter("dynamics.read.weight")
    assert of[id(read)]["weight_decay"] == 0.1
    assert {of[id(parameter)]["factor"] for parameter in model.dynamics.head.parameters()} == {0.25}
    assert of[id(read)]["factor"] == 1.0


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    section = StageSection(steps=100, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate(step, section) for step in range(100)]
    assert rates[0] == pytest.approx(2.0 / 11)
    assert max(rates) == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[-1] < 0.001
    assert rates[:11] == sorted(rates[:11])


def test_the_noise_of_a_step_depends_on_nothing_else() -> None:
    def draw(*key: Any) -> float:
        seed_step(*key)
        return float(torch.rand(()))

    assert draw(0, "dynamics", 5, 1) == draw(0, "dynamics", 5, 1)
    others = {
        draw(*key)
        for key in ((1, "dynamics", 5, 1), (0, "autoencoder", 5, 1), (0, "dynamics", 6, 1), (0, "dynamics", 5, 0))
    }
    assert len(others | {draw(0, "dynamics", 5, 1)}) == 5


class FakeEngine:
    """Writes what DeepSpeed would: some files under the tag; or fails like a full disk half-way."""

    def __init__(self, fail: bool = False):
        self.fail = fail

    def save(self, folder: str, tag: str) -> None:
        place = Path(folder) / tag
        place.mkdir()
        (place / "weights.pt").write_bytes(b"w" * 100)
        if self.fail:
            raise OSError(28, "No space left on device")
        (place / "optimizer.pt").write_bytes(b"o" * 50)


def position(step: int) -> Position:
    return Position(step, 8 * step, 1, {"data": "d"})


def test_checkpoints_appear_whole_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2, ranks=ONE_RANK)
    for step in (5, 10, 15):
        checkpoints.save(FakeEngine(), position(step))  # type: ignore[arg-type]
    found = complete_checkpoints(tmp_path / "c")
    assert [path.name for path in found] == ["step_00000010", "step_00000015"]
    assert read_position(found[-1]) == position(15)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2, ranks=ONE_RANK)
    checkpoints.save(FakeEngine(), position(5))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(FakeEngine(fail=True), position(10))  # type: ignore[arg-type]
    assert [path.name for path in complete_checkpoints(tmp_path / "c")] == ["step_00000005"]
    checkpoints.save(FakeEngine(), position(10))  # type: ignore[arg-type]
    assert [path.name for path in complete_checkpoints(tmp_path / "c")] == ["step_00000005", "step_00000010"]


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=9, ranks=ONE_RANK)
    for step in (1, 2, 3, 4):
        checkpoints.save(FakeEngine(), position(step))  # type: ignore[arg-type]
    (tmp_path / "c/step_00000004/weights.pt").write_bytes(b"cut")
    (tmp_path / "c/step_00000003" / COMPLETE).unlink()
    (tmp_path / "c/step_00000002" / COMPLETE).write_text("{half")
    for step, text in enumerate(("[]", "null", '{"files": []}', '{"files": {}}'), start=5):
        checkpoints.save(FakeEngine(), position(step))  # type: ignore[arg-type]
        (tmp_path / f"c/step_{step:08d}" / COMPLETE).write_text(text)
    assert [path.name for path in complete_checkpoints(tmp_path / "c")] == ["step_00000001"]


def test_a_checkpoint_of_something_else_is_refused_with_what_differs(tmp_path: Path) -> None:
    saved = Position(5, 40, 2, {"data": "old", "model settings": "same"})
    with pytest.raises(ValueError, match="cannot be continued") as caught:
        refuse_difference(tmp_path, saved, {"data": "new", "model settings": "same"}, world=4)
    assert "data: the checkpoint has old, this run has new" in str(caught.value)
    assert "ranks: the checkpoint was saved on 2, this run has 4" in str(caught.value)
    assert "model settings" not in str(caught.value)


def test_a_signal_a_file_and_a_spent_budget_ask_for_a_stop(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path, max_hours=None, watch_file=True)
    with stop.signals():
        assert not stop.wanted()
        signal.raise_signal(signal.SIGTERM)
        assert stop.wanted()
        assert stop.reason == "signal SIGTERM"
    by_file = StopRequest(tmp_path, max_hours=None, watch_file=True)
    (tmp_path / "STOP").touch()
    assert by_file.wanted()
    assert not StopRequest(tmp_path, max_hours=None, watch_file=False).wanted()
    assert StopRequest(tmp_path, max_hours=0.0, watch_file=False).wanted()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_positions_read_back_exactly(tmp_path: Path) -> None:
    (tmp_path / COMPLETE).write_text(
        json.dumps({"step": 3, "samples_seen": 2**40, "world": 2, "fingerprint": {}, "files": {}})
    )
    assert read_position(tmp_path) == Position(3, 2**40, 2, {})
