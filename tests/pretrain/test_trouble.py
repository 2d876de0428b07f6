"""Losses and gradients that go wrong: the step is left out on every rank, and the samples that did it are named."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neurochorus.pretrain.config import SpikeSection
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.loop import _step
from neurochorus.pretrain.stages import Stage
from neurochorus.pretrain.trouble import Step, Trouble
from tests.distributed import run_ranks
from tests.pretrain.test_zero_stages import SECTION, make_batch, make_stage, run_config

ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))


def trouble(folder: Path, said: list[str], state: dict[str, Any] | None = None, **spikes: Any) -> Trouble:
    section = SpikeSection(**{"window": 8, "threshold": 4.0, **spikes})
    return Trouble("dynamics", section, 3, ONE_RANK, folder / "trouble.jsonl", said.append, state)


def step(number: int, loss: float, applied: bool = True) -> Step:
    return Step(number, loss, own_loss=loss, applied=applied, micro_batches=[make_batch(0, number)])


def test_a_loss_that_leaps_is_named_with_its_samples(tmp_path: Path) -> None:
    said: list[str] = []
    watch = trouble(tmp_path, said)
    for number, loss in enumerate((9.0, 1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1), start=1):
        watch.judge(step(number, loss))
    assert said == [], "a falling loss, and noise, are no spikes"
    watch.judge(step(10, 1.5))
    assert len(said) == 1
    assert "step 10 had a loss spike (1.5)" in said[0]
    assert "rank 0: s0-000000, s0-000001" in said[0]
    (line,) = (tmp_path / "trouble.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "stage": "dynamics",
        "step": 10,
        "what": "loss spike",
        "loss": 1.5,
        "skipped": False,
        "samples": {"0": [f"s0-{i:06d}" for i in range(4)]},
    }


def test_a_resumed_run_judges_like_an_undisturbed_one(tmp_path: Path) -> None:
    losses = [1.0, 1.1, 0.9, 1.05, 1.0, 0.95, 1.2, 1.02, 2.0, 1.0, 1.3]
    said: list[str] = []
    watch, verdicts = trouble(tmp_path, said), []
    for number, loss in enumerate(losses):
        verdicts.append(watch.leaps(loss))
        watch.judge(step(number, loss))
    assert any(verdicts)
    for stop in range(len(losses)):
        first = trouble(tmp_path, said)
        for number, loss in enumerate(losses[:stop]):
            first.judge(step(number, loss))
        second = trouble(tmp_path, said, state=json.loads(json.dumps(first.state)))
        for number, loss in enumerate(losses[stop:], start=stop):
            assert second.leaps(loss) == verdicts[number]
            second.judge(step(number, loss))


def test_a_refused_spike_is_no_measure_for_the_next_loss(tmp_path: Path) -> None:
    said: list[str] = []
    watch = trouble(tmp_path, said, skip=True)
    for number in range(8):
        watch.judge(step(number, 1.0 + 0.1 * (number % 2)))
    before = watch.state["losses"]
    assert watch.refuse(5.0)
    watch.judge(step(9, 5.0, applied=False))
    assert watch.state == {"losses": before, "skipped": 1}
    assert "loss spike (5) and was skipped (1 in a row)" in said[-1]
    assert not watch.refuse(1.05)


def test_too_many_skipped_steps_in_a_row_stop_a_run_across_a_resume(tmp_path: Path) -> None:
    said: list[str] = []
    first = trouble(tmp_path, said)
    for number in (1, 2):
        first.judge(step(number, float("nan"), applied=False))
    second = trouble(tmp_path, said, state=first.state)
    with pytest.raises(FloatingPointError, match=r"dynamics: 3 steps in a row were skipped, .* non-finite loss"):
        second.judge(step(3, float("inf"), applied=False))
    third = trouble(tmp_path, said, state=first.state)
    third.judge(step(3, 1.0))
    assert third.state["skipped"] == 0


class Spoiled(Stage):
    """A stage whose loss is infinite on one batch, but with gradients that are finite, as a clamped loss has."""

    def forward(self, *inputs: Any) -> Any:
        loss, count, parts = super().forward(*inputs)
        if self.spoil:
            loss = loss + torch.full_like(loss, float("inf"))
        return loss, count, parts

    spoil = False


def train_with_a_spoiled_step(folder: str, zero_stages: list[int]) -> list[dict[str, Any]]:
    """At each ZeRO stage: one good step, one where only rank 1's loss is infinite, one that is refused as a spike."""
    outcomes = []
    with process_group() as ranks:
        for zero_stage in zero_stages:
            stage = make_stage(planted=False)
            stage.__class__ = Spoiled
            engine = Engine(stage, run_config(zero_stage, accumulation=1), SECTION, ranks)
            engine.set_learning_rate(SECTION.learning_rate)
            said: list[str] = []
            spikes = SpikeSection(window=2, threshold=0.0, skip=True)
            watch = Trouble(
                "autoencoder", spikes, 5, ranks, Path(folder) / f"{zero_stage}.jsonl", said.append,
                {"losses": [1e9, 1e9], "skipped": 0},
            )  # fmt: skip
            weights = []
            for number, spoil in enumerate((False, True, False), start=1):
                if number == 3:
                    watch._losses.extend((0.0, 0.0))  # nothing is as small
                stage.spoil = spoil and ranks.rank == 1  # type: ignore[assignment]
                batches = [make_batch(ranks.rank, number)]
                sums, _ = _step(stage, engine, batches, ranks, False, str(number), watch)
                loss, own = float(sums["loss"]), float(sums["own_loss"])
                watch.judge(Step(number, loss, own, engine.step_applied, batches))
                weights.append(engine.state_dict()["trained.read_in_rows.weight"])
            moved = [not torch.equal(before, after) for before, after in itertools.pairwise(weights)]
            outcomes.append({"said": said, "moved": moved, "finite": bool(weights[-1].isfinite().all())})
            engine.close()
    return outcomes


def test_no_rank_steps_when_the_loss_of_one_is_not_finite_or_leaps(tmp_path: Path) -> None:
    zero_stages = [0, 1, 2, 3]
    for outcomes in run_ranks(train_with_a_spoiled_step, 2, str(tmp_path), zero_stages):
        for zero_stage, outcome in zip(zero_stages, outcomes):
            assert outcome["moved"] == [False, False], f"ZeRO-{zero_stage}"
            assert outcome["finite"]
            spoiled, refused = outcome["said"]
            assert "step 2 had a non-finite loss (inf) and was skipped (1 in a row); samples of rank 1: s" in spoiled
            assert "rank 0" not in spoiled
            assert "step 3 had a loss spike" in refused
            assert "(2 in a row); samples of rank 0: " in refused
    lines = [json.loads(line) for line in (tmp_path / "2.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["non-finite loss", "loss spike"]
