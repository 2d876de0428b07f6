"""The evaluation suite: session by session, then as tables, horizons and paired comparisons for metrics.json."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.baseline_forecasts import memory_of
from neurochorus.pretrain.evaluation.forecaster import usual_values
from neurochorus.pretrain.evaluation.metric_conventions import conventions
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.suite.cosmoothing import cosmoothing
from neurochorus.pretrain.evaluation.suite.decoding import decoding
from neurochorus.pretrain.evaluation.suite.generated_statistics import Heads, generated_statistics
from neurochorus.pretrain.evaluation.suite.horizons import (
    horizon_comparisons,
    horizons_section,
    leads_within,
    up_to_leads,
)
from neurochorus.pretrain.evaluation.suite.paired import comparisons_of
from neurochorus.pretrain.evaluation.suite.psth_table import psth_tables
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SUITES, SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import SuiteTable, TableSpec, Undefined

ALL = "all"
COMPARED = ("poisson_d2", "bits_per_spike_unit_mean", "r2_variance_weighted", "mae")
"Conventions whose rows are compared; the others are variants of these or of the default."


Tables = dict[TableSpec, dict[str, float]]
Measured = tuple[Tables, dict[str, str]]
"Tables of a session, and table -> why it has no value there."


@dataclass(frozen=True)
class ScoredRates:
    """What was predicted for one session, row by row: (N, H, C) of forecasts, (N, T, C) of reconstructions."""

    learned_forecast: Mapping[str, np.ndarray]
    baseline_forecast: Mapping[str, np.ndarray]
    reconstruction: Mapping[str, np.ndarray]

    @property
    def forecast(self) -> dict[str, np.ndarray]:
        return {**self.learned_forecast, **self.baseline_forecast}


class Suite:
    """Parts of the suite measured session by session."""

    def __init__(
        self,
        models: Mapping[str, NeuralModel],
        heads: Heads,
        names: Collection[str] = (),
        settings: SuiteSettings | None = None,
    ):
        """`models`: the evaluated model and those beside it, by row; `heads`: the rows of generated activity; `names`:
        parts of the suite (SUITES, or all). Raises ValueError for an unknown part.
        """
        unknown = sorted(set(names) - {*SUITES, ALL})
        if unknown:
            raise ValueError(f"suite {unknown[0]!r}: expected {', '.join((*SUITES, ALL))}")
        self.models, self.heads = models, heads
        self.names = SUITES if ALL in names else tuple(name for name in SUITES if name in names)
        self.settings = settings or SuiteSettings()
        self._sessions: list[str] = []
        self._tables: dict[str, SuiteTable] = {}
        self._part_of: dict[str, str] = {}
        self._reasons: dict[str, dict[str, str]] = {}
        self._horizons: dict[str, dict[str, list[float]]] = {}
        self._leads: list[int] = []
        self._modality = next(iter(models.values())).modality

    def measure(self, data: SessionData, rates: ScoredRates) -> None:
        """Add one session: the conventions, and the parts of the suite that were asked for."""
        self._sessions.append(data.session_id)
        parts: dict[str, Callable[[], Measured]] = {
            "co_smoothing": lambda: (cosmoothing(data, self.models, self.settings), {}),
            "psth": lambda: (psth_tables(data, self.models, self.settings, rates.learned_forecast), {}),
            "decoding": lambda: decoding(data, self.models, self.settings),
            "statistics": lambda: (generated_statistics(data, self.heads, self.settings), {}),
        }
        self._add(data.session_id, "conventions", lambda: (convention_tables(data, rates, next(iter(self.models))), {}))
        for name, make in parts.items():
            if name in self.names:
                self._add(data.session_id, name, make)
        if "horizons" in self.names:
            self._add_horizons(data, rates)

    def results(self, main_tables: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
        """`tables`, `comparisons`, `suite` and, if asked for, `horizons` of metrics.json.

        `main_tables`: name -> main row and table of the file's own `forecast` and `reconstruction`, to be compared too;
        `better` of a table says lower where less is better.
        """
        tables = list(self._tables.values())
        for table in tables:
            table.notes = {name: self._reason(name, table) for name in self._sessions if name not in table.values}
        seed = self.settings.seed
        made: dict[str, Any] = {"tables": [table.to_json() for table in tables]}
        compared = [_as_suite_table(name, main, content) for name, (main, content) in main_tables.items()] + tables
        comparisons = [entry for table in compared for entry in comparisons_of(table, seed)]
        if self._horizons:
            metric = "bits_per_spike" if self._modality == "spikes" else "r2"
            made["horizons"] = horizons_section(metric, self._leads, self._horizons)
            comparisons += horizon_comparisons(made["horizons"], next(iter(self.models)), seed)
        left_out = {part: reasons for part, reasons in self._reasons.items() if reasons}
        return {**made, "comparisons": comparisons, "suite": {"parts": list(self.names), "left_out": left_out}}

    def _add(self, session: str, part: str, make: Callable[[], Measured]) -> None:
        try:
            made, reasons = make()
        except Undefined as error:
            self._reasons.setdefault(part, {})[session] = str(error)
            return
        for spec, rows in made.items():
            self._tables.setdefault(spec.name, SuiteTable(spec)).values[session] = rows
            self._part_of[spec.name] = part
        for table, reason in reasons.items():
            self._reasons.setdefault(table, {})[session] = reason

    def _add_horizons(self, data: SessionData, rates: ScoredRates) -> None:
        self._leads = leads_within(self.settings.leads_bins, data.forecast.horizon_bins)
        measure = bits_per_spike if data.spikes else r2
        memory = memory_of(self.models.values())
        self._horizons[data.session_id] = up_to_leads(data, rates.learned_forecast, self._leads, measure, memory)

    def _reason(self, session: str, table: SuiteTable) -> str:
        for place in (table.spec.name, self._part_of[table.spec.name]):
            if session in self._reasons.get(place, {}):
                return self._reasons[place][session]
        return "it has nothing of the kind"


def convention_tables(data: SessionData, rates: ScoredRates, main: str) -> Tables:
    """Forecast and reconstruction under the conventions of other repositories."""
    test_NTC, context = data.windows(data.split).signal_NTC, data.forecast.context_bins
    means_C = usual_values(data.corpus.modality, data.windows("train").signal_NTC)
    made: Tables = {}
    for what, signal, rows, first in (
        ("forecast", test_NTC[:, context:], rates.forecast, main),
        ("reconstruction", test_NTC, rates.reconstruction, next(iter(rates.reconstruction))),
    ):
        for convention in conventions(data.corpus.modality):
            spec = TableSpec(
                f"{what}_{convention.name}",
                f"{what}: {convention.name.replace('_', ' ')}",
                convention.name,
                convention.definition,
                convention.better,
                main=first if convention.name in COMPARED else None,
            )
            try:
                made[spec] = {row: convention.score(signal, values, means_C) for row, values in rows.items()}
            except ValueError as error:
                raise Undefined(str(error)) from None
    return made


def _as_suite_table(name: str, main: str, content: Mapping[str, Any]) -> SuiteTable:
    better = content.get("better", "higher")
    table = SuiteTable(TableSpec(name, name, content["metric"], content["definition"], better, main=main))
    for row, found in content["rows"].items():
        for session, value in found["sessions"].items():
            if value is not None:
                table.values.setdefault(session, {})[row] = value
    return table
