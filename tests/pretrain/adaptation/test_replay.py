"""Old sessions among the batches of new ones: what is kept, what moves, and that they are forgotten less."""

from pathlib import Path
from typing import Any

import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.loader import training_batches
from neurochorus.models import NeuralModel, save
from neurochorus.pretrain.adaptation.old_rows import restore_old_rows, rows_by_table, tables_of
from neurochorus.pretrain.config import StageSection
from neurochorus.pretrain.finetuning import Prepared, prepare
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from tests.pretrain.adaptation.small_runs import OLD, tuning

REPLAY = {"share": 0.5, "sessions": ["a1", "b1"]}


def train(prepared: Prepared, section: StageSection) -> None:
    """Stage 1 in plain PyTorch, on the batches that a run would read; the model gets the weights."""
    data, run = prepared.data, prepared.run
    part = prepared.stage("autoencoder").trained.train()
    optimizer = make_optimizer(parameter_groups(part, section, 0.25), section)
    for group in optimizer.param_groups:
        group["lr"] = section.learning_rate * group["factor"]
    plan = data.plan(run, "autoencoder")
    batches = training_batches(data.corpus, plan, prepared.model.registry, micro_batch=run.train.micro_batch)
    torch.manual_seed(0)
    for _, batch in zip(range(section.steps), batches, strict=False):
        loss, count, _ = part(batch)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    prepared.model.autoencoder.load_state_dict(part.state_dict())


def batches_of(prepared: Prepared, sessions: tuple[str, ...]) -> list[Batch]:
    return list(evaluation_batches(prepared.data.corpus, prepared.model.registry, "train", sessions))


@torch.no_grad()
def loss_of(model: NeuralModel, batches: list[Batch]) -> float:
    results = [model.autoencoder.eval()(batch) for batch in batches]
    return float(sum(loss for loss, _, _ in results) / sum(count for _, count, _ in results))


def full(base: Path, model: Path, **sections: Any) -> Prepared:
    return prepare(tuning(base, model=str(model), adapt="full", trunk_factor=1.0, **sections))


def test_old_sessions_are_forgotten_less(base: Path, tmp_path: Path) -> None:
    old = tuning(
        base, adapt="full", trunk_factor=1.0, replay={"path": str(base / "data"), "train_rows": True, **REPLAY}
    )
    pretrained = prepare(old)
    train(pretrained, StageSection(steps=150, learning_rate=5e-3))  # a base model that has learned something
    model = prepare(old).model
    before = loss_of(model, batches_of(pretrained, OLD))
    after = loss_of(pretrained.model, batches_of(pretrained, OLD))
    assert after < before - 0.01
    # only its old sessions go on, as those of an export of its own
    save_with_old_rows(pretrained, tmp_path / "learned", base)
    section = StageSection(steps=120, learning_rate=1e-2)
    rises = {}
    for name, replay in (("without", None), ("with", {"path": str(base / "data"), **REPLAY})):
        prepared = full(base, tmp_path / "learned", replay=replay)
        start = loss_of(prepared.model, batches_of(pretrained, OLD))
        train(prepared, section)
        restore_old_rows(prepared.model, prepared.old_state, trunk=False)
        for own, table in tables_of(prepared.model):
            known = prepared.old_state[f"{own}.weight"]
            assert torch.equal(table.weight[: len(known)], known), own
        rises[name] = loss_of(prepared.model, batches_of(pretrained, OLD)) - start
    assert rises["without"] > 0
    assert rises["with"] < 0.5 * rises["without"]


def save_with_old_rows(prepared: Prepared, path: Path, base: Path) -> None:
    """Export what was learned of the old sessions alone."""
    original = prepare(tuning(base)).old_state
    model = prepared.model
    sizes = {name: len(value) for name, value in original.items() if value.ndim}
    kept = {name: value[: sizes[name]] if value.ndim else value for name, value in model.state_dict().items()}
    first = NeuralModel(model.config, type(model.registry)(model.registry.sessions[: len(OLD)]))
    first.load_state_dict(kept)
    save(first, path, {"sessions": list(OLD)})


def test_old_rows_are_read_as_they_were_even_if_they_decay(base: Path) -> None:
    """Weight decay reaches them in the optimizer; with replay they must not act otherwise for it."""
    prepared = full(base, base / "base", replay={"path": str(base / "data"), **REPLAY})
    table = dict(tables_of(prepared.stage("autoencoder").trained))["read_in_rows"]
    rows = torch.tensor([1, 5, 13, 14, 16])
    before = table(rows)
    with torch.no_grad():
        table.weight.mul_(0.5)
    torch.testing.assert_close(table(rows), torch.cat((before[:3], 0.5 * before[3:])), rtol=0, atol=0)
    table(rows).sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    assert (gradient[:14] == 0).all()
    assert (gradient[[14, 16]] == 1).all()


def test_rows_of_replayed_sessions_alone_may_keep_what_they_learned(base: Path) -> None:
    section = {"path": str(base / "data"), "share": 0.5, "sessions": ["b1"], "train_rows": True}
    prepared = prepare(tuning(base, replay=section))
    model = prepared.model
    train(prepared, StageSection(steps=4, learning_rate=1e-2, table_weight_decay=0.1))
    assert rows_by_table(model.registry, ["b1"], prepared.known) == {
        "unit": list(range(6, 14)),
        "session": [2],
        "subject": [2],
    }
    restore_old_rows(model, prepared.old_state, True, ["b1"], prepared.known)
    for name, value in model.autoencoder.state_dict().items():
        old = prepared.old_state[f"autoencoder.{name}"]
        changed = [row for row in range(len(old)) if not torch.equal(value[row], old[row])] if value.ndim > 1 else []
        expected = {"read_in_rows.weight": range(6, 14), "session_bias.weight": [2]}
        if name in expected:
            assert changed == list(expected[name]), name
        elif name.startswith(("encoder", "to_latent")):
            assert torch.equal(value, old), name
