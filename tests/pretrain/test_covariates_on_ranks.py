"""Covariates on two ranks, one of which holds a session that lacks them: the same weights as plain PyTorch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neurochorus.data_shards.corpus import Corpus
from neurochorus.models import DynamicsConfig, LatentSequence, TransformerConfig
from neurochorus.models.dynamics import CovariateConfig, build_dynamics
from neurochorus.models.heads import HeadsConfig
from neurochorus.pretrain.covariates import CovariateStatistics
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.stages import Stage
from tests.distributed import run_ranks
from tests.pretrain.test_covariates import ONE_RANK, WIDTHS, make_corpus, train_batches
from tests.pretrain.test_zero_stages import SECTION, STEPS, run_config

LATENTS, BINS = 3, 10
QUIET = DynamicsConfig(
    transformer=TransformerConfig(width=16, blocks=1, heads=2, dropout=0.0),
    covariates={
        "drive": CovariateConfig(known="ahead", lag_bins=2, columns=2),
        "wheel": CovariateConfig(lag_bins=3, columns=1),
    },
    history_noise=0.0,
    condition_dropout=0.0,
    covariate_endings=0.0,
)


def make_stage() -> Stage:
    torch.manual_seed(0)
    dynamics = build_dynamics(QUIET, "gaussian", HeadsConfig(), LATENTS, 2, 1, QUIET.covariate_columns)
    dynamics.set_covariate_statistics(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 2.0, 3.0]))
    return Stage("dynamics", dynamics, lambda batch: (batch,), "fp32")


def make_sequence(rank: int, step: int) -> LatentSequence:
    """Four samples of one session. Session 1 has both covariates with gaps; session 2, which moves on, lacks both."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    session = (rank + step) % 2 + 1
    known = torch.rand(4, BINS, 3, generator=generator) < (0.8 if session == 1 else 0.0)
    mask_BT = torch.ones(4, BINS, dtype=torch.bool)
    mask_BT[:, BINS - 3 * rank :] = False
    return LatentSequence(
        latent_BTL=torch.randn(4, BINS, LATENTS, generator=generator),
        mask_BT=mask_BT,
        session_B=torch.full((4,), session),
        subject_B=torch.ones(4, dtype=torch.long),
        covariates_BTK=torch.randn(4, BINS, 3, generator=generator) * known,
        covariate_mask_BTK=known,
    )


def reference_weights() -> dict[str, Tensor]:
    """Plain PyTorch on the union of both ranks' batches."""
    stage = make_stage()
    optimizer = make_optimizer(parameter_groups(stage, SECTION, 0.25), SECTION)
    for step in range(STEPS):
        results = [stage(make_sequence(rank, step)) for rank in range(2)]
        optimizer.zero_grad()
        (torch.stack([loss for loss, _, _ in results]).sum() / sum(int(count) for _, count, _ in results)).backward()
        nn.utils.clip_grad_norm_(stage.parameters(), 0.5)
        optimizer.step()
    return {name: value.clone() for name, value in stage.state_dict().items()}


def train_under_deepspeed(ranks: Ranks, zero_stage: int) -> dict[str, Tensor]:
    stage = make_stage()
    engine = Engine(stage, run_config(zero_stage, accumulation=1), SECTION, ranks)
    order = GradientOrder(stage, ranks)
    for step in range(STEPS):
        engine.set_learning_rate(SECTION.learning_rate)
        sequence = make_sequence(ranks.rank, step)
        valid = ranks.sum(sequence.mask_BT.sum().double())
        loss, _, _ = engine(sequence)
        engine.backward_and_step(loss * (ranks.world / valid).float())
        order.check(step)
    weights = engine.state_dict()
    engine.close()
    return weights


def on_two_ranks(data: Path) -> tuple[list[tuple[float, str]], CovariateStatistics]:
    """The largest relative error of an update at each ZeRO stage and whose it is, and the statistics of a data set."""
    with process_group() as ranks:
        reference, start = reference_weights(), make_stage().state_dict()
        moved = {name for name in reference if not torch.equal(reference[name], start[name])}
        assert {f"trained.covariates.maps.{number}.weight" for number in (0, 1)} <= moved
        errors = []
        for zero_stage in (0, 1, 2, 3):
            weights = train_under_deepspeed(ranks, zero_stage)
            apart = {n: (weights[n] - reference[n]).norm() / (reference[n] - start[n]).norm() for n in moved}
            worst = max(apart, key=lambda name: apart[name])
            errors.append((float(apart[worst]), worst))
        share = train_batches(Corpus(data), WIDTHS, ranks.rank, ranks.world)
        return errors, CovariateStatistics.of(share, WIDTHS, ranks)


def test_two_ranks_train_like_plain_torch_and_agree_on_the_statistics(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "data")
    (errors, found), (_, other) = run_ranks(on_two_ranks, 2, tmp_path / "data")
    for zero_stage, (error, name) in enumerate(errors):
        assert error < 2e-4, f"ZeRO-{zero_stage}: update of {name} is off by {error:.1e}"
    alone = CovariateStatistics.of(train_batches(corpus, WIDTHS), WIDTHS, ONE_RANK)
    for mine, theirs, one in ((found.mean_K, other.mean_K, alone.mean_K), (found.sd_K, other.sd_K, alone.sd_K)):
        assert torch.equal(mine, theirs)
        assert one.tolist() == pytest.approx(mine.tolist(), rel=1e-6)
