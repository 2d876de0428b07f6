"""Sessions of which not all units were recorded again: what is there is scaled up, as in training and in imputation.

Rows of missing units are not used. The encoder should read the others times 1 / share, their share of the session's
expected power, as it does with hidden units in training and in imputation.py. Since it also divides by the root of the
power of all columns that it is given, which here are those at hand, 1 / sqrt(share) is left to do.
B samples, C units at hand.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models.autoencoder import Autoencoder

if TYPE_CHECKING:
    from neurochorus.models.model import NeuralModel


def scale_for_missing_units(registry: UnitRegistry, autoencoder: Autoencoder, batch: Batch) -> Tensor:
    """Factor on what the encoder reads of each sample, (B, 1, 1); 1 for a sample whose units are all there."""
    scale = autoencoder.observation.loss_scale
    rows_BC = batch.unit_rows_BC.expand(len(batch.session_B), -1)
    present_B = scale(autoencoder.unit_mean[rows_BC], rows_BC > 0)
    whole_B = torch.ones_like(present_B)
    for number in batch.session_B.unique().tolist():
        session = registry.sessions[number - 1]
        mean_C = autoencoder.unit_mean[session.first_row : session.first_row + len(session.unit_ids)]
        mask_C = torch.ones_like(mean_C, dtype=torch.bool)
        whole_B[batch.session_B == number] = scale(mean_C[None], mask_C[None])[0]
    return (whole_B / present_B).sqrt()[:, None, None]


def accept_missing_units(model: "NeuralModel", entries: Iterable[SessionEntry]) -> dict[str, int]:
    """Let a model be used on data that lack some units of a session; session -> how many, where any are missing.

    Sessions that the model does not know, and data with units that it does not know, are still refused where they are
    used.
    """
    model.registry = model.registry.with_units_missing()
    known = {session.session_id: len(session.unit_ids) for session in model.registry.sessions}
    missing = {e.session_id: known[e.session_id] - len(e.unit_ids) for e in entries if e.session_id in known}
    return {session_id: count for session_id, count in missing.items() if count > 0}


def missing_units_notes(model: "NeuralModel", missing: Mapping[str, int]) -> Iterator[str]:
    """A line for each session (-> how many units) of which some are missing."""
    for session_id, count in missing.items():
        yield missing_units_note(session_id, count, len(model.registry.session(session_id).unit_ids))


def missing_units_note(session_id: str, missing: int, known: int) -> str:
    """What is said of them."""
    return f"session {session_id}: {missing} of the {known} units that the model knows are not in the data"
