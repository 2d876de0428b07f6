"""Augmentations: small changes of the data of a training run, so that a model does not lean on what is accidental.

A step of a batch is a function (batch, generator, step) -> batch; steps are made in the order in which they are listed.
The generator is keyed on (seed, number of the micro-batch's first sample), so that what is drawn depends on neither the
ranks nor the reader processes. Evaluation reads the data as they are.

B samples, T bins, C units.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.seeds import keyed_bits
from neurochorus.data_shards.settings import settings


@settings
class AugmentStep:
    name: Literal["unit_dropout", "bin_jitter", "coordinated_dropout"]
    """unit_dropout: leave whole units out of a micro-batch, input and loss. bin_jitter: move the grid of re-binned bins
    (data.bin_s). coordinated_dropout: hide stretches of single units from the encoder, scored on them alone."""
    share: float = 0.1
    """Of units left out, or of entries hidden: a probability, drawn for each. Not for bin_jitter."""
    span_bins: int = 1
    """Length of the stretches that coordinated_dropout hides."""

    def problems(self) -> list[str]:
        found = [] if 0 < self.share < 1 else [f"share: expected a share between 0 and 1, found {self.share}"]
        return found + ([] if self.span_bins >= 1 else [f"span_bins: expected 1 or more, found {self.span_bins}"])


def generator_for(seed: int, first_sample: int) -> np.random.Generator:
    """Return the generator of the micro-batch that begins with sample `first_sample` of the run."""
    return np.random.Generator(np.random.Philox(key=keyed_bits(seed, "augment", first_sample)))


def augmented(batch: Batch, steps: Sequence[AugmentStep], generator: np.random.Generator) -> Batch:
    """Return the batch after all steps; those of the bin grid have been made when it was read (`shifts`)."""
    for step in steps:
        match step.name:
            case "unit_dropout":
                batch = unit_dropout(batch, generator, step.share)
            case "coordinated_dropout":
                batch = coordinated_dropout(batch, generator, step.share, step.span_bins)
    return batch


def unit_dropout(batch: Batch, generator: np.random.Generator, share: float) -> Batch:
    """Leave each unit out with probability `share`, as if it had not been recorded: its column becomes padding.

    For all samples of a one-session batch alike, for each sample of a mixed one. At least one unit stays. It makes a
    model get along with fewer units and other populations, dynamics included; `model.autoencoder.unit_dropout` is
    something else: it hides units from the encoder and asks it to tell what they did.
    """
    rows_BC = batch.unit_rows_BC
    draws_BC = torch.from_numpy(generator.random(tuple(rows_BC.shape)))
    draws_BC[rows_BC == 0] = -1.0  # padding already
    left_out_BC = draws_BC < share
    left_out_BC.scatter_(1, draws_BC.argmax(dim=1, keepdim=True), False)
    signal_BTC = batch.signal_BTC.masked_fill(left_out_BC.unsqueeze(1), 0)
    return replace(batch, unit_rows_BC=rows_BC.masked_fill(left_out_BC, 0), signal_BTC=signal_BTC)


def coordinated_dropout(batch: Batch, generator: np.random.Generator, share: float, span_bins: int = 1) -> Batch:
    """Mark stretches of `span_bins` bins of single units in `hidden_BTC`, a bin of a unit with probability `share`.

    The autoencoder then hides these entries from its encoder and scores them alone, in place of what its own
    `unit_dropout` and `bin_dropout` would draw (both at once is refused). Those do for spike counts. Use this one with
    span_bins > 1 for signals that are slow against a bin (fluorescence, field potentials), where a single hidden
    bin is told by its neighbours and a model could pass the data through. The dynamics do not look at it.
    """
    batch_size, bins, units = batch.signal_BTC.shape
    # a bin is open when none of the last span_bins bins began a stretch: (1 - start) ** span_bins = 1 - share
    start = 1 - (1 - share) ** (1 / span_bins)
    begins_BTC = torch.from_numpy(generator.random((batch_size, bins + span_bins - 1, units)) < start)
    hidden_BTC = torch.zeros((batch_size, bins, units), dtype=torch.bool)
    for late in range(span_bins):
        hidden_BTC |= begins_BTC[:, late : late + bins]
    return replace(batch, hidden_BTC=hidden_BTC)


def shifts(
    steps: Sequence[AugmentStep], generator: np.random.Generator, slack_N: np.ndarray, factor: int
) -> np.ndarray | int:
    """Return by how many stored bins each window is moved to the right, 0 without a `bin_jitter`.

    bin_jitter: the same spikes fall into other bins, as if the clock that bins are counted on had begun earlier.
    Uniform over the shifts below `factor`, the stored bins in a bin, that leave the window in its sample, where
    slack_N[i] stored bins follow it.
    """
    if factor == 1 or not any(step.name == "bin_jitter" for step in steps):
        return 0
    return (generator.random(len(slack_N)) * np.minimum(slack_N + 1, factor)).astype(np.int64)
