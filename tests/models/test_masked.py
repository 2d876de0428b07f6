"""Masked dynamics: the published schedule, what may have no effect, and closed forms of a Gaussian process.

`ExactDynamics` knows the conditional distributions of a stationary AR(1), so what it draws is wrong only where the
order of drawing is. R rows, T bins, J tokens, U unknown bins.
"""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import scipy.stats
import torch
from torch import Tensor

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models import DynamicsConfig, HeadsConfig, LatentSequence, TransformerConfig, load, save
from neurochorus.models.backbones import Transformer
from neurochorus.models.dynamics import build_dynamics
from neurochorus.models.dynamics.covariates import CovariateConfig
from neurochorus.models.dynamics.masked import MaskedDynamics
from neurochorus.models.dynamics.unmasking import (
    MaskedConfig,
    cosine_counts,
    drawing_steps,
    masking_ratio,
    training_mask,
    windows,
)
from neurochorus.models.heads import GaussianHeadConfig, Generators, Head, build_head
from neurochorus.models.heads.base import normal
from tests.models.conftest import small_model

CPU = torch.device("cpu")
RHO = 0.9


def masked_dynamics(
    head: str = "gaussian", latents: int = 1, seed: int = 0, stimulus: bool = False, **settings: object
) -> MaskedDynamics:
    """Untrained dynamics whose every part has some effect; `settings`: of the dynamics or of `masked`."""
    torch.manual_seed(seed)
    of_masked = {name: settings.pop(name) for name in list(settings) if name in MaskedConfig.__dataclass_fields__}
    heads = HeadsConfig(gaussian=GaussianHeadConfig(rank=1))
    config = DynamicsConfig(
        **{
            "order": "masked",
            "target": "level",
            "masked": MaskedConfig(**of_masked),  # type: ignore[arg-type]
            "history_noise": 0.0,
            "covariates": {"stimulus": CovariateConfig(known="ahead")} if stimulus else {},
            "transformer": TransformerConfig(width=32, blocks=2, heads=2, dropout=0.0),
            **settings,
        }  # type: ignore[arg-type]
    )
    dynamics = build_dynamics(config, head, heads, latents, 2, 2, {"stimulus": 1} if stimulus else None)
    assert isinstance(dynamics, MaskedDynamics)
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return dynamics.eval()


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


def nothing(latents: int = 1, rows: int = 1) -> LatentSequence:
    return LatentSequence.plain(torch.zeros(rows, 0, latents))


def ar1(rows: int, bins: int) -> Tensor:
    """Rows of a stationary AR(1) of variance 1 and lag-1 autocorrelation RHO, (rows, bins, 1)."""
    latent = [torch.randn(rows, 1)]
    for _ in range(bins - 1):
        latent.append(RHO * latent[-1] + math.sqrt(1 - RHO**2) * torch.randn(rows, 1))
    return torch.stack(latent, dim=1)


def ar1_covariance(bins: int) -> Tensor:
    bin_T = torch.arange(bins, dtype=torch.float64)
    return RHO ** (bin_T[:, None] - bin_T).abs()


def moments(latent_RT1: Tensor) -> tuple[float, float]:
    """Variance, and variance of the differences of neighbours: 1 and 2 (1 - RHO) = 0.2 for `ar1`."""
    return float(latent_RT1.var()), float((latent_RT1[:, 1:] - latent_RT1[:, :-1]).var())


