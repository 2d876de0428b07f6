"""What a run measures of itself, and where it goes."""

import gzip
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.costs.matrix_product import measured_peak_tflops
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.watch import Watch, cut_partial_line
from neurochorus.pretrain.watching import speed
from neurochorus.pretrain.watching.outside import wandb_id
from neurochorus.pretrain.watching.profiling import StepProfiler
from neurochorus.pretrain.watching.progress import ProgressLine, describe
from neurochorus.pretrain.watching.sources import SourceLosses
from neurochorus.pretrain.watching.speed import Speed
from tests.models.conftest import entry
from tests.pretrain.test_memory import BINS, UNITS, make_batch

ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))
REGISTRY = UnitRegistry.from_sessions([entry("a_s1", "a", 5), entry("b_s1", "b", 8), entry("b_s2", "b", 3)])


def run_config(**sections: Any) -> RunConfig:
    values = {"run": {"dir": "x"}, "data": {"path": "y"}, "autoencoder": {"steps": 4}, "dynamics": {"steps": 4}}
    return parse_settings(RunConfig, {**values, "wandb": {"mode": "disabled"}, **sections}, "test")


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"one\n", b"one\n"), (b"one\ntw", b"one\n"), (b"on", b"")],
)
def test_a_line_that_a_crash_cut_does_not_spoil_the_next_one(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_partial_line(path)
    assert not path.exists()
    path.write_bytes(before)
    cut_partial_line(path)
    assert path.read_bytes() == after


def add(sources: SourceLosses, session: int, subject: int, loss: float, bins: int) -> None:
    batch = make_batch(2)
    batch.session_B, batch.subject_B = torch.full((2,), session), torch.full((2,), subject)
    sources.add(batch, torch.tensor(loss, requires_grad=True), torch.tensor(bins))


def test_losses_by_source_are_means_over_bins_since_the_last_line() -> None:
    sessions, subjects = (SourceLosses(kind, REGISTRY, ONE_RANK) for kind in ("session", "subject"))
    for sources in (sessions, subjects):
        add(sources, 2, 2, loss=6.0, bins=3)
        add(sources, 2, 2, loss=2.0, bins=1)
        add(sources, 3, 2, loss=10.0, bins=2)
    assert sessions.take() == {"b_s1": 2.0, "b_s2": 5.0}
    assert subjects.take() == {"b": 3.0}
    add(sessions, 1, 1, loss=1.0, bins=4)
    assert sessions.take() == {"a_s1": 0.25}
    assert sessions.take() == {}
    nothing = SourceLosses("none", REGISTRY, ONE_RANK)
    add(nothing, 1, 1, loss=1.0, bins=4)
    assert nothing.take() == {}


class TwoAlikeRanks(Ranks):
    def sum(self, values: Tensor) -> Tensor:
        return 2 * values


def test_losses_by_source_are_over_all_ranks() -> None:
    sources = SourceLosses("session", REGISTRY, TwoAlikeRanks(0, 2, 0, torch.device("cpu")))
    add(sources, 1, 1, loss=6.0, bins=3)
    assert sources.take() == {"a_s1": 2.0}


@dataclass
class FakeStage:
    factor: float = 1.0
    asked: int = 0

    def flops(self, bins: int, units: int) -> dict[str, float]:
        self.asked += 1
        return {"all": self.factor * (1000.0 * bins + units)}


def test_speed_is_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    measured, stage = Speed(peak_tflops=1e-6), FakeStage()  # 1e6 FLOP/s
    measured.add_work(stage, [make_batch(3), make_batch(1)])  # type: ignore[arg-type]
    measured.add(torch.tensor(120.0), waited_s=0.5)
    measured.add(80.0, waited_s=0.5)
    now[0] = 104.0
    found = measured.take()
    assert found["bins_per_s"] == 50.0
    assert found["data_wait"] == 0.25
    assert found["mfu"] == pytest.approx(4 * BINS * (1000 * BINS + UNITS) / 4 / 1e6)
    assert 0.01 < found["memory_gib"] < 1000
    assert stage.asked == 1, "the same shapes are counted once"
    now[0] = 105.0
    assert measured.take()["bins_per_s"] == 0.0, "a line begins anew"
    measured.restart()
    measured.add_work(FakeStage(factor=3), [make_batch(2)])  # type: ignore[arg-type]
    now[0] = 106.0
    assert measured.take()["mfu"] == pytest.approx(3 * 2 * BINS * (1000 * BINS + UNITS) / 1e6), "of the stage at hand"


def test_the_measured_peak_leaves_the_runs_own_draws_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert measured_peak_tflops(torch.device("cpu"), "fp32", size=64) > 0
    assert torch.equal(torch.rand(3), expected)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def sums(loss: float, bins: float) -> dict[str, Tensor]:
    return {"loss": torch.tensor(loss), "present": torch.tensor(0.1), "bins": torch.tensor(bins)}


def test_a_line_has_all_that_was_measured(tmp_path: Path) -> None:
    config = run_config(train={"log_every": 2}, watch={"peak_tflops": 1.0, "sources": "session"})
    watch, sources = Watch(config, tmp_path, first=True), SourceLosses("session", REGISTRY, ONE_RANK)
    watch.begin("autoencoder", 4, 8)
    for step, loss in ((5, 2.0), (6, 1.0), (7, 0.5)):
        watch.work(FakeStage(), [make_batch(2)])  # type: ignore[arg-type]
        add(sources, 1, 1, loss, bins=2)
        with watch.timed("checkpoint"):
            pass
        scores = {"validation_loss": 0.75} if step == 7 else None
        watch.step("autoencoder", step, 32 * step, sums(loss, 60.0), 1e-3, 0.5, 0.0, scores, sources)
    watch.close()
    sixth, seventh = lines_of(tmp_path)
    assert (sixth["step"], sixth["samples_seen"], sixth["loss"]) == (6, 192, 1.0)
    assert sixth["loss_by_session"] == {"a_s1": 0.75}
    assert {"loss_present", "lr", "grad_norm", "bins_per_s", "data_wait", "mfu", "memory_gib"} <= sixth.keys()
    assert sixth["checkpoint_s"] >= 0
    assert (seventh["step"], seventh["validation_loss"]) == (7, 0.75)
    assert seventh["loss_by_session"] == {"a_s1": 0.25}


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    """It used to be "No space left on device" and no more."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    watch = Watch(run_config(), tmp_path, first=True)
    watch.begin("dynamics", 0, 1)
    with pytest.raises(OSError, match=r"metrics.jsonl: cannot be written \(No space left on device\)"):
        watch.step("dynamics", 1, 8, {"loss": torch.tensor(1.0), "bins": torch.tensor(8.0)}, 1e-3, 1.0, 0.0)
    watch.close(1)


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    watch, sources = Watch(run_config(), tmp_path, first=False), SourceLosses("session", REGISTRY, ONE_RANK)
    watch.begin("autoencoder", 0, 8)
    add(sources, 1, 1, 1.0, bins=2)
    watch.step("autoencoder", 1, 32, sums(1.0, 60.0), 1e-3, 0.5, 0.0, None, sources)
    assert sources.take() == {}, "it took part in the sum over ranks"
    watch.close()
    assert not list(tmp_path.iterdir())


def test_the_wandb_id_is_made_once(tmp_path: Path) -> None:
    first = wandb_id(tmp_path)
    assert wandb_id(tmp_path) == first
    assert len(first) == 8


def test_missing_tensorboard_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"watch.tensorboard: .* pip install 'neurochorus\[tensorboard\]'"):
        Watch(run_config(watch={"tensorboard": True}), tmp_path, first=False)


def test_chosen_steps_are_profiled(tmp_path: Path) -> None:
    profiler = StepProfiler([2, 3], tmp_path / "traces")
    seen = []
    for step in range(1, 5):
        profiler.before("dynamics", step)
        torch.mm(torch.ones(step, 17), torch.ones(17, 5))
        seen.append(profiler.after(step))
    assert [path is not None for path in seen] == [False, False, True, False]
    trace = json.loads(gzip.decompress((tmp_path / "traces/dynamics_steps_2_3.json.gz").read_bytes()))
    shapes = [e["args"]["Input Dims"][0] for e in trace["traceEvents"] if e.get("name") == "aten::mm"]
    assert shapes == [[2, 17], [3, 17]]


def test_a_plain_line_says_how_it_goes() -> None:
    line = {"stage": "dynamics", "step": 1, "loss": 1.25, "lr": 1e-3, "grad_norm": 0.5, "bins_per_s": 12345.0}
    line |= {"data_wait": 0.015, "mfu": 0.42}
    assert describe(line) == "loss 1.2500  lr 1.0e-03  |g| 0.50  12,345 bins/s  MFU 42 %  data wait 1.5 %"
    text = io.StringIO()
    progress = ProgressLine(Console(file=text, soft_wrap=True))
    progress.begin("dynamics", 0, 10)
    progress.show(line)
    assert text.getvalue().startswith("dynamics 1  loss 1.2500")
    assert text.getvalue().rstrip().endswith("left")


@pytest.mark.parametrize(("key", "value"), [("peak_tflops", 0), ("profile_steps", [3, 2]), ("profile_steps", [1])])
def test_settings_that_cannot_be_are_named(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"watch.{key}"):
        run_config(watch={key: value})
