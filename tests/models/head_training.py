"""Training a single head on made targets, for the tests of heads."""

from collections.abc import Callable

import torch
from torch import Tensor

from neurochorus.models.heads import Head

HIDDEN = 4
"""Width of the hidden state of all heads in tests."""

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""tokens -> hidden (1, tokens, HIDDEN) and target (1, tokens, L)."""


def train(head: Head, draw: Draw, steps: int, learning_rate: float = 3e-3, tokens: int = 256) -> None:
    """Adam with a rate that falls to zero, on fresh targets in every step."""
    optimizer = torch.optim.Adam(head.parameters(), lr=learning_rate)
    mask = torch.ones(1, tokens, dtype=torch.bool)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        hidden, target = draw(tokens)
        optimizer.zero_grad()
        head.loss(hidden, target, mask).backward()
        optimizer.step()


def samples_of(head: Head, count: int = 2000, seed: int = 1) -> Tensor:
    """Draws (count, L) given a hidden state of zeros."""
    with torch.no_grad():
        return head.sample(torch.zeros(1, HIDDEN), count, torch.Generator().manual_seed(seed))[:, 0]


def bimodal_step(tokens: int) -> tuple[Tensor, Tensor]:
    """Targets +1 or -1 with sd 0.1, which the hidden state does not tell apart."""
    sign = torch.randint(0, 2, (1, tokens, 1)) * 2 - 1
    return torch.zeros(1, tokens, HIDDEN), sign + 0.1 * torch.randn(1, tokens, 1)


def in_the_middle(samples: Tensor) -> float:
    """Share of draws of the bimodal step that lie further than half way from a mode."""
    return float((samples.abs() < 0.5).float().mean())


def distance_to_quantiles(samples: Tensor, draw: Draw, seed: int = 7) -> float:
    """Mean absolute difference between the sorted samples (S, 1) and as many sorted targets (Wasserstein-1)."""
    torch.manual_seed(seed)
    target = draw(len(samples))[1][0]
    return float((samples.sort(dim=0).values - target.sort(dim=0).values).abs().mean())


def randomise(head: Head, sd: float = 0.3) -> None:
    """Give all weights normal values, those that start at zero too."""
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=sd)
