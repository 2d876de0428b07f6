"""Batches made of arrays: what a person has in hand when no data set is near.

B batch, T context bins, H horizon bins, C units, K covariate columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from neurochorus.data_shards.batch import Batch, earlier_fields
from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.recording import as_counts, as_signal
from neurochorus.data_shards.registry import SessionRows, UnitRegistry


def context_batch(
    registry: UnitRegistry,
    columns: Mapping[str, int],
    session_id: str,
    signal_BTC: np.ndarray,
    unit_ids: Sequence[str] | None = None,
    covariates: Mapping[str, np.ndarray] | None = None,
    earlier: Earlier | None = None,
) -> Batch:
    """See `NeuralModel.context`; `columns`: of each covariate that the model reads, in the order of a batch."""
    session = registry.session(session_id)
    ids = list(session.unit_ids) if unit_ids is None else list(unit_ids)
    values = np.asarray(signal_BTC)
    if values.ndim != 3 or values.shape[2] != len(ids) or not len(values):
        raise ValueError(
            f"session {session_id!r}: expected an array (batch, bins, {len(ids)} units), found {values.shape}"
        )
    convert = as_counts if session.modality == "spikes" else as_signal
    signal = torch.from_numpy(convert(values, f"session {session_id!r}: the context"))
    refuse_unknown_units(session, ids)
    batch, bins = signal.shape[:2]
    if earlier is not None and earlier.sums_NC.shape != (batch, len(ids)):
        raise ValueError(
            f"session {session_id!r}: earlier activity of shape {earlier.sums_NC.shape}; expected ({batch}, {len(ids)})"
        )
    covariates_BTK = covariate_columns(columns, covariates or {}, batch, bins)
    return Batch(
        signal_BTC=signal,
        unit_rows_BC=torch.tensor([[session.row_of[unit] for unit in ids]]),
        bin_mask_BT=torch.ones(batch, bins, dtype=torch.bool),
        session_B=torch.full((batch,), registry.session_index(session_id)),
        subject_B=torch.full((batch,), registry.subject_index(session.subject_id)),
        covariates_BTK=covariates_BTK.nan_to_num(0.0),
        covariate_mask_BTK=~covariates_BTK.isnan(),
        sample_ids=[f"{session_id}-{row:06d}" for row in range(batch)],
        **earlier_fields(earlier),
        units_missing=len(ids) < len(session.unit_ids),
    )


def refuse_unknown_units(session: SessionRows, ids: Sequence[str]) -> None:
    """Raise ValueError for ids that the session has not, or that are named twice."""
    unknown = [unit for unit in ids if unit not in session.row_of]
    if unknown or len(set(ids)) != len(ids):
        raise ValueError(
            f"session {session.session_id!r}: {len(unknown)} of {len(ids)} unit ids are not in the model "
            f"({', '.join(unknown[:4]) or 'some are named twice'}): give each of the recording's ids once"
        )


def with_covariates_ahead(
    context: Batch, columns: Mapping[str, int], covariates: Mapping[str, np.ndarray], horizon: int
) -> Batch:
    """The context with covariates of the `horizon` bins after it, in the place of those it may hold for them.

    An array may cover fewer bins than the horizon: it is missing in the others. Raises ValueError as `context_batch`.
    """
    batch, bins = context.signal_BTC.shape[:2]
    ahead_BHK = covariate_columns(columns, covariates, batch, 0).to(context.covariates_BTK)[:, :horizon]
    known_BTK = context.covariates_BTK[:, :bins], context.covariate_mask_BTK[:, :bins]
    return replace(
        context,
        covariates_BTK=torch.cat((known_BTK[0], ahead_BHK.nan_to_num(0.0)), dim=1),
        covariate_mask_BTK=torch.cat((known_BTK[1], ~ahead_BHK.isnan()), dim=1),
    )


def covariate_columns(
    columns: Mapping[str, int], covariates: Mapping[str, np.ndarray], batch: int, least_bins: int
) -> torch.Tensor:
    """The arrays (B, bins, d) side by side in the order of `columns`, (B, T, K); NaN where missing or not given.

    T is the longest of them, `least_bins` at least. Raises ValueError for a covariate that is not among `columns`, an
    array of another shape, and values that are infinite.
    """
    for name, values in covariates.items():
        if name not in columns:
            raise ValueError(f"the model reads no covariate {name!r}; {nearest_hint(name, columns, 'covariates')}")
        shape = np.shape(values)
        if len(shape) != 3 or shape[0] != batch or shape[2] != columns[name]:
            raise ValueError(f"covariate {name!r}: expected an array ({batch}, bins, {columns[name]}), found {shape}")
        if np.isinf(values).any():
            raise ValueError(f"covariate {name!r} has infinite values: give NaN where it is missing")
    bins = max([least_bins, *(np.shape(values)[1] for values in covariates.values())])
    joined = np.full((batch, bins, sum(columns.values())), np.nan, dtype=np.float32)
    first = 0
    for name, width in columns.items():
        if name in covariates:
            joined[:, : np.shape(covariates[name])[1], first : first + width] = covariates[name]
        first += width
    return torch.from_numpy(joined)
