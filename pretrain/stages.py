"""What each stage trains, behind one interface: a module whose forward gives the summed loss of a batch.

Stage 1 (`autoencoder`) trains on signals, stage 2 (`dynamics`) on whitened latents of the frozen stage 1; `joint`
goes on with the dynamics under another score.
The frozen encoder is not part of the trained module, so DeepSpeed neither shards nor steps it.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.models import Autoencoder, CausalDynamics, JointPhase, LatentMoments, LatentSequence, NeuralModel
from neurochorus.pretrain.costs.flops import training_flops

StageName = Literal["autoencoder", "dynamics", "joint"]


class Stage(nn.Module):
    """Runs `trained` on what `prepare` makes of a batch, under autocast when `precision` is bf16."""

    def __init__(
        self,
        name: StageName,
        trained: nn.Module,
        prepare: Callable[[Batch], tuple[Any, ...]],
        precision: str,
        burn_in_bins: int = 0,
        frozen: Callable[[], Autoencoder | None] = lambda: None,
    ):
        """`frozen`: gives the autoencoder whose latents are trained on, which is no part of this module."""
        super().__init__()
        self.name: StageName = name
        self.trained = trained
        self.prepare = prepare
        self.precision = precision
        self.burn_in_bins = burn_in_bins
        self.frozen = frozen

    def forward(self, *inputs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss summed over the valid entries, their number, and the parts of the loss."""
        device_type = next(self.trained.buffers()).device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.trained(*inputs)

    def flops(self, bins: int, units: int) -> dict[str, float]:
        """FLOPs a bin of a training step by part, for windows of `bins` bins from a session of `units` units.

        Empty where a part of the weights is not trained, as in fine-tuning.
        """
        if not all(parameter.requires_grad for parameter in self.trained.parameters()):
            return {}
        return training_flops(self.trained, self.frozen(), bins, units)

    def valid_bins(self, batch: Batch) -> Tensor:
        """Number of bins whose loss counts; the loss is normalised by its sum over all ranks."""
        return batch.bin_mask_BT[:, self.burn_in_bins :].sum()


def autoencoder_stage(model: NeuralModel, precision: str) -> Stage:
    """A copy of the model's autoencoder, to be trained."""
    burn_in = model.config.autoencoder.burn_in_bins
    return Stage("autoencoder", copy.deepcopy(model.autoencoder), lambda batch: (batch,), precision, burn_in)


def dynamics_stage(model: NeuralModel, precision: str) -> Stage:
    """A copy of the model's dynamics, to be trained on latents of its frozen autoencoder.

    Of a variational one with `posterior_draws` they are draws, those of the past too: a rollout feeds back what it
    draws, and a step of the latents is then a difference of two draws wherever it is taken.
    """
    draws = model.config.autoencoder.posterior_draws
    encoder = copy.deepcopy(model).eval().requires_grad_(False)
    del encoder.dynamics  # every rank holds the frozen model whole

    def prepare(batch: Batch) -> tuple[LatentSequence]:
        encoder.to(batch.signal_BTC.device)
        device_type = batch.signal_BTC.device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16"):
            if draws:
                drawn_MBTL = encoder.draw_latents(batch, draws)
                return (LatentSequence.of(drawn_MBTL[0], batch, drawn_MBTL),)
            return (LatentSequence.of(encoder.encode(batch), batch),)

    trained = copy.deepcopy(model.dynamics)
    return Stage("dynamics", trained, prepare, precision, frozen=lambda: encoder.autoencoder)


def joint_stage(model: NeuralModel, precision: str) -> Stage:
    """A copy of the model's trained dynamics, to go on under the joint score of whole stretches of a rollout."""
    stage = dynamics_stage(model, precision)
    assert isinstance(stage.trained, CausalDynamics)  # the settings refuse a joint phase of any other
    return Stage("joint", JointPhase(stage.trained), stage.prepare, precision, frozen=stage.frozen)


@torch.no_grad()
def fit_whitening(model: NeuralModel, batches: Any, ranks: Any) -> LatentMoments:
    """Set the model's whitening from latents of `batches`, this rank's share of the train split.

    It whitens what stage 2 predicts: with `posterior_draws` draws of the latents, whose covariance is that of their
    means and the mean variance around them; else the means.
    Must be called on all ranks; all end with the same statistics. Returns moments of the latents as read-outs see them.
    """
    model.eval().to(ranks.device)
    drawn = model.config.autoencoder.posterior_draws > 0
    decoder = model.autoencoder.decoder
    moments = LatentMoments(model.config.autoencoder.latents)
    seen = moments if decoder is None else LatentMoments(model.config.autoencoder.latents)
    for batch in batches:
        batch = batch.to(ranks.device)
        units = model.autoencoder.units(batch.unit_rows_BC)
        posterior = model.autoencoder.posterior(batch.signal_BTC, units, batch.session_B, mask_BT=batch.bin_mask_BT)
        moments.add(posterior.mean_BTL, batch.bin_mask_BT, posterior.variance() if drawn else None)
        if decoder is not None:
            seen.add(decoder(posterior.mean_BTL), batch.bin_mask_BT)
    moments.all_reduce(ranks.device)
    if decoder is not None:
        seen.all_reduce(ranks.device)
    by_read_out = model.config.autoencoder.latent_scale == "read_out"
    moments.write_into(model.whitening, model.autoencoder.read_out_metric() if by_read_out else None)
    model.dynamics.increment_sd.copy_(model.whitening.increment_sd)
    return seen
