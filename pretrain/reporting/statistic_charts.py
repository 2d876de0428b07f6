"""Charts of generated statistics against recorded ones, with what another half of the recorded trials gives.

See comparison_panels.py, whose panels these are, and held_out_comparison.py for the halves.
"""

from collections.abc import Callable

import numpy as np

from neurochorus.pretrain.evaluation.comparison_panels import (
    MOST_POINTS,
    count_edges,
    padded_limits,
    pair_correlations,
    statistic_sides,
    unit_sd,
)
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.held_out_comparison import (
    FEWEST_TRIALS,
    autocorrelation,
    autocorrelation_lags,
    disjoint_halves,
    fano_factors,
)
from neurochorus.pretrain.evaluation.picture_style import head_colour
from neurochorus.pretrain.evaluation.pictures import population_activity
from neurochorus.pretrain.evaluation.population_statistics import mean_rates
from neurochorus.pretrain.evaluation.trial_statistics import power_spectra
from neurochorus.pretrain.reporting.charts import (
    FLOOR,
    INK,
    Key,
    Panel,
    Plot,
    Trace,
    band,
    chart_group,
    diagonal,
    level,
    line,
    plain,
    points,
)
from neurochorus.pretrain.reporting.trial_charts import TIME

FEWEST_BINS_FOR_SPECTRUM = 16
UNSMOOTHED = 1e-6
"Smoothing in bins that lets every frequency through."
GENERATED, RECORDED, HALF = "generated", "recorded", "another half of the recorded trials"
Statistic = Callable[[np.ndarray], np.ndarray]


def statistic_charts(trials: GeneratedTrials) -> str:
    """All charts of the statistics of one file."""
    colour = head_colour(trials.head)
    if trials.spikes:
        per_unit: list[tuple[str, str, Statistic]] = [
            ("mean rate", "spikes/s", lambda counts: mean_rates(counts, trials.bin_s)),
            ("correlations of pairs of units", "", pair_correlations),
            ("Fano factor", "", fano_factors),
        ]
    else:
        per_unit = [
            ("mean", "signal units", lambda values: mean_rates(values, 1.0)),
            ("correlations of pairs of units", "", pair_correlations),
            ("standard deviation", "signal units", unit_sd),
        ]
    panels = [_per_unit(trials, *one) for one in per_unit]
    panels += [_distribution(trials), _autocorrelation(trials), _spectrum(trials), _trial_average(trials)]
    legend = [Key(GENERATED, colour), Key(RECORDED, INK), Key(HALF, FLOOR)]
    return chart_group([panel for panel in panels if panel is not None], legend, least_width=270)


def _per_unit(trials: GeneratedTrials, name: str, unit: str, statistic: Statistic) -> Panel:
    """Generated against recorded values of a statistic, or their histogram where nothing was recorded."""
    colour = head_colour(trials.head)
    suffix = f" ({unit})" if unit else ""
    if trials.held_out_BHC is None:
        values = statistic(trials.counts_SBHC[0])
        traces = _histogram(GENERATED, values[np.isfinite(values)], None, colour)
        return plain(name, f"{name} of generated trials", Plot(traces, {"xaxis": {"title": f"{name}{suffix}"}}))
    across, generated, other = statistic_sides(trials, statistic)
    texts: list[str] | None = None
    if len(across) == trials.units:
        texts = list(trials.unit_ids) or [f"unit {place + 1}" for place in range(trials.units)]
    defined = np.flatnonzero(np.isfinite(across + generated))
    drawn = np.sort(np.random.default_rng(0).permutation(defined)[:MOST_POINTS])
    size = 6 if len(drawn) <= 300 else 3.5
    sets = [] if other is None else [(HALF, other, FLOOR, 0.8)]
    traces: list[Trace] = []
    for title, up, tint, opacity in [*sets, (GENERATED, generated, colour, 0.6)]:
        more = {} if texts is None else {"texts": [texts[place] for place in drawn]}
        template = "%{x:.3~g}, %{y:.3~g}" if texts is None else "%{text}: %{x:.3~g}, %{y:.3~g}"
        traces += points(title, across[drawn], up[drawn], tint, size, opacity, hovertemplate=template, **more)
    shown = np.concatenate([across[drawn], generated[drawn]])
    low, high = padded_limits(shown)
    layout = {
        "xaxis": {"title": f"recorded{suffix}", "range": [low, high]},
        "yaxis": {"title": f"generated{suffix}", "range": [low, high]},
    }
    if traces:
        traces.insert(0, diagonal(low, high))
    return plain(name, f"{name}, generated against recorded", Plot(traces, layout))


