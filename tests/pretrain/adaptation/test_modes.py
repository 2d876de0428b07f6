"""What moves in each mode, how fast and from when on; and that nothing changes before the first step."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neurochorus.data_shards.settings import SettingsError
from neurochorus.models import NeuralModel, save
from neurochorus.pretrain.adaptation.low_rank import LoraSection, add_low_rank, merged, refuse_idle_targets
from neurochorus.pretrain.adaptation.old_rows import tables_of
from neurochorus.pretrain.adaptation.preview import preview
from neurochorus.pretrain.adaptation.unfreezing import UnfreezeSection, beginnings, depths
from neurochorus.pretrain.config import StageSection
from neurochorus.pretrain.finetuning import fitted_elsewhere, prepare
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from tests.models.conftest import small_model
from tests.pretrain.adaptation.small_runs import tuning

ALL = LoraSection(rank=2, alpha=3.0, targets=["attention", "mlp", "latent", "read", "head"])


def outputs(model: NeuralModel, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    context = model.context("b_s1", counts.numpy())
    return model.encode(context), model.rollout(context, 3, 2).rates


@pytest.fixture
def counts() -> torch.Tensor:
    return torch.poisson(torch.full((3, 20, 8), 0.5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["energy", "flow"])
def test_low_rank_updates_begin_as_nothing_and_merge_into_the_weights(head: str, counts: torch.Tensor) -> None:
    model = small_model(head)
    plain = outputs(model, counts)
    wrapped = copy.deepcopy(model)
    names = {part: add_low_rank(getattr(wrapped, part), part, ALL, 0.1, seed=0) for part in ("autoencoder", "dynamics")}
    assert "to_latent" in names["autoencoder"]
    assert "transformer.blocks.1.attention.output" in names["dynamics"]
    assert all(torch.equal(one, other) for one, other in zip(plain, outputs(wrapped, counts), strict=True))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if name.endswith("low_rank_up"):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    moved = outputs(copy.deepcopy(wrapped), counts)
    assert not torch.allclose(moved[0], plain[0], atol=1e-3)
    for part in ("autoencoder", "dynamics"):
        own = getattr(model, part)
        own.load_state_dict(merged(getattr(wrapped, part).state_dict(), ALL.alpha / ALL.rank))
    for one, other in zip(moved, outputs(model, counts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_targets_without_a_layer_are_refused(base: Path) -> None:
    with pytest.raises(ValueError, match=r"no linear layer of 'dynamics.attention'; it has: read, head"):
        refuse_idle_targets(small_model(backbone="gru"), LoraSection(targets=["dynamics.attention"]))
    with pytest.raises(SettingsError, match=r"lora.targets: no 'attenton'; did you mean 'attention'"):
        tuning(base, lora={"targets": ["attenton"]})


@pytest.mark.parametrize("options", [{}, {"backbone": "gru"}, {"order": "masked", "target": "level"}])
def test_depth_counts_from_the_output(options: dict[str, str]) -> None:
    groups = depths(small_model(**options).dynamics)  # type: ignore[arg-type]
    block = {1: "layers.weight_hh_l{}", 2: "blocks.{}.expand.weight"}[1 if "backbone" in options else 2]
    name = f"{options.get('backbone', 'transformer')}.{block}"
    chosen = ("head.output.output.weight", name.format(1), name.format(0), "read.weight")
    assert [groups[one] for one in chosen] == [0, 1, 2, 3]
    shares = beginnings(small_model(**options).dynamics, UnfreezeSection(last=0.6))  # type: ignore[arg-type]
    assert [shares[one] for one in chosen] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    shares = beginnings(small_model(**options).dynamics, UnfreezeSection(begins=[0.0, 0.5]))  # type: ignore[arg-type]
    assert [shares[one] for one in chosen] == [0.0, 0.5, None, None]


@pytest.mark.parametrize(("adapt", "moves"), [("rows", False), ("lora", False), ("unfreeze", True), ("full", True)])
def test_what_moves_and_how_fast(base: Path, adapt: str, moves: bool) -> None:
    config = tuning(base, adapt=adapt, trunk_factor=0.2, read_in_factor=0.3, unfreeze={"begins": [0.0, 0.25]})
    prepared = prepare(config)
    for name in ("autoencoder", "dynamics"):
        part = prepared.stage(name).trained
        tables = {id(table.weight): table for _, table in tables_of(part)}
        groups = parameter_groups(part, StageSection(steps=1), 0.25)
        of = {id(parameter): group for group in groups for parameter in group["params"]}
        for own, parameter in part.named_parameters():
            group = of.get(id(parameter))
            if id(parameter) in tables:
                assert group is not None
                assert (group["factor"], group["begins"]) == (0.3 if own.startswith("read_in") else 1.0, 0.0)
                assert tables[id(parameter)].frozen_rows == len(parameter) - (
                    6 if "_rows" in own or "offs" in own else 1
                )
            elif "low_rank" in own:
                assert group is not None
                assert group["factor"] == 0.2
            elif not moves:
                assert group is None, own
            elif adapt == "full":
                assert group is not None
                assert group["factor"] == pytest.approx(0.2 * (0.25 if own.startswith("head.") else 1.0))
            else:
                depth = depths(part)[own]
                assert (None if group is None else group["begins"]) == {0: 0.0, 1: 0.25}.get(depth), own


def test_passes_bound_the_steps_by_the_data(base: Path) -> None:
    steps: dict[str, Any] = {"autoencoder": {"steps": 1000}, "dynamics": {"steps": 3}}
    whole = preview(tuning(base, **steps))
    windows = whole.sessions[0].train_windows
    assert whole.steps == {"autoencoder": 1000, "dynamics": 3}
    bounded = preview(tuning(base, passes=5, **steps)).steps  # batches of 8
    assert bounded == {"autoencoder": -(-5 * windows // 8), "dynamics": 3}
    assert preview(tuning(base, passes=0.001, **steps)).steps == {"autoencoder": 1, "dynamics": 1}
    section = prepare(tuning(base, passes=5, **steps)).run.autoencoder  # what the learning rate falls over
    assert section.steps == bounded["autoencoder"]


def test_windows_are_as_long_as_in_the_training_of_the_model(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "base", tmp_path / "base")
    card = json.loads((tmp_path / "base" / "config.json").read_text())
    card["training"]["window_bins"] = 4
    (tmp_path / "base" / "config.json").write_text(json.dumps(card))

    def windows(model: Path, window_bins: int | None) -> int:
        config = replace(tuning(base), model=str(model))
        return preview(replace(config, data=replace(config.data, window_bins=window_bins))).sessions[0].train_windows

    as_given = {bins: windows(base / "base", bins) for bins in (4, 6, None)}
    assert as_given[4] > as_given[6] > as_given[None]  # None: the model had whole samples, of 12 bins
    assert windows(tmp_path / "base", None) == as_given[4]
    assert windows(tmp_path / "base", 6) == as_given[6]


def test_a_group_that_has_not_begun_stays_to_the_bit_whatever_the_decay(base: Path) -> None:
    prepared = prepare(tuning(base, adapt="unfreeze", unfreeze={"begins": [0.0, 0.5, 0.5]}))
    part = prepared.stage("autoencoder").trained
    section = StageSection(steps=4, learning_rate=0.01, weight_decay=0.5)
    groups = parameter_groups(part, section, 0.25)
    optimizer = make_optimizer(groups, section)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["factor"] if group["begins"] == 0 else 0.0
    for parameter in part.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = part.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "to_latent.weight" in moved
    assert not any("blocks" in name for name in moved)


def test_the_preview_counts_what_moves(base: Path) -> None:
    rows = preview(tuning(base))
    width, latents, units = 16, 3, 6
    assert sum(g.parameters for g in rows.groups["autoencoder"]) == units * (width + latents + 3) + width
    assert sum(g.parameters for g in rows.groups["dynamics"]) == 2 * width
    low_rank = preview(tuning(base, adapt="lora", lora={"rank": 2, "targets": ["autoencoder.mlp"]}))
    more = sum(g.parameters for g in low_rank.groups["autoencoder"]) - sum(
        g.parameters for g in rows.groups["autoencoder"]
    )
    assert more == 2 * 2 * 2 * (width + 4 * width)  # blocks, expand and contract, rank
    full = preview(tuning(base, adapt="full"))
    for stage, frozen in full.frozen.items():
        known = {"autoencoder": 14 * (width + latents + 3) + 3 * width, "dynamics": 3 * width + 3 * width}[stage]
        assert frozen == known
    (session,) = full.sessions
    assert (session.session_id, session.units) == ("c1", 6)


def test_a_fit_of_rows_that_is_taken_over_brings_its_rates_along(base: Path, tmp_path: Path) -> None:
    """Rates of new units are shrunk as the fit was told to, so that another head's fine-tuning does not know them."""
    fitted = prepare(tuning(base)).model
    fitted.autoencoder.row_prior = None
    save(fitted, tmp_path / "fitted")
    other = prepare(tuning(base, autoencoder={"init": str(tmp_path / "fitted")}))
    assert not torch.equal(other.model.autoencoder.unit_mean, fitted.autoencoder.unit_mean)
    taken = fitted_elsewhere(other, tmp_path / "fitted", "autoencoder")
    assert torch.equal(taken["unit_mean"], fitted.autoencoder.unit_mean)
    fitted.autoencoder.unit_mean[1] += 1  # of a unit that the model knew before
    save(fitted, tmp_path / "fitted")
    with pytest.raises(ValueError, match=r"'unit_mean' differs from the model's: it was fitted on another model"):
        fitted_elsewhere(other, tmp_path / "fitted", "autoencoder")
