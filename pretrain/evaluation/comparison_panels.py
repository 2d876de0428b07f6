"""Panels that compare generated with held-out trials over all trials: distributions, scatters, averages in time.

Where there are enough trials a panel shows one split into disjoint halves I and J (see held_out_comparison.py): across,
the recorded trials of J; up, the trials generated from the contexts of I in the head's colour, and in grey the
recorded trials of I: what a perfect model would look like.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.held_out_comparison import (
    FEWEST_TRIALS,
    Distance,
    Halves,
    autocorrelation,
    autocorrelation_lags,
    disjoint_halves,
    fano_factors,
)
from neurochorus.pretrain.evaluation.picture_style import FLOOR, RECORDED, dress, head_colour
from neurochorus.pretrain.evaluation.population_statistics import mean_rates, pairwise_correlations

MOST_POINTS = 3000
"Points drawn in a scatter, at random; the distances in the titles are over all of them."
SQUARE_ROOT_SCALE = ("mean rate", "Fano factor")
"Statistics that are never negative and of which most units have a small value."
Statistic = Callable[[np.ndarray], np.ndarray]


def draw_statistics(panels: Sequence[Axes], trials: GeneratedTrials, distances: list[Distance]) -> None:
    """Fill four panels: mean per unit, pairwise correlations, spread per unit, distribution of the population."""
    figures = {distance.name: distance for distance in distances}
    if trials.spikes:
        _per_unit(panels[0], trials, lambda a: mean_rates(a, trials.bin_s), "mean rate", "spikes/s", figures)
        _per_unit(panels[1], trials, pair_correlations, "correlations", "", figures)
        _per_unit(panels[2], trials, fano_factors, "Fano factor", "", figures)
    else:
        _per_unit(panels[0], trials, lambda a: mean_rates(a, 1.0), "mean", "signal units", figures)
        _per_unit(panels[1], trials, pair_correlations, "correlations", "", figures)
        _per_unit(panels[2], trials, unit_sd, "standard deviation", "signal units", figures)
    _population_distribution(panels[3], trials, figures)


def draw_trial_average(panel: Axes, trials: GeneratedTrials, activity: Callable[[np.ndarray], np.ndarray]) -> None:
    """Mean over trials of `activity` (trials, bins, units) -> (trials, bins), with two standard errors."""
    times = 1e3 * trials.bin_s * (np.arange(trials.horizon_bins) + 0.5)
    sets = [(trials.counts_SBHC[0], head_colour(trials.head), "generated")]
    if trials.held_out_BHC is not None:
        sets.append((trials.held_out_BHC, RECORDED, "held out"))
    for values, colour, label in sets:
        per_trial = activity(values)
        mean = per_trial.mean(axis=0)
        error = 2 * per_trial.std(axis=0) / np.sqrt(len(per_trial))
        panel.fill_between(times, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
        panel.plot(times, mean, color=colour, linewidth=1.4, label=label)
    panel.set_xlim(0, 1e3 * trials.bin_s * trials.horizon_bins)


def draw_autocorrelation(panel: Axes, trials: GeneratedTrials, distances: list[Distance]) -> None:
    """Autocorrelation of the population over lags; in grey two disjoint halves of the recorded trials."""
    lags = autocorrelation_lags(trials.horizon_bins)
    times = 1e3 * trials.bin_s * np.arange(lags)
    panel.axhline(0, color=FLOOR, linewidth=0.6)
    if trials.held_out_BHC is not None:
        if trials.trials >= FEWEST_TRIALS:
            halves = disjoint_halves(trials)
            for label, half in (("halves of held out", halves.recorded_I), (None, halves.recorded_J)):
                panel.plot(times, autocorrelation(half, lags), color=FLOOR, linewidth=1, label=label)
        panel.plot(times, autocorrelation(trials.held_out_BHC, lags), color=RECORDED, linewidth=1.4, label="held out")
    colour = head_colour(trials.head)
    panel.plot(times, autocorrelation(trials.counts_SBHC[0], lags), color=colour, linewidth=1.4, label="generated")
    named = [distance for distance in distances if distance.name == "autocorrelation"]
    dress(panel, "population autocorrelation" + _figures(named), "lag (ms)", "")
    panel.set_xlim(0, 1e3 * trials.bin_s * max(1, lags - 1))


def _per_unit(
    panel: Axes, trials: GeneratedTrials, statistic: Statistic, name: str, unit: str, figures: dict[str, Distance]
) -> None:
    """Scatter of generated against recorded values of a statistic, or its histogram where nothing was recorded."""
    root = name in SQUARE_ROOT_SCALE and trials.held_out_BHC is not None
    words = [unit] * bool(unit) + ["square-root scale"] * root
    suffix = f" ({', '.join(words)})" if words else ""
    if trials.held_out_BHC is None:
        values = statistic(trials.counts_SBHC[0])
        panel.hist(values[np.isfinite(values)], bins=30, color=head_colour(trials.head), alpha=0.8)
        dress(panel, name, f"generated{suffix}", "pairs of units" if name == "correlations" else "units")
        return
    across, generated, recorded = statistic_sides(trials, statistic)
    defined = np.flatnonzero(np.isfinite(across + generated + (0.0 if recorded is None else recorded)))
    drawn = np.random.default_rng(0).permutation(defined)[:MOST_POINTS]
    size = 14 if len(drawn) <= 200 else 5
    if recorded is not None:
        panel.scatter(across[drawn], recorded[drawn], s=size, color=FLOOR, linewidth=0, label="held out, other half")
    panel.scatter(
        across[drawn], generated[drawn], s=size, color=head_colour(trials.head), alpha=0.6, linewidth=0,
        label="generated",
    )  # fmt: skip
    shown = [across[drawn], generated[drawn], *([] if recorded is None else [recorded[drawn]])]
    low, high = padded_limits(np.concatenate(shown))
    if root:
        low = 0.0
        panel.set_xscale("function", functions=(_root, np.square))
        panel.set_yscale("function", functions=(_root, np.square))
    panel.plot([low, high], [low, high], color=RECORDED, linewidth=0.7, zorder=0.5)
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    dress(panel, _titled(name, figures), f"held out{suffix}", f"generated{suffix}")


def statistic_sides(trials: GeneratedTrials, statistic: Statistic) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The statistic across (recorded), up (generated), and up for the noise floor (None with too few trials)."""
    assert trials.held_out_BHC is not None
    if trials.trials < FEWEST_TRIALS:
        return statistic(trials.held_out_BHC), statistic(trials.counts_SBHC[0]), None
    halves: Halves = disjoint_halves(trials)
    return statistic(halves.recorded_J), statistic(halves.generated_I), statistic(halves.recorded_I)