def bridge(value_T: Tensor, known_T: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (U,) and covariance (U, U) of the unknown bins of an AR(1) given the known ones."""
    covariance = ar1_covariance(len(value_T))
    weight = covariance[~known_T][:, known_T] @ torch.linalg.inv(covariance[known_T][:, known_T])
    left = covariance[~known_T][:, ~known_T] - weight @ covariance[known_T][:, ~known_T]
    return weight @ value_T[known_T].double(), left


class ExactHead(Head):
    name = "exact"

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        channels = int(math.sqrt(hidden_BD.shape[1]))  # p (p + 1) numbers: a mean and a triangular factor
        mean, factor = hidden_BD.split([channels, channels**2], dim=-1)
        noise = normal(n, len(hidden_BD), channels, generator, hidden_BD) * temperature
        return mean + (factor.unflatten(-1, (channels, channels)) @ noise.unsqueeze(-1)).squeeze(-1)


class ExactDynamics(MaskedDynamics):
    """Its hidden states are the exact conditional mean and Cholesky factor of each token of an AR(1)."""

    def hidden(self, token_BJP: Tensor, known_BJ: Tensor, valid_BJ: Tensor | None, condition_BJD: Tensor) -> Tensor:
        rows, tokens, patch = token_BJP.shape
        known_BT = known_BJ.repeat_interleave(patch, dim=1).double()
        covariance = ar1_covariance(tokens * patch)
        seen = known_BT[:, :, None] * covariance * known_BT[:, None, :] + torch.diag_embed(1 - known_BT)
        gain = torch.linalg.solve(seen, known_BT[:, :, None] * covariance).transpose(1, 2)
        mean_BJP = (gain @ (known_BT.unsqueeze(-1) * token_BJP.double().view(rows, -1, 1))).view(rows, tokens, patch)
        left = covariance - gain @ (known_BT[:, :, None] * covariance)
        blocks = torch.stack([left[:, j : j + patch, j : j + patch] for j in range(0, tokens * patch, patch)], dim=1)
        unknown = (~known_BJ).double()[:, :, None, None]
        factor = torch.linalg.cholesky(blocks * unknown + (1 - unknown) * torch.eye(patch))
        return torch.cat((mean_BJP, factor.flatten(2)), dim=-1).float()


def exact_dynamics(**settings: object) -> ExactDynamics:
    dynamics = masked_dynamics(**settings)  # type: ignore[arg-type]
    dynamics.__class__ = ExactDynamics
    dynamics.head = ExactHead()
    assert isinstance(dynamics, ExactDynamics)
    return dynamics


# --- orders and schedules


def test_the_cosine_schedule_is_the_published_one() -> None:
    """The counts of reference 5b for 140 bins in 32 steps; one token a step when there are fewer tokens than steps."""
    published = [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 4, 6, 5, 6, 6, 6, 6, 6, 6, 7, 6, 7, 7, 7, 7, 6]
    assert cosine_counts(140, 32) == published
    assert cosine_counts(10, 32) == [1] * 10
    assert cosine_counts(24, 24) == [1] * 24
    assert cosine_counts(7, 1) == [7]
    assert cosine_counts(0, 4) == []
    for tokens in (1, 2, 5, 31, 100):
        counts = cosine_counts(tokens, 9)
        assert sum(counts) == tokens
        assert min(counts) >= 1
        assert len(counts) <= 9


def test_the_masking_ratio_is_a_truncated_normal() -> None:
    torch.manual_seed(0)
    ratio = masking_ratio(MaskedConfig(), 50_000, CPU)
    exact = scipy.stats.truncnorm((0.7 - 1.0) / 0.25, 0.0, loc=1.0, scale=0.25)
    assert float(ratio.mean()) == pytest.approx(exact.mean(), abs=0.002)
    assert float(ratio.std()) == pytest.approx(exact.std(), abs=0.002)
    assert 0.7 <= float(ratio.min()) <= float(ratio.max()) <= 1.0
    together = masking_ratio(MaskedConfig(ratio_per="batch"), 64, CPU)
    assert together.shape == (64, 1)
    assert len(together.unique()) == 1
    far = masking_ratio(MaskedConfig(ratio_mean=50.0, ratio_sd=0.1), 5, CPU)
    assert 0.69999 < float(far.min()) <= float(far.max()) <= 1.0


def test_training_hides_valid_tokens_only() -> None:
    torch.manual_seed(0)
    valid = torch.ones(300, 20, dtype=torch.bool)
    valid[100:, 12:] = False
    valid[200:] = False
    hidden = training_mask(MaskedConfig(), valid)
    assert not bool((hidden & ~valid).any())
    assert set(hidden[:100].sum(dim=1).tolist()) == set(range(15, 21))
    assert set(hidden[100:200].sum(dim=1).tolist()) == {9, 10, 11, 12}
    assert float(hidden[:100].float().mean(dim=0).min()) > 0.8  # every place alike


def test_a_known_start_hides_nothing_of_it() -> None:
    torch.manual_seed(0)
    config = MaskedConfig(known_start=1.0, ratio_lowest=1.0)
    hidden = training_mask(config, torch.ones(400, 10, dtype=torch.bool))
    starts = 10 - hidden.sum(dim=1)
    assert set(starts.tolist()) == set(range(10))  # at least one bin is hidden
    assert bool((hidden[:, 1:] | ~hidden[:, :-1]).all())  # once hidden, hidden to the end


@pytest.mark.parametrize("order", ["random", "spread", "left_to_right"])
def test_every_order_draws_each_unknown_token_once(order: str) -> None:
    unknown = torch.rand(6, 21, generator=torch.Generator().manual_seed(0)) < 0.7
    unknown[5] = False
    config = MaskedConfig(order=order, steps=5)  # type: ignore[arg-type]
    steps = drawing_steps(unknown, config, generators(6))
    assert torch.equal(steps >= 0, unknown)
    for row in range(6):
        counts = torch.bincount(steps[row][unknown[row]]).tolist()
        assert counts == cosine_counts(int(unknown[row].sum()), 5)
    alone = drawing_steps(unknown[2:3], config, generators(1, first=2))
    assert torch.equal(alone[0], steps[2])
    if order != "left_to_right":
        assert not torch.equal(steps, drawing_steps(unknown, config, generators(6, first=50)))


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 20, 24, 33, 140])
def test_a_level_has_an_earlier_token_between_any_two(tokens: int) -> None:
    unknown = torch.ones(30, tokens, dtype=torch.bool)
    steps = drawing_steps(unknown, MaskedConfig(order="spread", schedule="levels"), generators(30))
    assert int(steps.max()) == math.ceil(math.log2(tokens))
    for row in steps.tolist():
        for level in set(row):
            places = [place for place, step in enumerate(row) if step == level]
            for left, right in pairwise(places):
                assert min(row[left:right]) < level


def test_windows_cover_everything_and_overlap() -> None:
    assert windows(10, 12, 0.5) == [(0, 10)]
    assert windows(30, 12, 0.5) == [(0, 12), (6, 18), (12, 24), (18, 30)]
    assert windows(25, 12, 0.5) == [(0, 12), (6, 18), (12, 24), (13, 25)]
    assert windows(5, 2, 0.99) == [(0, 2), (1, 3), (2, 4), (3, 5)]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"ratio_lowest": 0.9, "ratio_highest": 0.8}, "ratio_lowest <= ratio_highest"),
        ({"ratio_sd": 0.0}, "ratio_sd: expected a positive number"),
        ({"known_start": 1.0}, r"known_start: expected a number in \[0, 1\)"),
        ({"steps": 0}, "steps: expected 1 or more"),
        ({"schedule": "levels", "order": "random"}, "levels are those of the order spread"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        parse_settings(MaskedConfig, values, "settings")


# --- what may have no effect


@pytest.mark.parametrize("extras", [{}, {"buffer_tokens": 3, "positions": 12}, {"patch_bins": 3}])
def test_values_of_hidden_and_padded_bins_have_no_effect(extras: dict) -> None:
    """Bit-identical hidden states and samples, even when they are not numbers."""
    dynamics = masked_dynamics(latents=2, **extras)
    latent = torch.randn(2, 12, 2)
    known = torch.ones(2, 12, dtype=torch.bool)
    known[0, 3:9] = False
    known[1, 6:9] = False
    sequence = LatentSequence.plain(latent)
    sequence.mask_BT[1, 9:] = False
    spoilt = torch.where((known & sequence.mask_BT).unsqueeze(-1), latent, math.nan)

    def filled(values: Tensor) -> Tensor:
        return dynamics.fill(replace(sequence, latent_BTL=values), known, 2, generators(4))

    before, after = filled(latent), filled(spoilt)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1, :, :9], after[1, :, :9])
    assert torch.equal(after[0, :, :3], latent[:1, :3].expand(2, -1, -1))
    assert bool(after[1, :, 9:].isnan().all())  # padding comes back as given
    shorter = LatentSequence.plain(latent[1:, :9])
    torch.testing.assert_close(dynamics.fill(shorter, known[1:, :9], 2, generators(4)[2:])[0], before[1, :, :9])
    other = torch.where(known.unsqueeze(-1), latent + 0.5, latent)
    assert not torch.allclose(filled(other)[0, :, 3:9], before[0, :, 3:9])


def test_the_loss_reads_hidden_tokens_as_targets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = masked_dynamics(latents=2)
    seen: list[Tensor] = []
    forward = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda *a, **k: seen.append(forward(*a, **k)) or seen[-1])
    hidden = torch.tensor([[False, True, True, False, True]])
    monkeypatch.setattr("neurochorus.models.dynamics.masked.training_mask", lambda *_: hidden)
    latent = torch.randn(1, 5, 2)
    losses = []
    for change in (torch.zeros(5), hidden[0].float(), 1 - hidden[0].float()):
        losses.append(float(dynamics(LatentSequence.plain(latent + 3 * change[:, None]))[0].detach()))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert len(set(losses)) == 3


def test_cutting_a_batch_does_not_change_the_sum_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of several lengths and ratios: the loss of the batch is the sum of those of its rows."""
    dynamics = masked_dynamics(latents=2, patch_bins=2)
    sequence = LatentSequence.plain(torch.randn(4, 14, 2))
    sequence.mask_BT[1, 9:] = False
    sequence.mask_BT[2, 8:] = False
    hidden = torch.tensor([[1, 0, 1, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0], [1] * 7]).bool()
    weights: list[Tensor] = []
    loss_of = dynamics.head.loss
    monkeypatch.setattr(dynamics.head, "loss", lambda *given: weights.append(given[2]) or loss_of(*given))

    def total(rows: slice, bins: int = 14) -> tuple[float, int]:
        monkeypatch.setattr("neurochorus.models.dynamics.masked.training_mask", lambda *_: hidden[rows, : bins // 2])
        part = LatentSequence.plain(sequence.latent_BTL[rows, :bins])
        loss, count, parts = dynamics(replace(part, mask_BT=sequence.mask_BT[rows, :bins]))
        assert float(loss.detach()) == pytest.approx(sum(float(part) for part in parts.values()), rel=1e-6)
        return float(loss.detach()), int(count)

    whole, count = total(slice(0, 4))
    assert weights[0].sum(dim=1).tolist() == [14, 9, 8, 14]  # a sample counts as often as it has valid bins
    assert torch.equal(weights[0] > 0, hidden)
    pieces = [total(slice(0, 1)), total(slice(1, 3)), total(slice(3, 4))]
    assert sum(loss for loss, _ in pieces) == pytest.approx(whole, rel=1e-5)
    assert sum(bins for _, bins in pieces) == count == 14 + 9 + 8 + 14
    assert total(slice(2, 3), bins=8)[0] == pytest.approx(total(slice(2, 3))[0], rel=1e-5)  # nor does padding


@pytest.mark.parametrize("name", ["energy", "flow", "gaussian", "langevin"])
def test_heads_take_weights_for_a_mask(name: str) -> None:
    torch.manual_seed(0)
    head = build_head(name, HeadsConfig(), hidden=4, latents=3)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    hidden, target = torch.randn(2, 5, 4), torch.randn(2, 5, 3)
    weight = torch.tensor([[0.0, 2.5, 0.0, 2.5, 0.0], [0.0, 0.0, 4.0, 0.0, 0.0]])

    def total(weights: Tensor) -> float:
        torch.manual_seed(1)
        return float((head.loss(hidden, target, weights) * weights.sum()).detach())

    apart = 2.5 * total(weight == 2.5) + 4.0 * total(weight == 4.0)
    assert total(weight) == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("name", ["energy", "flow", "gaussian"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """Also where nothing is known of any sample."""
    dynamics = masked_dynamics(name, latents=2, stimulus=True, buffer_tokens=2, positions=8, ratio_lowest=1.0).train()
    sequence = driven(LatentSequence.plain(torch.randn(3, 8, 2)), torch.randn(3, 8))
    loss, count, _ = dynamics(sequence)
    (loss / count).backward()
    assert all(parameter.grad is not None for parameter in dynamics.parameters())
    assert (dynamics.companion is None) == (name == "gaussian")


def test_history_noise_is_for_what_is_read_in_training() -> None:
    dynamics = masked_dynamics(latents=2, history_noise=0.5, condition_dropout=0.0, ratio_lowest=0.5, ratio_highest=0.5)
    sequence = LatentSequence.plain(torch.randn(2, 6, 2))

    def loss(training: bool, seed: int) -> float:
        torch.manual_seed(seed)
        return float(dynamics.train(training)(sequence)[0].detach())

    assert loss(True, 0) != loss(False, 0)
    quiet = masked_dynamics(latents=2, condition_dropout=0.0, ratio_lowest=0.5, ratio_highest=0.5)
    torch.manual_seed(0)
    assert float(quiet.train()(sequence)[0].detach()) == loss(False, 0)


def test_several_target_draws_average_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = masked_dynamics(latents=2, patch_bins=2)
    hidden = torch.tensor([[True, False, True, True]])
    monkeypatch.setattr("neurochorus.models.dynamics.masked.training_mask", lambda *_: hidden)
    sequence = LatentSequence.plain(torch.randn(1, 8, 2))
    targets = torch.randn(3, 1, 8, 2)
    together = dynamics(replace(sequence, targets_MBTL=targets))[0]
    apart = [dynamics(replace(sequence, targets_MBTL=target[None]))[0] for target in targets]
    torch.testing.assert_close(together, torch.stack(apart).mean())


# --- sampling


@pytest.mark.parametrize("settings", [{"order": "random"}, {"schedule": "levels"}, {"patch_bins": 2}])
def test_a_sample_does_not_depend_on_the_batch_around_it(settings: dict) -> None:
    """Rows with different numbers of unknown bins; the order of drawing comes from the row's generator too."""
    dynamics = masked_dynamics("energy", latents=2, steps=3, **settings)
    sequence = LatentSequence.plain(torch.randn(3, 10, 2))
    known = torch.ones(3, 10, dtype=torch.bool)
    known[0, 2:5], known[1], known[2, ::3] = False, False, False
    together = dynamics.fill(sequence, known, 3, generators(9))
    row = replace(LatentSequence.plain(sequence.latent_BTL[1:2]))
    alone = dynamics.fill(row, known[1:2], 2, generators(2, first=3))
    torch.testing.assert_close(alone[0], together[1, :2])
    assert not torch.allclose(together[1, 0], together[1, 1])
    assert dynamics.fill(sequence, known, 2, torch.Generator().manual_seed(0)).shape == (3, 2, 10, 2)


def test_a_rollout_is_a_fill_after_the_context() -> None:
    dynamics = masked_dynamics("energy", latents=2, patch_bins=2)
    context = LatentSequence.plain(torch.randn(2, 7, 2))  # its oldest bin fills no patch
    drawn = dynamics.simulate(context, 5, 3, generators(6))
    whole = torch.cat((context.latent_BTL[:, 1:], torch.zeros(2, 6, 2)), dim=1)
    known = (torch.arange(12) < 6).expand(2, -1)
    assert drawn.shape == (2, 3, 5, 2)
    assert torch.equal(dynamics.fill(LatentSequence.plain(whole), known, 3, generators(6))[:, :, 6:11], drawn)
    assert dynamics.simulate(nothing(2), 5, 1, generators(1)).shape == (1, 1, 5, 2)
    cold = dynamics.simulate(context, 5, 3, generators(6), temperature=0.0)
    torch.testing.assert_close(cold[:, 0], cold[:, 1], rtol=0, atol=1.0)
    companion = dynamics.simulate(context, 5, 3, generators(6), head="gaussian")
    assert not torch.allclose(companion, drawn)


def test_bins_of_a_patch_that_are_known_are_put_back() -> None:
    dynamics = masked_dynamics(latents=2, patch_bins=4)
    latent = torch.randn(1, 10, 2)  # the last patch has two bins only
    known = torch.tensor([[True] * 5 + [False] * 2 + [True] * 3])
    given = latent.clone()
    filled = dynamics.fill(LatentSequence.plain(latent), known, 2, generators(2))
    assert torch.equal(filled[:, :, known[0]], latent[:, known[0]].unsqueeze(1).expand(-1, 2, -1, -1))
    assert not torch.equal(filled[0, 0, ~known[0]], filled[0, 1, ~known[0]])
    assert torch.equal(latent, given)


def driven(sequence: LatentSequence, stimulus_BT: Tensor) -> LatentSequence:
    known = torch.ones(*stimulus_BT.shape, 1, dtype=torch.bool)
    return replace(sequence, covariates_BTK=stimulus_BT.unsqueeze(-1), covariate_mask_BTK=known)


def test_covariates_steer_the_rollout_and_guidance_exaggerates_them() -> None:
    dynamics = masked_dynamics(latents=2, stimulus=True, steps=3)
    with torch.no_grad():
        dynamics.get_submodule("covariates.maps.0").weight.mul_(3)  # type: ignore[union-attr,operator]
    context = LatentSequence.plain(torch.randn(1, 4, 2))

    def mean(stimulus: float, guidance: float = 1.0) -> Tensor:
        values = torch.cat((torch.zeros(1, 4), torch.full((1, 6), stimulus)), dim=1)
        drawn = dynamics.simulate(driven(context, values), 6, 1, generators(1), temperature=0.0, guidance=guidance)
        return drawn[0, 0]

    assert not torch.allclose(mean(1.0), mean(-1.0), atol=1e-3)
    torch.testing.assert_close(mean(1.0, guidance=1.0), mean(1.0))
    torch.testing.assert_close(mean(1.0, guidance=0.0), mean(-1.0, guidance=0.0))  # no condition at all
    effect, stronger = mean(1.0) - mean(-1.0), mean(1.0, guidance=2.0) - mean(-1.0, guidance=2.0)
    assert float(stronger.abs().mean()) > 1.2 * float(effect.abs().mean())


def test_sliding_windows_read_their_own_covariates(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = masked_dynamics(latents=2, stimulus=True, schedule="levels")
    dynamics.longest_window.fill_(6)
    stimulus = driven(nothing(2), torch.randn(1, 14))
    seen: list[Tensor] = []
    hidden = MaskedDynamics.hidden
    monkeypatch.setattr(MaskedDynamics, "hidden", lambda self, *given: seen.append(given[3]) or hidden(self, *given))
    dynamics.simulate(stimulus, 14, 1, generators(1))
    whole = dynamics.condition(stimulus, 14)  # it acts at its own bin only
    expected = {tuple(whole[0, start:stop, 0].tolist()) for start, stop in windows(14, 6, 0.5)}
    assert {tuple(condition[0, :, 0].tolist()) for condition in seen} == expected


def test_guidance_grows_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """EAR's ramp: h = g h_condition + (1 - g) h_unconditional with g = 1 + (3 - 1) * share known after the step."""
    dynamics = masked_dynamics(latents=2, steps=4)
    seen: list[Tensor] = []
    sample = dynamics.head.sample
    monkeypatch.setattr(dynamics.head, "sample", lambda hidden, *rest: seen.append(hidden) or sample(hidden, *rest))
    marks = iter([1.0, 0.0] * 4)  # hidden states of the two streams, so that what arrives at the head is g itself
    monkeypatch.setattr(
        MaskedDynamics, "hidden", lambda self, token, *_: torch.full((*token.shape[:2], 32), next(marks))
    )
    dynamics.simulate(nothing(2), 8, 1, generators(1), guidance=3.0)
    assert cosine_counts(8, 4) == [1, 2, 2, 3]
    assert [float(hidden.mean()) for hidden in seen] == pytest.approx([1 + 2 * share / 8 for share in (1, 3, 5, 8)])


def test_places_can_be_told_apart_by_learned_vectors_or_buffer_tokens() -> None:
    """Without either, a window of which nothing is known is the same at every place."""
    for positions, buffer_tokens in ((0, 0), (6, 0), (0, 2)):
        dynamics = masked_dynamics(latents=2, positions=positions, buffer_tokens=buffer_tokens)
        unknown = torch.zeros(1, 6, dtype=torch.bool)
        hidden = dynamics.hidden(torch.zeros(1, 6, 2), unknown, None, torch.zeros(1, 1, 32))
        assert torch.allclose(hidden[0, 0], hidden[0, 5], atol=1e-5) is (positions + buffer_tokens == 0)


def test_what_goes_past_the_longest_trained_window() -> None:
    dynamics = masked_dynamics(latents=2, patch_bins=2, positions=6)
    assert int(dynamics.longest_window) == 0
    dynamics.train()
    for bins in (8, 12, 10):
        dynamics(LatentSequence.plain(torch.randn(2, bins, 2)))
    dynamics.eval()
    dynamics(LatentSequence.plain(torch.randn(2, 4, 2)))
    assert int(dynamics.longest_window) == 6
    assert dynamics.state_dict()["longest_window"] == 6
    with pytest.raises(ValueError, match="14 bins with their context, and the longest window in training had 12"):
        dynamics.simulate(nothing(2), 14, 1, generators(1))
    with pytest.raises(ValueError, match="must be a multiple of the 2 bins"):
        dynamics.simulate(LatentSequence.plain(torch.zeros(1, 3, 2)), 4, 1, generators(1))
    with pytest.raises(ValueError, match="7 tokens, and learned vectors of 6 places"):
        dynamics(LatentSequence.plain(torch.randn(2, 14, 2)))
    with pytest.raises(ValueError, match="patch_bins 2 needs at least as many"):
        dynamics(LatentSequence.plain(torch.randn(2, 1, 2)))


def test_a_whole_model_in_masked_order(tmp_path: Path, counts: Tensor) -> None:
    model = small_model("energy", order="masked", target="level", masked=MaskedConfig(steps=3))
    context = model.context("b_s1", counts.numpy())
    rollout = model.rollout(context, horizon=4, samples=3, seed=7)
    assert rollout.rates.shape == (3, 3, 4, 8)
    alone = model.context("b_s1", counts[1:2].numpy())
    alone.sample_ids = context.sample_ids[1:2]
    one = model.rollout(alone, horizon=4, samples=2, seed=7)
    torch.testing.assert_close(one.latents[:, 0], rollout.latents[:2, 1], rtol=1e-4, atol=1e-5)
    loaded = load(save(model, tmp_path / "export"))
    assert torch.equal(loaded.rollout(context, horizon=4, samples=3, seed=7).latents, rollout.latents)


# --- closed forms: an AR(1) whose conditional distributions are exact


def test_one_token_at_a_time_is_the_process_and_few_steps_are_not() -> None:
    """The defect of drawing neighbours together, and what mends it: levels of the spread order, and patches."""
    bins, rows = 24, 3000

    def drawn(**settings: object) -> tuple[float, float]:
        dynamics = exact_dynamics(**settings)
        return moments(dynamics.simulate(nothing(), bins, rows, torch.Generator().manual_seed(0))[0])

    for exact in ({"steps": bins, "order": "random"}, {"steps": bins}, {"schedule": "levels"}):
        variance, step = drawn(**exact)
        assert variance == pytest.approx(1.0, abs=0.05)
        assert step == pytest.approx(0.2, abs=0.006)
    random6, spread6, patches6, left6 = (
        drawn(steps=6, **settings)[1]
        for settings in ({"order": "random"}, {}, {"patch_bins": 4}, {"order": "left_to_right"})
    )
    assert patches6 == pytest.approx(0.2, abs=0.006)  # 6 patches of 4 bins in 6 steps
    assert 0.2 < spread6 < 0.24
    assert 0.27 < random6 < 0.33
    assert left6 > 0.5


def test_a_gap_is_filled_with_the_exact_bridge() -> None:
    """Mean and covariance of the bins in a gap, and of bins after a context, given all that is known."""
    torch.manual_seed(0)
    value = ar1(1, 16)
    for known in (torch.arange(16) % 11 < 5, torch.arange(16) < 7):
        mean, covariance = bridge(value[0, :, 0], known)
        for settings in ({"steps": 16, "order": "random"}, {"schedule": "levels"}):
            dynamics = exact_dynamics(**settings)
            filled = dynamics.fill(LatentSequence.plain(value), known[None], 6000, torch.Generator().manual_seed(1))
            unknown = filled[0][:, ~known, 0].double()
            torch.testing.assert_close(unknown.mean(dim=0), mean, rtol=0, atol=0.05)
            torch.testing.assert_close(torch.cov(unknown.T), covariance, rtol=0, atol=0.05)


def test_sliding_windows_go_on_without_a_seam() -> None:
    dynamics = exact_dynamics(steps=16, order="random")
    dynamics.longest_window.fill_(16)
    drawn = dynamics.simulate(nothing(), 50, 3000, torch.Generator().manual_seed(0))[0]
    step_T = (drawn[:, 1:] - drawn[:, :-1]).var(dim=0)
    torch.testing.assert_close(step_T, torch.full_like(step_T, 0.2), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(dim=0), torch.ones_like(drawn[0]), rtol=0, atol=0.12)
    context = torch.full((1, 40, 1), 2.0)
    after = dynamics.simulate(LatentSequence.plain(context), 3, 3000, torch.Generator().manual_seed(0))[0, :, :, 0]
    exact = 2.0 * RHO ** torch.arange(1, 4)
    torch.testing.assert_close(after.mean(dim=0), exact, rtol=0, atol=0.06)


def test_a_trained_model_finds_the_process_and_the_bridge() -> None:
    """Some ten seconds of training; then as above, to the accuracy of so small a model."""
    dynamics = masked_dynamics(ratio_lowest=0.02, ratio_sd=10.0).train()
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=5e-3, betas=(0.9, 0.99))
    steps, bins = 600, 12
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1.0, step / 50) * (1 - step / steps)
        optimizer.zero_grad()
        loss, count, _ = dynamics(LatentSequence.plain(ar1(64, bins)))
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimizer.step()
    dynamics.eval()

    def drawn(**masked: object) -> tuple[float, float]:
        dynamics.config = replace(dynamics.config, masked=MaskedConfig(**masked))  # type: ignore[arg-type]
        return moments(dynamics.simulate(nothing(), bins, 4000, torch.Generator().manual_seed(0))[0])

    assert drawn(steps=3, order="random")[1] > 0.3  # neighbours drawn together: 0.37 where the conditionals are exact
    for masked in ({"schedule": "levels"}, {"steps": bins, "order": "random"}):
        assert drawn(**masked) == (pytest.approx(1.0, abs=0.15), pytest.approx(0.2, abs=0.05))
    value, known = torch.zeros(1, bins, 1), torch.arange(bins) % 8 < 4
    value[0, :4], value[0, 8:] = 1.5, -1.5  # without its right side the gap would stay above 0
    mean, covariance = bridge(value[0, :, 0], known)
    filled = dynamics.fill(LatentSequence.plain(value), known[None], 4000, torch.Generator().manual_seed(1))
    unknown = filled[0][:, ~known, 0].double()
    torch.testing.assert_close(unknown.mean(dim=0), mean, rtol=0, atol=0.25)
    torch.testing.assert_close(unknown.std(dim=0), covariance.diag().sqrt(), rtol=0.2, atol=0)
