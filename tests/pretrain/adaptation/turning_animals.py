"""Animals that share one latent system: a damped turn in a plane and a slow third direction, from a set start."""

from pathlib import Path

import numpy as np
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import AutoencoderConfig, ModelConfig, NeuralModel, TransformerConfig, UnitStatistics
from neurochorus.pretrain.adaptation.reference_pass import fit_reference
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.stages import fit_whitening

ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))
BINS, TRIALS, UNITS = 40, 60, 30
OLD, NEW = ("ant_s1", "bee_s1"), "cat_s1"


def states(generator: np.random.Generator) -> np.ndarray:
    """(trials, bins, 3), of variance about 1."""
    turn, damping = 0.25, 0.97
    step = damping * np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    state = np.tile([1.5, 0.0, -1.2], (TRIALS, 1)) + 0.5 * generator.normal(size=(TRIALS, 3))
    made = np.empty((TRIALS, BINS, 3))
    for number in range(BINS):
        made[:, number] = state
        state = state @ step.T + 0.24 * generator.normal(size=state.shape)
    return made


def animal(name: str, seed: int, order: np.ndarray | None = None) -> Recording:
    """`order` permutes the units; their ids go with them."""
    generator = np.random.default_rng(seed)
    loading = generator.normal(size=(3, UNITS)) * 0.6
    log_rate = np.log(generator.uniform(0.2, 0.5, UNITS)) + states(generator) @ loading
    counts = generator.poisson(np.exp(log_rate)).clip(max=255).astype(np.uint8).reshape(-1, UNITS)
    order = np.arange(UNITS) if order is None else order
    splits = ("train", "train", "train", "test", "valid")
    return Recording(
        session_id=name,
        subject_id=name[:3],
        modality="spikes",
        bin_s=0.01,
        signal_TC=counts[:, order],
        units=[Unit(f"u{unit:02d}", "CA1") for unit in order],
        segments=[Segment(i * BINS, (i + 1) * BINS, splits[i % 5]) for i in range(TRIALS)],
        provenance={},
    )


def write_animals(folder: Path) -> Corpus:
    names = (*OLD, NEW)
    write_dataset([animal(name, 10 + place) for place, name in enumerate(names)], folder, name="turn", sample_bins=BINS)
    return Corpus(folder)


def pretrained(corpus: Corpus, steps: int) -> NeuralModel:
    """A small model of the old animals, stage 1 trained by plain Adam, with its reference."""
    entries = [corpus.session(name) for name in OLD]
    torch.manual_seed(0)
    encoder = TransformerConfig(width=32, blocks=1, heads=2, dropout=0.0)
    settings = AutoencoderConfig(
        latents=4, encoder=encoder, present_weight=1.0, future_weights={5: 1.0, 10: 1.0}, unit_dropout=0.2
    )
    registry = UnitRegistry.from_sessions(entries)
    model = NeuralModel(ModelConfig(autoencoder=settings), registry, UnitStatistics.of(entries))
    batches = list(evaluation_batches(corpus, registry, "train", OLD, batch_size=18))
    optimizer = torch.optim.Adam(model.autoencoder.parameters(), lr=4e-3, betas=(0.9, 0.95))
    model.train()
    for step in range(steps):
        loss, bins, _ = model.autoencoder(batches[step % len(batches)])
        optimizer.zero_grad()
        (loss / bins).backward()
        optimizer.step()
    seen = fit_whitening(model, iter(batches), ONE_RANK)
    mean_L, covariance_LL = seen.mean_and_covariance()
    model.reference = fit_reference(model, iter(batches), ONE_RANK, covariance_LL, mean_L)
    return model.eval()
