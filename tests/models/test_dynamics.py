"""The causal dynamics: patches, increments, noise on the history, condition dropout, guidance, unrolling."""

from dataclasses import replace

import pytest
import torch

from neurochorus.data_shards.settings import parse_settings
from neurochorus.models import CausalDynamics, CovariateConfig, LatentSequence
from neurochorus.models.backbones import GRUConfig
from neurochorus.models.dynamics import DynamicsConfig
from neurochorus.models.dynamics.patches import (
    bins_of_patches,
    from_patches,
    latents_of_increments,
    read_of_patches,
    scaled_increments,
)
from tests.models.conftest import small_model

VARIANTS: dict[str, dict[str, object]] = {
    "transformer": {},
    "window": {"window": 3},
    "gru": {"backbone": "gru", "gru": GRUConfig(width=16, layers=2)},
    "patches": {"patch_bins": 3, "history_scales": [1, 5]},
    "level patches of a gru": {"patch_bins": 2, "backbone": "gru", "target": "level"},
    "places": {"positions": 24, "patch_bins": 2},
    "covariates": {"covariates": {"u": CovariateConfig(known="ahead", lag_bins=2, columns=1)}},
}


def dynamics_of(name: str, **more: object) -> CausalDynamics:
    model = small_model(**{"history_scales": [1, 3], **VARIANTS[name], **more})
    assert isinstance(model.dynamics, CausalDynamics)
    torch.nn.init.uniform_(model.dynamics.increment_sd, 0.5, 2.0)
    for table in (model.dynamics.session_vectors, model.dynamics.subject_vectors):
        table.weight.data[0] = 0.0
    return model.dynamics