def _population_distribution(panel: Axes, trials: GeneratedTrials, figures: dict[str, Distance]) -> None:
    reduce = np.sum if trials.spikes else np.mean
    recorded = [] if trials.held_out_BHC is None else [reduce(trials.held_out_BHC, axis=2, dtype=float).ravel()]
    generated = reduce(trials.counts_SBHC[0], axis=2, dtype=float).ravel()
    values = np.concatenate([*recorded, generated])
    edges = count_edges(values, whole_numbers=trials.spikes)
    panel.hist(generated, bins=edges, density=True, color=head_colour(trials.head), alpha=0.45, label="generated")
    if recorded:
        panel.hist(
            recorded[0], bins=edges, density=True, histtype="step", color=RECORDED, linewidth=1.3, label="held out"
        )
    name = "population count" if trials.spikes else "population mean"
    across = "spikes per bin, all units" if trials.spikes else "mean over units (signal units)"
    dress(panel, _titled(name, figures), across, "probability density")


def count_edges(values: np.ndarray, whole_numbers: bool) -> list[float]:
    """Edges of about 40 bins of a histogram, between whole numbers where the values are such."""
    if not whole_numbers:
        return np.histogram_bin_edges(values, bins=40).tolist()
    step = max(1, int(np.ceil((np.ptp(values) + 1) / 40)))
    return np.arange(values.min() - 0.5, values.max() + step + 0.5, step).tolist()


def _titled(name: str, figures: dict[str, Distance]) -> str:
    return name + _figures([figures[name]] if name in figures else [])


def _figures(distances: list[Distance]) -> str:
    """Name the distance of generated from held-out trials, with its noise floor, on a second line of a title."""
    for distance in distances:
        kind = "Wasserstein" if distance.name.startswith("population") else "RMS difference"
        unit = f" {distance.unit}" if distance.unit == "spikes/s" else ""
        return f"\n{kind} {distance.generated:.3g}{unit}, noise floor {distance.noise_floor:.3g}"
    return ""


def padded_limits(values: np.ndarray) -> tuple[float, float]:
    """Limits of an axis that holds all values, with a margin."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0.0))


def pair_correlations(values: np.ndarray) -> np.ndarray:
    """Correlations of the pairs of different units, (trials, bins, units) -> (pairs,)."""
    if values.shape[0] * values.shape[1] < 2:  # no correlation over a single bin
        return np.full(values.shape[-1] * (values.shape[-1] - 1) // 2, np.nan)
    correlations = pairwise_correlations(values)
    return correlations[np.tril_indices(len(correlations), k=-1)]


def unit_sd(values: np.ndarray) -> np.ndarray:
    """Standard deviation of each unit over all trials and bins."""
    return values.reshape(-1, values.shape[-1]).std(axis=0)
