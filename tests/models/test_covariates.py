"""Covariates in the dynamics: what is read when, what is missing, and how they come into a rollout."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurochorus.models import CausalDynamics, CovariateConfig, LatentSequence, NeuralModel, load, save
from neurochorus.models.dynamics.covariates import CovariateReader
from tests.models.conftest import small_model

STIMULUS = CovariateConfig(known="ahead", lag_bins=3, columns=2)
RUNNING = CovariateConfig(known="past", lag_bins=2, columns=1)
BOTH = {"stimulus": STIMULUS, "running": RUNNING}


def reader(patch_bins: int = 1) -> CovariateReader:
    torch.manual_seed(0)
    made = CovariateReader(BOTH, {"stimulus": 2, "running": 1}, 4, patch_bins)
    made.set_statistics(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 1.0, 0.5]))
    return made


def sequence(bins: int, batch: int = 2) -> LatentSequence:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(batch, bins, 3, generator=generator)
    known = torch.rand(batch, bins, 3, generator=generator) < 0.7
    plain = LatentSequence.plain(torch.zeros(batch, bins, 4))
    return replace(plain, covariates_BTK=values * known, covariate_mask_BTK=known)


@pytest.mark.parametrize("patch_bins", [1, 3])
def test_drive_is_one_map_a_lag_of_standardised_values_and_masks(patch_bins: int) -> None:
    read, given = reader(patch_bins), sequence(7)
    standard = (given.covariates_BTK - read.mean) / read.sd * given.covariate_mask_BTK
    columns = {"stimulus": slice(0, 2), "running": slice(2, 3)}
    driven = read(given, 7)
    assert driven.shape == (2, 7 // patch_bins, 4)
    for token in range(7 // patch_bins):
        expected = torch.zeros(2, 4)
        for each, (name, config) in zip(read.maps, BOTH.items(), strict=True):
            assert isinstance(each, torch.nn.Linear)
            newest = token * patch_bins + (patch_bins - 1 if config.known == "ahead" else -1)
            window = config.lag_bins + patch_bins - 1
            weight = each.weight.reshape(4, 2, -1, window)  # value or mask, column, lag from the oldest on
            for lag in range(window):
                bin_ = newest - lag
                if bin_ >= 0:
                    values = standard[:, bin_, columns[name]], given.covariate_mask_BTK[:, bin_, columns[name]].float()
                    for part in (0, 1):
                        expected = expected + values[part] @ weight[:, part, :, window - 1 - lag].T
        torch.testing.assert_close(driven[:, token], expected, rtol=1e-4, atol=1e-5)


def test_what_is_missing_adds_nothing_and_touches_the_same_parameters() -> None:
    read, given = reader(), sequence(5)
    nothing = replace(given, covariate_mask_BTK=torch.zeros_like(given.covariate_mask_BTK))
    assert not read(nothing, 5).any()
    loud = replace(given, covariates_BTK=torch.where(given.covariate_mask_BTK, given.covariates_BTK, 1e9))
    assert torch.equal(read(loud, 5), read(given, 5))
    read(nothing, 5).sum().backward()
    assert all(parameter.grad is not None for parameter in read.parameters())
    values, known = given.covariates_BTK[:, :3], given.covariate_mask_BTK[:, :3]
    short = replace(given, covariates_BTK=values, covariate_mask_BTK=known)
    torch.testing.assert_close(read(short, 5)[:, :3], read(given, 3))


def test_in_training_behaviour_ends_at_a_random_bin_and_a_stimulus_goes_on() -> None:
    read, given = reader(), sequence(8, batch=400)
    given = replace(given, covariate_mask_BTK=torch.ones_like(given.covariate_mask_BTK))
    torch.manual_seed(0)
    known = read.with_endings(given, 0.5).covariate_mask_BTK
    assert bool(known[..., :2].all())
    bins = known[..., 2].sum(dim=1)
    assert bool((known[..., 2].long().diff(dim=1) <= 0).all())  # once missing, missing to the end
    share = torch.bincount(bins, minlength=9)[1:] / 400
    assert share[-1].item() == pytest.approx(0.5 + 0.5 / 8, abs=0.08)
    assert share[:-1].max() < 0.12
    assert share[:-1].min() > 0.02
    assert read.with_endings(given, 0.0) is given


def test_statistics_and_columns_that_do_not_fit_are_refused() -> None:
    read = reader()
    with pytest.raises(ValueError, match="statistics of 2 covariate columns; expected 3"):
        read.set_statistics(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="not finite"):
        read.set_statistics(torch.zeros(3), torch.tensor([1.0, float("nan"), 1.0]))
    read.set_statistics(torch.zeros(3), torch.tensor([1.0, 0.0, 2.0]))
    assert read.sd.tolist() == [1.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"0 covariate columns given; this model reads 3 \(stimulus: 2, running: 1\)"):
        read(LatentSequence.plain(torch.zeros(2, 5, 4)), 5)
    with pytest.raises(ValueError, match="covariates running given; the settings name stimulus, running"):
        CovariateReader(BOTH, {"running": 1}, 4, 1)
    with pytest.raises(ValueError, match=r"covariates.u.columns: not given"):
        small_model(covariates={"u": CovariateConfig()})
    with pytest.raises(ValueError, match="these dynamics read no covariates"):
        small_model().dynamics.set_covariate_statistics(torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize("patch_bins", [1, 2])
@pytest.mark.parametrize("backbone", ["transformer", "gru"])
@pytest.mark.parametrize("name", ["stimulus", "running"])
def test_a_covariate_is_not_seen_before_it_may_be(name: str, backbone: str, patch_bins: int) -> None:
    """Hidden states are bit-identical up to the last patch that may not read the changed bin."""
    model = small_model(covariates=BOTH, backbone=backbone, patch_bins=patch_bins)
    assert isinstance(model.dynamics, CausalDynamics)
    given, changed_bin = sequence(12), 6
    covariates = given.covariates_BTK.clone()
    known = torch.ones_like(given.covariate_mask_BTK)
    column = 0 if name == "stimulus" else 2
    covariates[:, changed_bin:, column] += 1.0
    with torch.no_grad():
        before, after = (
            model.dynamics.hidden(replace(given, covariates_BTK=values, covariate_mask_BTK=known))
            for values in (given.covariates_BTK, covariates)
        )
    # a patch sees its own bins of a stimulus, and of behaviour those before it
    unchanged = changed_bin // patch_bins + (0 if name == "stimulus" else 1)
    assert torch.equal(before[:, :unchanged], after[:, :unchanged])
    assert not torch.equal(before[:, unchanged], after[:, unchanged])


def model_and_covariates(**dynamics: Any) -> tuple[NeuralModel, dict[str, np.ndarray]]:
    model = small_model(covariates=BOTH, **dynamics)
    model.dynamics.set_covariate_statistics(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([2.0, 1.0, 0.5]))
    generator = np.random.default_rng(0)
    values = {"stimulus": generator.normal(size=(3, 26, 2)), "running": generator.normal(size=(3, 26, 1))}
    values["stimulus"][0, 22] = np.nan
    return model, values


def test_a_rollout_reads_covariates_over_its_horizon(counts: torch.Tensor) -> None:
    model, values = model_and_covariates()
    past = {name: array[:, :20] for name, array in values.items()}
    ahead = {name: array[:, 20:] for name, array in values.items()}
    whole = model.rollout(model.context("b_s1", counts.numpy(), covariates=values), 6, 3, seed=1).latents
    context = model.context("b_s1", counts.numpy(), covariates=past)
    assert torch.equal(model.rollout(context, 6, 3, seed=1, covariates=ahead).latents, whole)
    longer = model.context("b_s1", counts.numpy(), covariates=values)
    other = {name: array + 1.0 for name, array in ahead.items()}
    assert torch.equal(
        model.rollout(longer, 6, 3, seed=1, covariates=other).latents,
        model.rollout(context, 6, 3, seed=1, covariates=other).latents,
    )
    without = model.rollout(context, 6, 3, seed=1).latents
    assert not torch.equal(without[:, :, :1], whole[:, :, :1])
    nans = {name: np.full_like(array, np.nan) for name, array in ahead.items()}
    assert torch.equal(model.rollout(context, 6, 3, seed=1, covariates=nans).latents, without)
    short = {name: array[:, :2] for name, array in ahead.items()}
    part = model.rollout(context, 6, 3, seed=1, covariates=short).latents
    assert torch.equal(part[:, :, :2], whole[:, :, :2])
    assert not torch.equal(part[:, :, 3:], whole[:, :, 3:])


@pytest.mark.parametrize("dynamics", [{}, {"backbone": "gru"}, {"patch_bins": 3}], ids=str)
def test_generation_from_covariates_alone(counts: torch.Tensor, dynamics: dict[str, object]) -> None:
    """A later stimulus changes only what comes from then on; behaviour only what comes after it."""
    model, values = model_and_covariates(**dynamics)
    nothing = model.context("b_s1", counts[:, :0].numpy())
    driven = model.rollout(nothing, 9, 2, seed=1, covariates=values).latents
    for name, first in (("stimulus", 6), ("running", 7 if dynamics.get("patch_bins") is None else 9)):
        later = {key: array.copy() for key, array in values.items()}
        later[name][:, 6:] += 1.0
        changed = model.rollout(nothing, 9, 2, seed=1, covariates=later).latents
        assert torch.equal(changed[:, :, :first], driven[:, :, :first])
        assert first == 9 or not torch.equal(changed[:, :, first], driven[:, :, first])


@pytest.mark.parametrize("dynamics", [{}, {"patch_bins": 3}, {"backbone": "gru"}], ids=str)
def test_a_sample_with_covariates_does_not_depend_on_the_batch_around_it(
    counts: torch.Tensor, dynamics: dict[str, object]
) -> None:
    model, values = model_and_covariates(**dynamics)
    together = model.context("b_s1", counts.numpy(), covariates=values)
    own = {name: array[1:2] for name, array in values.items()}
    alone = model.context("b_s1", counts[1:2].numpy(), covariates=own)
    alone.sample_ids = together.sample_ids[1:2]
    for guidance in (1.0, 2.5):
        many = model.rollout(together, 6, 3, seed=7, guidance=guidance).latents
        one = model.rollout(alone, 6, 2, seed=7, guidance=guidance).latents
        torch.testing.assert_close(one[:, 0], many[:2, 1], rtol=1e-4, atol=1e-5)


def test_covariates_that_do_not_fit_are_refused(counts: torch.Tensor) -> None:
    model, values = model_and_covariates()
    with pytest.raises(ValueError, match="reads no covariate 'runing'; did you mean 'running'"):
        model.context("b_s1", counts.numpy(), covariates={"runing": values["running"]})
    with pytest.raises(ValueError, match=r"'stimulus': expected an array \(3, bins, 2\), found \(3, 26, 1\)"):
        model.context("b_s1", counts.numpy(), covariates={"stimulus": values["running"]})
    context = model.context("b_s1", counts.numpy())
    with pytest.raises(ValueError, match="'running' has infinite values"):
        model.rollout(context, 2, 1, covariates={"running": np.full((3, 2, 1), np.inf)})
    with pytest.raises(ValueError, match=r"guidance is -1.0; expected 0 or a positive number"):
        model.rollout(context, 2, 1, guidance=-1.0)


@pytest.mark.parametrize("dynamics", [{}, {"patch_bins": 3, "backbone": "gru"}], ids=str)
def test_an_export_keeps_covariates_and_their_scale(
    tmp_path: Path, counts: torch.Tensor, dynamics: dict[str, object]
) -> None:
    model, values = model_and_covariates(**dynamics)
    loaded = load(save(model, tmp_path / "export"))
    here, there = (
        one.rollout(one.context("b_s1", counts.numpy(), covariates=values), 6, 2, guidance=2.0)
        for one in (model, loaded)
    )
    assert torch.equal(here.latents, there.latents)
    assert list(loaded.config.dynamics.covariates) == ["stimulus", "running"]
    card = (tmp_path / "export" / "README.md").read_text()
    assert "- running: 1 columns, read up to the bin before the predicted one, 2 bins back" in card
