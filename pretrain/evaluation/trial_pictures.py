"""Pictures of sets of generated trials beside held-out ones: what they look like, and their statistics.

One row of panels a method. N trials, T bins, C units. Grey in the statistics: what a perfect model would give.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurochorus.pretrain.evaluation.picture_style import (
    FLOOR,
    MUTED,
    RECORDED,
    dress,
    method_colours,
    new_figure,
)
from neurochorus.pretrain.evaluation.population_statistics import pairwise_correlations, population_counts
from neurochorus.pretrain.evaluation.trial_statistics import count_autocorrelation, interval_statistics

RASTER_TRIALS = 4
LAGS = 60
MOST_POINTS = 3000
"Pairs of units drawn in a scatter, at random."


def raster_picture(held_out_NTC: np.ndarray, sets: Mapping[str, np.ndarray], bin_s: float) -> Figure:
    """The first trials of every set, not chosen: a line a unit, darker where a bin holds more spikes."""
    rows = {"held out": held_out_NTC, **sets}
    colours = {"held out": RECORDED, **method_colours(list(sets))}
    figure = new_figure(14, 1.75 * len(rows))
    panels: np.ndarray = figure.subplots(len(rows), RASTER_TRIALS, sharex=True, sharey=True, squeeze=False)
    for line, (title, counts_NTC) in zip(panels, rows.items()):
        for number, panel in enumerate(line):
            image = np.minimum(counts_NTC[number].T, 3)
            extent = (0, image.shape[1] * bin_s, 0, image.shape[0])
            panel.imshow(image, aspect="auto", cmap="Greys", vmin=0, vmax=3, extent=extent, interpolation="nearest")
            dress(panel, title if number == 0 else "", "s" if line is panels[-1] else "", "unit" if number == 0 else "")
        line[0].title.set_color(colours[title])
    return figure


def statistics_picture(
    held_out_NTC: np.ndarray, fresh_NTC: np.ndarray, sets: Mapping[str, np.ndarray], bin_s: float
) -> Figure:
    """Intervals, correlations, population counts and autocorrelation of each set against the held-out trials."""
    colours = method_colours(list(sets))
    figure = new_figure(15, 2.6 * len(sets))
    panels: np.ndarray = figure.subplots(len(sets), 5, squeeze=False)
    recorded, perfect = _Statistics(held_out_NTC, bin_s), _Statistics(fresh_NTC, bin_s)
    for line, (title, counts_NTC) in zip(panels, sets.items()):
        own, colour = _Statistics(counts_NTC, bin_s), colours[title]
        _scatter(line[0], "mean ISI (s)", recorded.mean_C, perfect.mean_C, own.mean_C, colour)
        _scatter(line[1], "sd ISI (s)", recorded.sd_C, perfect.sd_C, own.sd_C, colour)
        _scatter(line[2], "correlation", recorded.pairs, perfect.pairs, own.pairs, colour)
        _population(line[3], recorded, perfect, own, colour)
        _autocorrelation(line[4], recorded, perfect, own, colour, bin_s)
        line[0].set_title(title, fontsize=10, loc="left", color=colour)
    panels[0, 4].legend(fontsize=7.5, frameon=False, labelcolor=MUTED)
    return figure


class _Statistics:
    """What the panels show of one set of trials."""

    def __init__(self, counts_NTC: np.ndarray, bin_s: float):
        self.mean_C, self.sd_C = interval_statistics(counts_NTC, bin_s)
        correlations_CC = pairwise_correlations(counts_NTC)
        pairs = correlations_CC[np.tril_indices(len(correlations_CC), k=-1)]
        self.pairs = np.random.default_rng(0).permutation(pairs)[:MOST_POINTS]  # the same pairs in every set
        self.population = np.bincount(population_counts(counts_NTC).astype(int)) / counts_NTC[..., 0].size
        self.autocorrelation = count_autocorrelation(counts_NTC, min(LAGS, counts_NTC.shape[1] - 1))


def _scatter(panel: Axes, name: str, across: np.ndarray, perfect: np.ndarray, own: np.ndarray, colour: str) -> None:
    size = 14 if len(across) <= 200 else 4
    panel.scatter(across, perfect, s=size, color=FLOOR, linewidth=0)
    panel.scatter(across, own, s=size, color=colour, alpha=0.6, linewidth=0)
    ends = [np.nanmin(across), np.nanmax(across)]
    panel.plot(ends, ends, color=RECORDED, linewidth=0.7, zorder=0.5)
    dress(panel, "", f"{name}, held out", "generated")


def _population(panel: Axes, recorded: _Statistics, perfect: _Statistics, own: _Statistics, colour: str) -> None:
    for one, line_colour, width in ((recorded, RECORDED, 1.6), (perfect, FLOOR, 1.0), (own, colour, 1.2)):
        panel.plot(np.maximum(one.population, 1e-7), color=line_colour, linewidth=width)
    panel.set_yscale("log")
    panel.set_ylim(1e-6, 1)
    dress(panel, "", "spikes per bin, all units", "share of bins")


def _autocorrelation(
    panel: Axes, recorded: _Statistics, perfect: _Statistics, own: _Statistics, colour: str, bin_s: float
) -> None:
    times = bin_s * np.arange(1, 1 + len(recorded.autocorrelation))
    for one, line_colour, label in (
        (recorded, RECORDED, "held out"),
        (perfect, FLOOR, "true process, fresh trials"),
        (own, colour, "generated"),
    ):
        panel.plot(times, one.autocorrelation, color=line_colour, linewidth=1.3, label=label)
    dress(panel, "", "lag (s)", "autocorrelation of counts")
