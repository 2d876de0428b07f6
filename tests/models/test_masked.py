"""Masked dynamics: what may have no effect, the sum of the loss, and sampling."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neurochorus.models import DynamicsConfig, HeadsConfig, LatentSequence, TransformerConfig, load, save
from neurochorus.models.backbones import Transformer
from neurochorus.models.dynamics import build_dynamics
from neurochorus.models.dynamics.covariates import CovariateConfig
from neurochorus.models.dynamics.masked import MaskedDynamics
from neurochorus.models.dynamics.unmasking import MaskedConfig, cosine_counts, windows
from neurochorus.models.heads import GaussianHeadConfig, build_head
from tests.models.conftest import small_model


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
        condition = dynamics.condition(LatentSequence.plain(torch.zeros(1, 6, 2)), 6)
        hidden = dynamics.hidden(torch.zeros(1, 6, 2), unknown, None, condition)
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
    with pytest.raises(ValueError, match="14 bins, and learned places of 12"):
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
