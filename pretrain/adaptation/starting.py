"""Where the rows of new sessions start and what holds them: `start_rows`, called when a model is fine-tuned.

Everything depends on the ids of units, not on their order, and on the data alone, so that all ranks do the same.
C units of a session, R units of all new sessions, K columns of a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.registry import regions_of
from neurochorus.data_shards.seeds import seed_number
from neurochorus.models import NeuralModel, UnitStatistics
from neurochorus.models.row_prior import RowPrior
from neurochorus.pretrain.adaptation.aligned_rows import SessionRows, aligned_rows
from neurochorus.pretrain.adaptation.alignment import alignments, scaled_reference
from neurochorus.pretrain.adaptation.known_rows import KnownRows, known_rows, log_rates, row_prior, row_tables
from neurochorus.pretrain.adaptation.rate_prior import RatePrior, dispersion_of
from neurochorus.pretrain.adaptation.session_factors import SessionFactors
from neurochorus.pretrain.adaptation.start_settings import StartSection
from neurochorus.pretrain.training_data import TrainingData

TURNS = 4
"Rotations of a session's factors that are tried."
SCORED_BATCHES = 4


@dataclass(frozen=True)
class StartedSession:
    """What one new session was started from."""

    method: str
    loss: float | None = None
    "Of the model as it is, a bin, on the windows that candidates were compared on; None: nothing was compared."
    tried: dict[str, float] = field(default_factory=dict)
    factors: int = 0
    "Factors of the session that were aligned."

    def facts(self) -> dict[str, Any]:
        tried = {name: round(loss, 5) for name, loss in self.tried.items()}
        return {"method": self.method, "factors": self.factors, "losses": tried}


@dataclass(frozen=True)
class RowStart:
    sessions: dict[str, StartedSession]
    prior: RowPrior | None
    pseudo_spikes: float | None
    "What the prior of rates is worth, times the dispersion of a session; None: rates are shrunk by one spike."

    def facts(self) -> dict[str, Any]:
        """Plain values for the model card."""
        return {
            "sessions": {name: started.facts() for name, started in self.sessions.items()},
            "row_prior": 0.0 if self.prior is None else self.prior.strength,
            "rate_prior_spikes": self.pseudo_spikes,
        }

    def lines(self) -> list[str]:
        """For the screen, a line a session."""
        return [
            f"rows of {name} start {started.method}"
            + ("" if started.loss is None else f" (loss {started.loss:.4g}; {_compared(started)})")
            for name, started in self.sessions.items()
        ]


def _compared(started: StartedSession) -> str:
    return ", ".join(f"{name} {loss:.4g}" for name, loss in started.tried.items())


def start_rows(
    model: NeuralModel, data: TrainingData, start: StartSection, seed: int = 0, window_bins: int | None = None
) -> RowStart:
    """Give the sessions of `data` their rows in the model, and its autoencoder their prior.

    Raises ValueError for sessions that the model knows, and for `aligned` where the model has no reference.
    """
    if start.method == "aligned" and model.reference is None:
        raise ValueError(
            "start.method aligned: the model directory has no reference.safetensors, which pretraining writes since "
            "models can be aligned to: use auto or regions, or pretrain again"
        )
    entries, first_row = data.entries, model.registry.total_rows
    known = known_rows(model)
    regions = [region for entry in entries for region in regions_of(entry) or [""] * len(entry.units)]
    statistics, rates = UnitStatistics.of(entries), None
    prior_mean, pseudo_spikes = statistics.mean, torch.ones(len(regions))
    if start.rate_prior and model.modality == "spikes":
        rates = RatePrior.learned(model.registry, model.autoencoder.unit_mean.cpu().numpy())
        shrunk = [rates.rates(entry, dispersion_of(data.corpus, entry.session_id)) for entry in entries]
        statistics = replace(statistics, mean=_joined([one.rate_C for one in shrunk]))
        prior_mean = _joined([one.prior_C for one in shrunk])
        pseudo_spikes = _joined([np.full(len(one.rate_C), one.worth) for one in shrunk])
    if model.modality != "spikes":
        pseudo_spikes = torch.full((len(regions),), _precision_of_biases(model))
    model.append_sessions(entries, statistics)
    log_rate_R = log_rates(model, statistics.mean)
    starter = _Starter(model, data, start, seed, window_bins, known, first_row)
    started = {entry.session_id: starter.start(entry) for entry in entries}
    prior = None
    if start.row_prior:
        bins_R = np.repeat([float(entry.train_bins) for entry in entries], [len(entry.units) for entry in entries])
        initial_bias = model.autoencoder.observation.initial_bias
        # rows that are not centred on the latents' mean shift the bias at which a unit has its rate
        began_R = model.autoencoder.unit_offsets.weight[first_row:, 0].detach().cpu()
        bias_R = initial_bias(prior_mean.float()) + began_R - initial_bias(statistics.mean.float())
        prior = row_prior(model, known, first_row, log_rate_R, regions, bias_R, pseudo_spikes, bins_R, start.row_prior)
    model.autoencoder.row_prior = prior
    return RowStart(started, prior, None if rates is None else rates.shape)


def _joined(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).float()


def _precision_of_biases(model: NeuralModel) -> float:
    bias = model.autoencoder.unit_offsets.weight[1:, 0].detach()
    return float(1 / bias.var(correction=0).clamp_min(1e-2))


@dataclass
class _Starter:
    model: NeuralModel
    data: TrainingData
    section: StartSection
    seed: int
    window_bins: int | None
    known: dict[str, KnownRows]
    first_row: int
    "Of the new sessions; rows before it are known."

    def __post_init__(self) -> None:
        self.reference = self.model.reference
        self.scaled = None if self.reference is None else scaled_reference(self.reference)

    def start(self, entry: SessionEntry) -> StartedSession:
        """Write the rows of one session."""
        if self.section.method == "random":
            self._write(entry, self._random(entry))
            return StartedSession("random")
        expected, session = self._expected(entry), self.model.registry.session(entry.session_id)
        rows = slice(session.first_row, session.first_row + len(session.unit_ids))
        plain = self._with_rows(rows, expected["read_in"], expected["read_out"])
        self._write(entry, plain, expected)
        if self.section.method == "regions":
            return StartedSession("regions")
        aligned, factors = self._aligned(entry, rows, expected["read_in"])
        made = {f"aligned {place}": one for place, one in enumerate(aligned, start=1)}
        candidates = made if made and self.section.method == "aligned" else {"regions": plain, **made}
        losses: dict[str, float] = {}
        if len(candidates) > 1:
            for name, candidate in candidates.items():
                self._write(entry, candidate)
                losses[name] = self._loss(entry)
        best = min(losses, key=losses.__getitem__) if losses else next(iter(candidates))
        self._write(entry, candidates[best])
        return StartedSession(best, losses.get(best), losses, factors)

    def _random(self, entry: SessionEntry) -> SessionRows:
        own = self.model.autoencoder
        tables, session = row_tables(own), self.model.registry.session(entry.session_id)
        made = {}
        for name in ("read_in", "read_out"):
            spread = tables[name][1 : self.first_row].std(dim=0)
            made[name] = torch.stack([self._draw(entry, unit, name, len(spread)) for unit in session.unit_ids]) * spread
        rows = slice(session.first_row, session.first_row + len(session.unit_ids))
        return self._with_rows(rows, made["read_in"], made["read_out"])

    def _draw(self, entry: SessionEntry, unit: str, table: str, columns: int) -> Tensor:
        """Standard normal numbers that belong to a unit."""
        generator = torch.Generator().manual_seed(seed_number(f"{self.seed}/rows/{table}/{entry.session_id}/{unit}"))
        return torch.randn(columns, generator=generator)

    def _expected(self, entry: SessionEntry) -> dict[str, Tensor]:
        session = self.model.registry.session(entry.session_id)
        rows = slice(session.first_row, session.first_row + len(session.unit_ids))
        regions = regions_of(entry) or [""] * len(entry.units)
        log_rate_C = log_rates(self.model, self.model.autoencoder.unit_mean[rows])
        return {
            name: torch.from_numpy(table.expected(log_rate_C, regions)).float() for name, table in self.known.items()
        }

    def _with_rows(self, rows: slice, read_in_CD: Tensor, read_out_CL: Tensor) -> SessionRows:
        """Rows with the biases that sessions are appended with."""
        own = self.model.autoencoder
        bias_C = own.initial_offsets(own.unit_mean[rows].cpu())[:, 0]
        sessions = len(self.model.registry.sessions) - len(self.data.entries)
        return SessionRows(
            read_in_CD, read_out_CL, bias_C, own.session_bias.weight[1 : 1 + sessions].detach().cpu().mean(dim=0)
        )

    def _aligned(self, entry: SessionEntry, rows: slice, base_CD: Tensor) -> tuple[list[SessionRows], int]:
        if self.reference is None or self.scaled is None:
            return [], 0
        own = self.model.autoencoder
        session = self.model.registry.session(entry.session_id)
        order = torch.tensor(sorted(range(len(session.unit_ids)), key=session.unit_ids.__getitem__))
        batches = (_columns(batch, order) for batch in self._batches(entry, "train"))
        factors = SessionFactors.of(own, batches, len(self.reference.third_KKK))
        if factors is None:
            return [], 0
        mean_C, found = own.unit_mean[rows].cpu()[order], []
        for alignment in alignments(self.scaled, self.reference.trajectory_count_T, factors, TURNS):
            made = aligned_rows(own, self.reference, self.scaled, factors, alignment, mean_C, base_CD[order])
            back = order.argsort()
            found.append(
                SessionRows(made.read_in_CD[back], made.read_out_CL[back], made.bias_C[back], made.session_bias_D)
            )
        return found, factors.loading_CK.shape[1]

    @torch.no_grad()
    def _write(self, entry: SessionEntry, made: SessionRows, expected: dict[str, Tensor] | None = None) -> None:
        own, registry = self.model.autoencoder, self.model.registry
        session = registry.session(entry.session_id)
        rows = slice(session.first_row, session.first_row + len(session.unit_ids))
        own.read_in_rows.weight[rows] = made.read_in_CD
        own.read_out_rows.weight[rows] = made.read_out_CL
        own.unit_offsets.weight[rows, 0] = made.bias_C
        own.session_bias.weight[registry.session_index(entry.session_id)] = made.session_bias_D
        if expected is not None:
            own.unit_offsets.weight[rows, 1] = expected["gain"][:, 0]
            if own.history_rows is not None:
                own.history_rows.weight[rows] = expected["history"]
            if own.earlier_rows is not None:
                own.earlier_rows.weight[rows] = expected["earlier"]

    @torch.no_grad()
    def _loss(self, entry: SessionEntry) -> float:
        """Of the model as it is on the session, a bin, in evaluation mode."""
        # aligned rows were made from the train split, where they would win however little they know
        split = "valid" if len(self.data.corpus.rows_of(entry.session_id, "valid")) else "train"
        total, bins = torch.zeros(()), torch.zeros(())
        for batch in islice(self._batches(entry, split), SCORED_BATCHES):
            loss, count, _ = self.model.autoencoder(batch)
            total, bins = total + loss, bins + count
        return float(total / bins.clamp_min(1)) if bool(torch.isfinite(total)) else float("inf")

    def _batches(self, entry: SessionEntry, split: str) -> Iterator[Batch]:
        registry = self.model.registry
        memory = self.model.config.autoencoder.earlier_memory_bins
        return evaluation_batches(
            self.data.corpus,
            registry,
            split,
            [entry.session_id],
            window_bins=self.window_bins,
            earlier_memory=memory,
        )


def _columns(batch: Batch, order: Tensor) -> Batch:
    """The batch with its units in another order."""
    return replace(
        batch,
        signal_BTC=batch.signal_BTC[..., order],
        unit_rows_BC=batch.unit_rows_BC[:, order],
        earlier_BC=None if batch.earlier_BC is None else batch.earlier_BC[:, order],
    )
