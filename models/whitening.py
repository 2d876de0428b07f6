"""Whitening of latents with statistics of the train split, and the spread of their increments.

Whitened latents z = (latent - mean) W have zero mean and unit covariance on the train split:
W = L^-T for the Cholesky factor L of the covariance, so that the inverse is exact.
B batch, T bins, L latent channels.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

LEAST_SCALE = 0.02
"""Of a channel against the first, where channels are scaled by what they matter."""


class Whitening(nn.Module):
    """Affine map to whitened latents and back; `increment_sd` is the spread of one-bin steps there.

    In float32 under autocast too: what dynamics learn from is then what they read in a rollout.
    """

    def __init__(self, latents: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(latents))
        self.register_buffer("matrix", torch.eye(latents))
        self.register_buffer("inverse", torch.eye(latents))
        self.register_buffer("increment_sd", torch.ones(latents))

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    increment_sd: Tensor

    def forward(self, latent_BTL: Tensor) -> Tensor:
        with torch.autocast(latent_BTL.device.type, enabled=False):
            return (latent_BTL.float() - self.mean) @ self.matrix

    def undo(self, white_BTL: Tensor) -> Tensor:
        with torch.autocast(white_BTL.device.type, enabled=False):
            return white_BTL.float() @ self.inverse + self.mean


class LatentMoments:
    """Sums from which the whitening is made; every rank adds its share, `all_reduce` joins them."""

    def __init__(self, latents: int):
        self.count = torch.zeros((), dtype=torch.float64)
        self.sums = torch.zeros(latents, dtype=torch.float64)
        self.products = torch.zeros(latents, latents, dtype=torch.float64)
        self.step_count = torch.zeros((), dtype=torch.float64)
        self.step_products = torch.zeros(latents, latents, dtype=torch.float64)

    def add(self, latent_BTL: Tensor, mask_BT: Tensor, variance_BTL: Tensor | None = None) -> None:
        """Count latents in; with `variance_BTL`, independent draws around them that have that variance."""
        latent_BTL = latent_BTL.detach().double().cpu()
        mask_BT = mask_BT.cpu()
        valid = latent_BTL[mask_BT]
        steps = (latent_BTL[:, 1:] - latent_BTL[:, :-1])[mask_BT[:, 1:] & mask_BT[:, :-1]]
        self.count += len(valid)
        self.sums += valid.sum(dim=0)
        self.products += valid.T @ valid
        self.step_count += len(steps)
        self.step_products += steps.T @ steps
        if variance_BTL is not None:  # of a step both ends vary
            variance_BTL = variance_BTL.detach().double().cpu()
            of_steps = (variance_BTL[:, 1:] + variance_BTL[:, :-1])[mask_BT[:, 1:] & mask_BT[:, :-1]]
            self.products += variance_BTL[mask_BT].sum(dim=0).diag()
            self.step_products += of_steps.sum(dim=0).diag()

    def all_reduce(self, device: torch.device | str) -> None:
        """Add the sums of all ranks; `device` is where the process group communicates."""
        if dist.is_initialized():
            for part in (self.count, self.sums, self.products, self.step_count, self.step_products):
                total = part.to(device)
                dist.all_reduce(total)
                part.copy_(total)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """(L,) and (L, L), float64."""
        mean = self.sums / self.count
        return mean, self.products / self.count - torch.outer(mean, mean)

    def write_into(self, whitening: Whitening, metric_LL: Tensor | None = None) -> None:
        """Set the buffers of `whitening`; with a metric, channels get the scale that it gives them (`scaled_to`).

        Raises ValueError when a latent is constant or there are too few bins.
        """
        latents = len(self.sums)
        if self.count <= latents:
            raise ValueError(f"whitening {latents} latents needs more than {latents} bins, found {int(self.count)}")
        mean, covariance = self.mean_and_covariance()
        # a floor keeps a collapsed latent direction from being blown up to unit variance
        covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(latents, dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not torch.isfinite(factor).all():
            raise ValueError(
                "the latents' covariance is not positive definite: the autoencoder has collapsed "
                "(train it longer, lower its learning rate, or use fewer latents)"
            )
        matrix = torch.linalg.solve_triangular(factor, torch.eye(latents, dtype=torch.float64), upper=False).T
        inverse = factor.T
        if metric_LL is not None:
            turn, scale_L = scaled_to(metric_LL.double().cpu(), factor)
            matrix, inverse = matrix @ turn * scale_L, (turn / scale_L).T @ inverse
        step_variance = (matrix.T @ (self.step_products / self.step_count.clamp_min(1)) @ matrix).diagonal()
        if metric_LL is not None:  # one unit for all, or the steps of channels that matter little would be as large
            step_variance = step_variance.max().expand(latents)
        whitening.mean.copy_(mean)
        whitening.matrix.copy_(matrix)
        whitening.inverse.copy_(inverse)
        whitening.increment_sd.copy_(step_variance.clamp_min(1e-8).sqrt())


def scaled_to(metric_LL: Tensor, factor_LL: Tensor) -> tuple[Tensor, Tensor]:
    """How to turn whitened latents (L, L) and scale the new channels (L,), so that distances are those of a metric.

    `factor_LL` is the Cholesky factor of the latents' covariance, `metric_LL` says what a change x matters: x' M x.
    The new channels are uncorrelated still, and the sd of each is in proportion to how much it matters, 1 for the
    first and at least LEAST_SCALE. Directions that no read-out sees, which whitening blows up to unit variance, stay
    small. Raises ValueError when nothing matters.
    """
    matters, turn = torch.linalg.eigh(factor_LL.T @ metric_LL @ factor_LL)
    matters, turn = matters.flip(0), turn.flip(1)
    if not matters[0] > 0:
        raise ValueError("no unit's read-out depends on the latents: the autoencoder has not learned anything yet")
    return turn, (matters / matters[0]).clamp_min(0).sqrt().clamp_min(LEAST_SCALE)
