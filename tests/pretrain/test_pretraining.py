"""Parts of a run that need no launcher: settings that are derived, learning rates, checkpoints, stopping."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import accumulation_steps, deepspeed_settings
from neurochorus.pretrain.loop import seed_micro_batch
from neurochorus.pretrain.optimizer import parameter_groups
from neurochorus.pretrain.stopping import SIGNALS, StopRequest
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
        "zero_optimization": {
            "stage": 2,
            "stage3_param_persistence_threshold": 100_000,
            "reduce_bucket_size": 50_000_000,
            "stage3_max_live_parameters": 100_000_000,
            "stage3_max_reuse_distance": 100_000_000,
        },
        "dump_state": True,
    }
    offloaded = config(zero={"stage": 3, "offload_optimizer": True, "offload_parameters": True})
    derived = deepspeed_settings(offloaded, world=2)
    assert derived["zero_force_ds_cpu_optimizer"] is False, "DeepSpeed's own CPU Adam would be compiled at the start"
    assert derived["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert derived["zero_optimization"]["offload_param"] == {"device": "cpu"}
    with pytest.raises(ValueError, match=r"global_batch 32 is not a multiple of 12 .*4 x 3 ranks"):
        accumulation_steps(made, world=3)


def test_impossible_combinations_are_all_named() -> None:
    with pytest.raises(SettingsError) as caught:
        config(
            train={"global_batch": 30, "micro_batch": 4},
            zero={"stage": 0, "offload_optimizer": True, "offload_parameters": True},
            checkpoint={"every": 10, "best": True},
            evaluation={"every": 4},
            dynamics={"steps": 0, "beta2": 0.999},
            deepspeed={"fp16": {"enabled": True}, "gradient_clipp1ng": 1},
            model={"dynamics": {"history_scales": [2]}, "autoencoder": {"encoder": {"width": 30}}},
        )
    text = str(caught.value)
    for words in (
        "zero.offload_optimizer: ZeRO-0 keeps",
        "zero.offload_parameters: needs stage 3",
        "checkpoint.best: needs a score at each checkpoint: let evaluation.every (4) divide checkpoint.every (10)",
        "train.global_batch: 30 is not a multiple of micro_batch 4",
        "dynamics.steps: expected 1 or more, found 0",
        "dynamics.beta2: expected a number in [0.5, 0.95]",
        "deepspeed.fp16: is derived from",
        "deepspeed.gradient_clipp1ng: unknown key",
        "model.dynamics.history_scales: must contain 1",
        "model.autoencoder.encoder.width: 30 is not a multiple of twice the 4 heads",
    ):
        assert words in text


def test_what_zero_3_cannot_do_is_named() -> None:
    with pytest.raises(SettingsError, match=r"train\.compile: at zero\.stage 3"):
        config(train={"compile": True}, zero={"stage": 3})
    assert config(train={"compile": True}, zero={"stage": 2}).train.compile


@pytest.mark.parametrize(("ema", "base_width"), [(1.0, 31), (0.0, 0), (float("nan"), -2)])
def test_averages_and_widths_that_make_no_sense_are_named(ema: float, base_width: int) -> None:
    with pytest.raises(SettingsError) as caught:
        config(train={"ema": ema, "base_width": base_width})
    assert "train.ema: expected null or a decay between 0 and 1" in str(caught.value)
    assert "train.base_width: expected" in str(caught.value)


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


def test_the_noise_of_a_micro_batch_depends_on_nothing_else() -> None:
    def draw(chance: str, number: int) -> float:
        seed_micro_batch(chance, number)
        return float(torch.rand(()))

    first = draw("0/dynamics/5", 1)
    assert draw("0/dynamics/5", 1) == first
    others = (("1/dynamics/5", 1), ("0/autoencoder/5", 1), ("0/dynamics/6", 1), ("0/dynamics/5", 0))
    assert len({first, *(draw(*other) for other in others)}) == 5


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Give the signals their meaning back, which a request to stop takes from them for good."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_for_a_stop_and_the_next_one_ends_nothing(tmp_path: Path, number: signal.Signals) -> None:
    stop = StopRequest(tmp_path, max_hours=None, watch_file=False)
    with stop.signals():
        assert not stop.wanted()
        signal.raise_signal(number)
        assert stop.wanted()
        assert stop.reason == f"signal {number.name}"
    signal.raise_signal(number)


def test_a_file_and_a_spent_budget_ask_for_a_stop(tmp_path: Path) -> None:
    with StopRequest(tmp_path, max_hours=None, watch_file=True).signals():
        pass
    by_file = StopRequest(tmp_path, max_hours=None, watch_file=True)
    (tmp_path / "STOP").touch()
    assert by_file.wanted()
    assert not StopRequest(tmp_path, max_hours=None, watch_file=False).wanted()
    assert StopRequest(tmp_path, max_hours=0.0, watch_file=False).wanted()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