def sequence(bins: int, total: int | None = None, dynamics: CausalDynamics | None = None) -> LatentSequence:
    generator = torch.Generator().manual_seed(1)
    made = LatentSequence.plain(torch.randn(3, bins, 4, generator=generator), 2, 2)
    if dynamics is not None and dynamics.covariates is not None:
        values = torch.randn(3, total or bins, 1, generator=generator)
        made = replace(made, covariates_BTK=values, covariate_mask_BTK=torch.ones_like(values, dtype=torch.bool))
    return made


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(3)]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_cached_rollout_equals_feeding_everything_again(name: str, guidance: float) -> None:
    """The first simulated bins, given as context, are continued as in one go; the horizon is longer than a window."""
    dynamics = dynamics_of(name)
    patch, context = dynamics.config.patch_bins, sequence(6, 18, dynamics)
    whole = dynamics.simulate(context, 4 * patch, 1, generators(), guidance=guidance)[:, 0]
    own, known = generators(), context
    for _ in range(4):
        made = dynamics.simulate(known, patch, 1, own, guidance=guidance)[:, 0]
        joined = torch.cat((known.latent_BTL, made), dim=1)
        known = replace(known, latent_BTL=joined, mask_BT=torch.ones(joined.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(known.latent_BTL[:, 6:], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_after_a_patch_changes_its_hidden_state(name: str) -> None:
    dynamics = dynamics_of(name)
    patch, one = dynamics.config.patch_bins, sequence(20, dynamics=dynamics)
    latents = one.latent_BTL.clone()
    latents[:, 12:] += 1.0
    with torch.no_grad():
        before, after = (dynamics.hidden(replace(one, latent_BTL=z)) for z in (one.latent_BTL, latents))
    assert torch.equal(before[:, : 12 // patch + 1], after[:, : 12 // patch + 1])
    assert not torch.equal(before[:, 12 // patch + 1], after[:, 12 // patch + 1])


def test_places_are_learned_up_to_their_number() -> None:
    dynamics, given = dynamics_of("places"), sequence(12)
    with torch.no_grad():
        before_BJD = dynamics.hidden(given)
        dynamics.positions[4] += 1.0
        after_BJD = dynamics.hidden(given)
    assert torch.equal(before_BJD[:, :4], after_BJD[:, :4])
    assert (before_BJD[:, 4] - after_BJD[:, 4]).abs().min(dim=1).values.max() > 0
    with pytest.raises(ValueError, match="a context of 7 bins: with learned places"):
        dynamics.simulate(sequence(7), 2, 1, generators())
    with pytest.raises(ValueError, match="50 bins, and learned places of 48"):
        dynamics.simulate(sequence(12), 38, 1, generators())


def test_a_patch_is_read_with_its_bins_and_the_means_at_its_last_one() -> None:
    latents = torch.randn(2, 8, 4)
    read = read_of_patches(latents, [4, 1], 3)
    assert read.shape == (2, 2, 4 + 3 * 4)
    for token, last in enumerate((2, 5)):
        mean = latents[:, max(0, last - 3) : last + 1].mean(dim=1)
        expected = torch.cat((mean, latents[:, last - 2 : last + 1].flatten(1)), dim=1)
        torch.testing.assert_close(read[:, token], expected)


@pytest.mark.parametrize("patch", [1, 3])
def test_increments_lead_back_to_the_latents(patch: int) -> None:
    latents, sd = torch.randn(2, 9, 4), torch.tensor([0.5, 1.0, 2.0, 0.1])
    steps = scaled_increments(latents, latents, sd, patch)
    previous, made = None, []
    for start in range(0, 9, patch):
        made.append(latents_of_increments(steps[:, start : start + patch], previous, sd))
        previous = made[-1][:, -1]
    torch.testing.assert_close(torch.cat(made, dim=1), latents)


def test_the_first_bin_of_a_patch_starts_from_the_base_and_every_draw_from_itself() -> None:
    base, draws, sd = torch.randn(2, 6, 4), torch.randn(5, 2, 6, 4), torch.ones(4)
    steps = scaled_increments(draws, base, sd, 3)
    torch.testing.assert_close(steps[:, :, 3], draws[:, :, 3] - base[:, 2])
    torch.testing.assert_close(steps[:, :, 4], draws[:, :, 4] - draws[:, :, 3])
    torch.testing.assert_close(steps[:, :, 0], draws[:, :, 0])


def seen_by_the_head(dynamics: CausalDynamics, given: LatentSequence) -> tuple[torch.Tensor, torch.Tensor]:
    """The target of the head in a training step, and what the backbone reads of the latents."""
    seen: list[torch.Tensor] = []
    hooks = [
        dynamics.head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1])),
        dynamics.read.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0])),
    ]
    torch.manual_seed(0)
    dynamics.train()(given)
    for hook in hooks:
        hook.remove()
    return seen[1], seen[0]


@pytest.mark.parametrize("noise", [{"history_noise": 0.5}, {"history_noise": 0.0, "history_dropout": 0.5}])
def test_noise_and_gaps_are_on_what_is_read_only(noise: dict[str, object]) -> None:
    given = sequence(8)
    disturbed = dynamics_of("transformer", history_scales=[1], **noise)
    target, read = seen_by_the_head(disturbed, given)
    torch.testing.assert_close(target, disturbed.scaled_target(given.latent_BTL))
    assert not torch.equal(read, given.latent_BTL[:, :-1])
    clean, plain_read = seen_by_the_head(dynamics_of("transformer", history_scales=[1], history_noise=0.0), given)
    torch.testing.assert_close(clean, target)
    assert torch.equal(plain_read, given.latent_BTL[:, :-1])


def test_a_corrected_increment_leads_from_the_noisy_latent_to_the_true_one() -> None:
    given = sequence(8)
    dynamics = dynamics_of("transformer", history_scales=[1], history_noise=0.5, noise_target="corrected")
    target, read = seen_by_the_head(dynamics, given)
    torch.testing.assert_close(read + target[:, 1:] * dynamics.increment_sd, given.latent_BTL[:, 1:])


def test_spread_noise_has_a_level_of_its_own_in_each_sample() -> None:
    given = LatentSequence.plain(torch.zeros(200, 41, 4))
    dynamics = dynamics_of("transformer", history_scales=[1], history_noise=0.5, noise_spread="uniform")
    _, read = seen_by_the_head(dynamics, given)
    levels = read.flatten(1).std(dim=1)
    assert 0.0 < float(levels.min()) < 0.05
    assert 0.4 < float(levels.max()) < 0.6
    assert float(levels.mean()) == pytest.approx(0.25, abs=0.03)


def test_the_loss_of_patches_adds_up_over_samples_of_any_length() -> None:
    """Cut into micro-batches a batch has the same sum, and its count is that of its valid bins."""
    dynamics = dynamics_of("patches", history_noise=0.0, condition_dropout=0.0).eval()
    given = sequence(10)
    mask = torch.arange(10) < torch.tensor([[10], [7], [2]])
    given = replace(given, mask_BT=mask)
    assert bins_of_patches(mask, 3).sum(dim=1).tolist() == pytest.approx([10.0, 7.0, 0.0])

    def companion_loss(part: LatentSequence) -> tuple[torch.Tensor, int]:
        _, count, parts = dynamics(part)
        return parts["companion"], int(count)

    whole, count = companion_loss(given)
    rows = [
        replace(given, **{name: getattr(given, name)[row : row + 1] for name in vars(given) if name != "targets_MBTL"})
        for row in range(3)
    ]
    torch.testing.assert_close(sum(companion_loss(row)[0] for row in rows), whole)
    assert count == 19
    later = replace(given, latent_BTL=torch.where(mask[..., None], given.latent_BTL, 1e3))
    torch.testing.assert_close(companion_loss(later)[0], whole)
    with pytest.raises(ValueError, match="windows of 2 bins; patch_bins 3 needs at least as many"):
        dynamics(sequence(2))


def test_condition_and_covariates_are_dropped_independently_and_whole() -> None:
    dynamics = dynamics_of("covariates", condition_dropout=0.5).train()
    assert dynamics.covariates is not None
    one = sequence(4, dynamics=dynamics)
    many = {name: value[:1].expand(400, *value.shape[1:]) for name, value in vars(one).items() if value is not None}
    given = replace(one, **many)
    vectors = dynamics.session_vectors(given.session_B) + dynamics.subject_vectors(given.subject_B)
    driven = dynamics.covariates(given, 4)
    torch.manual_seed(0)
    condition = dynamics.condition(given, 4)
    which = torch.zeros(4)
    for number, expected in enumerate((0 * driven, driven, vectors[:, None] + 0 * driven, vectors[:, None] + driven)):
        which[number] = torch.isclose(condition, expected, atol=1e-6).all(dim=-1).all(dim=-1).float().mean()
    assert float(which.sum()) == 1.0
    assert torch.allclose(which, torch.full((4,), 0.25), atol=0.08)


def test_guidance_mixes_hidden_states_and_costs_nothing_at_one() -> None:
    dynamics = dynamics_of("covariates")
    given = sequence(6, 8, dynamics)
    with torch.no_grad():
        own, _ = dynamics.begin(given, 2, 1)
        bare = replace(given, covariate_mask_BTK=torch.zeros_like(given.covariate_mask_BTK))
        without, _ = dynamics.begin(bare, 2, 1)
        guided, _ = dynamics.begin(given, 2, 1, guidance=3.0)
    torch.testing.assert_close(guided, 3.0 * own - 2.0 * without, rtol=1e-4, atol=1e-5)
    rows: list[int] = []
    dynamics.backbone.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    dynamics.simulate(given, 2, 5, torch.Generator().manual_seed(0))
    dynamics.simulate(given, 2, 5, torch.Generator().manual_seed(0), guidance=0.0)
    assert rows == [3, 15, 6, 30]


def test_guidance_without_covariates_is_about_session_and_subject() -> None:
    dynamics = dynamics_of("transformer")
    given = sequence(6)
    unknown = replace(given, session_B=torch.zeros_like(given.session_B), subject_B=torch.zeros_like(given.subject_B))
    draws = [
        dynamics.simulate(given, 3, 2, torch.Generator().manual_seed(0), guidance=0.0),
        dynamics.simulate(unknown, 3, 2, torch.Generator().manual_seed(0)),
    ]
    torch.testing.assert_close(*draws, rtol=1e-4, atol=1e-5)


def test_guidance_leaves_a_session_without_covariates_as_it_is() -> None:
    dynamics = dynamics_of("covariates")
    bare = replace(sequence(6), covariates_BTK=torch.zeros(3, 6, 1), covariate_mask_BTK=torch.zeros(3, 6, 1).bool())
    plain, guided = (dynamics.simulate(bare, 5, 2, torch.Generator().manual_seed(0), guidance=g) for g in (1.0, 4.0))
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_unrolling_is_differentiable(name: str) -> None:
    """Gradients of the third hidden state with respect to the first drawn latents, against one call with all tokens."""
    dynamics = dynamics_of(name)
    patch, given = dynamics.config.patch_bins, sequence(6, 18, dynamics)
    drawn = torch.randn(3, 2 * patch, 4)

    def gradient(step_by_step: bool) -> torch.Tensor:
        x = drawn.clone().requires_grad_()
        if step_by_step:
            hidden, unrolling = dynamics.begin(given, 3 * patch, 1)
            for part in x.split(patch, dim=1):
                hidden = dynamics.advance(unrolling, part)
        else:
            whole = torch.cat((given.latent_BTL, x, torch.zeros(3, patch, 4)), dim=1)
            hidden = dynamics.hidden(replace(given, latent_BTL=whole))[:, -1]
        return torch.autograd.grad(hidden.square().sum() + hidden.sum(), x)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-3, atol=1e-4)


