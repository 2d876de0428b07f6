"""The rows of one session: cut out so that they alone can be fitted, and put into a model that shares all the rest.

C units, D width, L latent channels, K history bins.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from neurochorus.data_shards.registry import SessionRows
from neurochorus.models import NeuralModel
from neurochorus.models.autoencoder import Autoencoder

UNIT_TABLES = ("read_in_rows", "read_out_rows", "unit_offsets", "history_rows", "earlier_rows")
SESSION_TABLE = "session_bias"
Module = TypeVar("Module", bound=nn.Module)
Rows = dict[str, Tensor]
"""Table of the autoencoder -> rows of the session: (C, D), (C, L), (C, 3), (C, K), (C, 1), and (1, D) of itself."""


def rows_of(model: NeuralModel, session_id: str) -> Rows:
    """Copies of the session's rows. Raises ValueError for a session that the model does not know."""
    return {
        name: getattr(model.autoencoder, name).weight[place].detach().clone()
        for name, place in _places(model, session_id).items()
    }


def with_rows(model: NeuralModel, session_id: str, rows: Mapping[str, Tensor]) -> NeuralModel:
    """A model with other rows of one session; every other tensor is the given model's own, not a copy.

    Raises ValueError for tables or shapes that are not those of the session.
    """
    places = _places(model, session_id)
    expected = {name: tuple(value.shape) for name, value in rows_of(model, session_id).items()}
    found = {name: tuple(value.shape) for name, value in rows.items()}
    if found != expected:
        raise ValueError(f"session {session_id!r}: rows of shapes {found}; the model's are {expected}")
    own = [getattr(model.autoencoder, name).weight for name in places]
    made = _sharing_all_but(model, own, [model.registry, model.config])
    with torch.no_grad():
        for name, place in places.items():
            getattr(made.autoencoder, name).weight[place] = rows[name].to(model.device)
    return made


def autoencoder_of_session(model: NeuralModel, session_id: str, rows: Mapping[str, Tensor]) -> Autoencoder:
    """An autoencoder of this session alone, its units in rows 1 to C and itself number 1; the trunk is the model's."""
    session, autoencoder = model.registry.session(session_id), model.autoencoder
    tables = [getattr(autoencoder, name) for name in _places(model, session_id)]
    apart = [table.weight for table in tables] + [autoencoder.unit_mean, autoencoder.unit_sd]
    made = _sharing_all_but(autoencoder, apart, [autoencoder.config])
    for name, values in rows.items():
        weight = torch.cat((torch.zeros_like(values[:1]), values)).to(model.device)
        getattr(made, name).weight = nn.Parameter(weight)
    units = torch.arange(session.first_row, session.first_row + len(session.unit_ids), device=model.device)
    with_padding = torch.cat((torch.zeros(1, dtype=torch.long, device=model.device), units))
    made.unit_mean, made.unit_sd = autoencoder.unit_mean[with_padding], autoencoder.unit_sd[with_padding]
    return made


def spread_of_rows(model: NeuralModel) -> Rows:
    """Standard deviation of each column of the tables over all units (sessions) that the model knows, (columns,).

    Of the session table's columns a single session has no spread: there that of its entries stands in.
    """
    spread: Rows = {}
    for name in (*UNIT_TABLES, SESSION_TABLE):
        table = getattr(model.autoencoder, name)
        if table is not None:
            rows = table.weight[1:].detach()
            over = rows.std(dim=0) if len(rows) > 1 else rows.std().expand(rows.shape[1])
            spread[name] = over.nan_to_num(0.0).clamp_min(1e-3)
    return spread


def _places(model: NeuralModel, session_id: str) -> dict[str, slice]:
    session: SessionRows = model.registry.session(session_id)
    index = model.registry.session_index(session_id)
    units = slice(session.first_row, session.first_row + len(session.unit_ids))
    tables = {name: units for name in UNIT_TABLES if getattr(model.autoencoder, name) is not None}
    return {**tables, SESSION_TABLE: slice(index, index + 1)}


def _sharing_all_but(module: Module, apart: Iterable[Tensor], also_shared: Iterable[object]) -> Module:
    """A copy whose tensors are the module's own, except those given, which are copied."""
    copied = {id(tensor) for tensor in apart}
    shared = [*module.parameters(), *module.buffers()]
    memo = {id(one): one for one in (*shared, *also_shared) if id(one) not in copied}
    return copy.deepcopy(module, memo)
