"""Adaptation on two ranks: ZeRO against plain PyTorch, early stopping exact under resume, and what is exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neurochorus.models import load, read_training
from neurochorus.pretrain.adaptation.low_rank import LoraSection
from neurochorus.pretrain.adaptation.modes import Mode
from neurochorus.pretrain.adaptation.unfreezing import UnfreezeSection
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.finetuning import finetune, fitted_elsewhere, prepare
from neurochorus.pretrain.loop import StoppedEarly, _step
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.stages import Stage
from tests.distributed import run_ranks
from tests.pretrain.adaptation.small_runs import tuning, write_base
from tests.pretrain.test_zero_stages import SECTION, make_batch, make_stage, run_config

STEPS = 4
STOP = {"every": 1, "patience": 2, "batches": 4}


def adapted_stage(adapt: str) -> Stage:
    """Session 1 is old, session 2 is new."""
    stage = make_stage(planted=False)
    stage.requires_grad_(False)
    for name in ("read_in_rows", "read_out_rows", "unit_offsets", "history_rows", "session_bias"):
        table = getattr(stage.trained, name)
        table.freeze(2 if name == "session_bias" else 8)
        table.weight.requires_grad_(True)
    lora = LoraSection(rank=2, targets=["attention", "mlp", "latent"])
    Mode(adapt, 0.5, lora, UnfreezeSection(last=0.6), seed=0).apply(stage.trained, "autoencoder")  # type: ignore[arg-type]
    return stage


def in_plain_torch(adapt: str) -> dict[str, Tensor]:
    stage = adapted_stage(adapt)
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parameter_groups(stage, SECTION, 0.25), SECTION)
    for step in range(STEPS):
        results = [stage(make_batch(rank, step)) for rank in range(2)]
        optimizer.zero_grad()
        (torch.stack([loss for loss, _, _ in results]).sum() / sum(int(count) for _, count, _ in results)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = SECTION.learning_rate * group["factor"] * (step / STEPS >= group["begins"])
        optimizer.step()
    return {name: value.clone() for name, value in stage.state_dict().items()}


def under_deepspeed(ranks: Ranks, adapt: str, zero_stage: int) -> dict[str, Tensor]:
    stage = adapted_stage(adapt)
    engine = Engine(stage, run_config(zero_stage, 1), SECTION, ranks)
    for step in range(STEPS):
        engine.set_learning_rate(SECTION.learning_rate, step / STEPS)
        _step(stage, engine, [make_batch(ranks.rank, step)], ranks, False, chance=str(step))
    weights = engine.state_dict()
    engine.close()
    return weights


def largest_error(adapt: str, weights: dict[str, Tensor]) -> float:
    start, reference = adapted_stage(adapt).state_dict(), in_plain_torch(adapt)
    moved = {name for name in reference if not torch.equal(start[name], reference[name])}
    assert any("low_rank_down" in name if adapt == "lora" else "blocks" in name for name in moved)
    assert all(torch.equal(weights[name], start[name]) for name in reference.keys() - moved)
    norms = [(weights[n] - reference[n]).norm() / (reference[n] - start[n]).norm() for n in moved]
    return float(torch.stack(norms).max())


def all_of_it(folder: Path) -> dict[str, Any]:
    with process_group() as ranks:
        found: dict[str, Any] = {
            f"{adapt} at ZeRO-{zero}": largest_error(adapt, under_deepspeed(ranks, adapt, zero))
            for adapt, zero in (("lora", 0), ("lora", 3), ("unfreeze", 2))
        }
        early = {
            "stop": STOP,
            "adapt": "lora",
            "autoencoder": {"steps": 40, "learning_rate": 0.1, "schedule": "constant"},
            "dynamics": {"steps": 2},
            "zero": {"stage": 3, "persistence_threshold": 0},
            "checkpoint": {"every": 2, "keep": 1},
        }
        finetune(tuning(folder, "straight", **early), ranks)
        stops = []
        for _ in range(30):
            try:
                train = {"max_hours": 1e-9}
                finetune(tuning(folder, "stopped", **early, train=train), ranks)
                break
            except StoppedEarly as stopped:
                stops.append(str(stopped).partition(":")[0])
        found["stops"] = stops
        replay = {"path": str(folder / "data"), "share": 0.5}
        finetune(tuning(folder, "full", adapt="full", replay=replay, zero={"stage": 2}), ranks)
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two_ranks")
    write_base(folder)
    found, _ = run_ranks(all_of_it, 2, folder, timeout_s=550.0)
    return folder, found


def test_zero_adapts_like_plain_torch(work: tuple[Path, dict[str, Any]]) -> None:
    errors = {name: error for name, error in work[1].items() if "ZeRO" in name}
    assert len(errors) == 3
    assert all(error < 2e-4 for error in errors.values()), errors


def lines_of(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def test_a_stage_ends_when_its_score_does_not_improve_and_its_best_is_exported(
    work: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = work
    lines = lines_of(folder / "straight", "autoencoder")
    facts = read_training(folder / "straight" / "export")["adaptation"]["early_stop"]["autoencoder"]
    scores = [line["validation_loss"] for line in lines]
    best = min(facts["validation_loss"], *scores)  # the start is scored too, which has no line
    assert facts["validation_loss"] == best == lines[-1]["best_validation_loss"]
    assert facts["best_step"] == lines[-1]["best_step"] == (scores.index(best) + 1 if best in scores else 0)
    assert len(lines) == facts["stopped_at"] == facts["best_step"] + STOP["patience"] < 40
    assert 0 < facts["standard_error"] < 1
    # beside it, at most what the checkpoints that are kept name
    kept = [file.name for file in (folder / "straight" / "checkpoints" / "autoencoder" / "best").iterdir()]
    assert f"step_{facts['best_step']:08d}.safetensors" in kept
    assert len(kept) <= 3


def test_a_run_stopped_after_every_step_ends_where_the_undisturbed_one_does(work: tuple[Path, dict[str, Any]]) -> None:
    folder, found = work
    assert len(found["stops"]) >= 3
    one, other = (load(folder / name / "export").state_dict() for name in ("straight", "stopped"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    facts = [read_training(folder / name / "export")["adaptation"]["early_stop"] for name in ("straight", "stopped")]
    assert facts[0] == facts[1]


def test_an_export_has_no_updates_left_and_keeps_the_old_rows_and_the_whitening(
    work: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = work
    before = load(folder / "base")
    tables = ("_rows", "unit_offsets", "session_bias", "_vectors", "unit_mean", "unit_sd", "whitening", "increment_sd")
    for name in ("straight", "full"):
        after = load(folder / name / "export")
        assert after.registry.session("c1").first_row == before.registry.total_rows
        own = after.state_dict()
        assert own.keys() == before.state_dict().keys()
        for key, value in before.state_dict().items():
            if any(part in key for part in tables):
                assert torch.equal(own[key][: len(value)], value), key
        moved = "autoencoder.encoder.blocks.0.expand.weight"
        assert not torch.equal(own[moved], before.state_dict()[moved])


def test_the_card_says_what_was_adapted_to_what(work: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = work
    cards = {name: (folder / name / "export" / "README.md").read_text() for name in ("straight", "full")}
    facts = read_training(folder / "full" / "export")
    assert facts["adapted"] == "full"
    for words in (
        f"base model: {folder / 'base'} (2 sessions",
        "mode: full (trunk_factor 0.1)",
        "replay: 50% of each batch from 2 sessions (a1, b1); their rows stayed as they were",
        "steps: autoencoder 4, dynamics 3",
        "| c1 | subject_c | 6 | 27 | 0.1 |",
        "early stop: none",
        "**Little data:** valid split of the new sessions: 7 windows, fewer than 30",
        "**Results on the sessions of the base model may have changed",
    ):
        assert words in cards["full"]
    for words in ("mode: lora (rank 8, alpha 16.0", "early stop: autoencoder stopped at step", "over 7 windows"):
        assert words in cards["straight"]


def test_another_run_may_take_over_only_what_began_as_it_did(work: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = work
    prepared = prepare(tuning(folder, adapt="full"))
    taken = fitted_elsewhere(prepared, folder / "full" / "export", "autoencoder")
    assert torch.equal(taken["to_latent.weight"], load(folder / "full" / "export").autoencoder.to_latent.weight)
    other = prepare(tuning(folder, adapt="rows"))
    with pytest.raises(
        ValueError, match=r"autoencoder.init .*differs from the model's: it was fitted on another model"
    ):
        fitted_elsewhere(other, folder / "full" / "export", "autoencoder")