def _distribution(trials: GeneratedTrials) -> Panel:
    reduce = np.sum if trials.spikes else np.mean
    generated = reduce(trials.counts_SBHC[0], axis=2, dtype=float).ravel()
    known = trials.held_out_BHC
    recorded = None if known is None else reduce(known, axis=2, dtype=float).ravel()
    edges = np.array(
        count_edges(generated if recorded is None else np.concatenate([recorded, generated]), trials.spikes)
    )
    traces = _histogram(GENERATED, generated, edges, head_colour(trials.head))
    if recorded is not None:
        traces += _histogram(RECORDED, recorded, edges, INK)
    title = "population count" if trials.spikes else "population mean"
    across = "spikes per bin, all units" if trials.spikes else "mean over units (signal units)"
    axes = {"xaxis": {"title": across}, "yaxis": {"title": "probability density", "rangemode": "tozero"}}
    return plain(title, f"Distribution of the {title}", Plot(traces, axes))


def _histogram(name: str, values: np.ndarray, edges: np.ndarray | None, colour: str) -> list[Trace]:
    if not len(values):
        return []
    density, edges = np.histogram(values, bins=30 if edges is None else edges, density=True)
    x, y = np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(density, 2), [0.0]])
    filled = [] if colour == INK else band(name, np.zeros(len(x)), y, colour, x, 0.25)
    return filled + line(name, y, colour, x, width=1.5)


def _autocorrelation(trials: GeneratedTrials) -> Panel:
    lags = autocorrelation_lags(trials.horizon_bins)
    traces = _sets(trials, lambda values: autocorrelation(values, lags), (0.0, 1e3 * trials.bin_s))
    layout = {"xaxis": {"title": "lag (ms)"}, "shapes": [level(0.0)], "hovermode": "x"}
    title = "population autocorrelation"
    return plain(title, f"{title} of generated and recorded trials", Plot(traces, layout))


def _spectrum(trials: GeneratedTrials) -> Panel | None:
    """Power of the population activity by frequency; None for a horizon too short for one."""
    if trials.horizon_bins < FEWEST_BINS_FOR_SPECTRUM:
        return None

    def density(values: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):  # a population that never varies has no power
            return 10 * power_spectra(population_activity(trials, values)[..., None], trials.bin_s, UNSMOOTHED)[:, 0]

    first = 1 / (trials.horizon_bins * trials.bin_s)
    traces = _sets(trials, density, (first, first))
    marks = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]
    x = {"title": "frequency (Hz)", "type": "log", "tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}
    layout = {"xaxis": x, "yaxis": {"title": "power (dB)"}, "hovermode": "x"}
    title = "population power spectrum"
    return plain(title, f"{title} of generated and recorded trials", Plot(traces, layout))


def _sets(trials: GeneratedTrials, curve: Statistic, x: tuple[float, float]) -> list[Trace]:
    """A curve of the recorded trials, of two halves of them, and of the generated ones."""
    traces: list[Trace] = []
    if trials.held_out_BHC is not None:
        if trials.trials >= FEWEST_TRIALS:
            halves = disjoint_halves(trials)
            for half in (halves.recorded_I, halves.recorded_J):
                traces += line(HALF, curve(half), FLOOR, x, width=1.1, hoverinfo="skip", hovertemplate=None)
        traces += line(RECORDED, curve(trials.held_out_BHC), INK, x)
    return traces + line(GENERATED, curve(trials.counts_SBHC[0]), head_colour(trials.head), x)


def _trial_average(trials: GeneratedTrials) -> Panel:
    x = (0.5e3 * trials.bin_s, 1e3 * trials.bin_s)
    traces: list[Trace] = []
    sets = [(GENERATED, trials.counts_SBHC[0], head_colour(trials.head))]
    if trials.held_out_BHC is not None:
        sets.insert(0, (RECORDED, trials.held_out_BHC, INK))
    for name, values, colour in sets:
        each = population_activity(trials, values)
        mean, error = each.mean(axis=0), 2 * each.std(axis=0) / np.sqrt(len(each))
        traces += band(name, mean - error, mean + error, colour, x, 0.15) + line(name, mean, colour, x)
    unit = "spikes/s per unit" if trials.spikes else "mean over units"
    title = f"mean of all {trials.trials} trials ± 2 s.e."
    layout = {"xaxis": {"title": TIME}, "yaxis": {"title": unit}, "hovermode": "x"}
    return plain(title, "Population activity, mean over trials, with two standard errors", Plot(traces, layout))