def test_a_context_that_is_no_multiple_of_a_patch_loses_its_oldest_bins() -> None:
    dynamics = dynamics_of("patches")
    given = sequence(8)
    long, cut = (dynamics.simulate(part, 5, 2, torch.Generator().manual_seed(0)) for part in (given, given.since(2)))
    assert long.shape == (3, 2, 5, 4)
    assert torch.equal(long, cut)


def test_several_targets_are_predicted_from_what_is_read() -> None:
    dynamics = dynamics_of("patches", history_noise=0.0)
    given = sequence(6)
    given = replace(given, targets_MBTL=given.latent_BTL + 0.1 * torch.randn(5, 3, 6, 4))
    target, _ = seen_by_the_head(dynamics, given)
    assert target.shape == (5, 3, 2, 12)
    assert given.targets_MBTL is not None
    first = from_patches(target, 3)[:, :, 3] * dynamics.increment_sd + given.latent_BTL[:, 2]
    torch.testing.assert_close(first, given.targets_MBTL[:, :, 3])


def test_settings_that_cannot_work_together_are_refused() -> None:
    def problems(**values: object) -> str:
        with pytest.raises(ValueError, match="problem") as error:
            parse_settings(DynamicsConfig, values, "dynamics")
        return str(error.value)

    assert "set target: level" in problems(order="masked")
    assert "set transformer" in problems(order="diffusion", target="level", backbone="gru")
    assert "noise_target" in problems(noise_target="corrected", target="level")
    assert "patch_bins: expected 1 or more" in problems(patch_bins=0)
    assert "covariates.u.lag_bins: expected 1 or more" in problems(covariates={"u": {"lag_bins": 0}})
    made = parse_settings(DynamicsConfig, {"covariates": {"u": {"known": "ahead"}}}, "dynamics")
    assert made.covariates["u"].columns is None
