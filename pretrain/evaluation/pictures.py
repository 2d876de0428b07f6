"""The picture by which a person judges one head: generated continuations against held-out activity of one session.

Every generated bin is free-running: after the context the model sees only what it sampled itself. Trials are the first
of the file, not chosen; wherever one generated trial stands against one recorded trial it is sample 0.

Rows: rasters, population over time, latents, statistics. Shapes as in generated_trials.py.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from scipy.ndimage import uniform_filter1d

from neurochorus.pretrain.evaluation.comparison_panels import (
    draw_autocorrelation,
    draw_statistics,
    draw_trial_average,
)
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.held_out_comparison import Distance, distances_from_held_out
from neurochorus.pretrain.evaluation.picture_style import (
    CONTEXT,
    MUTED,
    RECORDED,
    dress,
    head_colour,
    new_figure,
    row_heading,
    row_legend,
)

COLUMNS = 4
MOST_UNITS = 60
"Rows in a raster; of more units the most active are shown."
SAMPLE_LINES = 8
"Sampled latent trajectories drawn for a trial."
FEWEST_FOR_FAN = 10
"With fewer samples the fan is drawn from the smallest to the largest."


def head_picture(trials: GeneratedTrials, distances: list[Distance] | None = None) -> Figure:
    """Return the picture of one head and session; `distances` saves computing distances_from_held_out again."""
    if distances is None:
        distances = distances_from_held_out(trials)
    heights = [2.8] * (1 if trials.held_out_BHC is None else 2) + [2.5, 2.4, 3.3]
    figure = new_figure(14, sum(heights) + 0.6)
    figure.suptitle(_title(trials), x=0.008, ha="left", fontsize=13, color=RECORDED)
    rows = list(np.ravel(figure.subfigures(len(heights), 1, height_ratios=heights, hspace=0.03)))  # type: ignore[arg-type]
    order = unit_order(trials)
    if trials.held_out_BHC is not None:
        row = rows.pop(0)
        row_heading(row, "Held out", f"what was recorded; {_shown_units(trials, order)}", RECORDED)
        _rasters(row, trials, trials.held_out_BHC, order, RECORDED)
    row = rows.pop(0)
    words = "the same contexts and order of units" if trials.held_out_BHC is not None else _shown_units(trials, order)
    words = f"one free-running sample for each trial; {words}"
    row_heading(row, f"Generated, {trials.head} head", words, head_colour(trials.head))
    _rasters(row, trials, trials.counts_SBHC[0], order, head_colour(trials.head))
    _population_row(rows[0], trials)
    _latent_row(rows[1], trials, distances)
    row_heading(rows[2], "Statistics", _statistics_words(trials), RECORDED)
    panels = rows[2].subplots(1, COLUMNS)
    draw_statistics(panels, trials, distances)
    row_legend(rows[2], panels[0])
    return figure


def unit_order(trials: GeneratedTrials) -> np.ndarray:
    """Indices of the units that a raster shows, bottom first: sorted by their loading on the first principal component.

    The component is that of the z-scored, smoothed (5 bins) recorded activity, of sample 0 where nothing was recorded.
    Units that never vary go below the others. At most MOST_UNITS, those with the highest mean.
    """
    if trials.held_out_BHC is None:
        signal = trials.counts_SBHC[0].astype(np.float64)
    else:
        signal = np.concatenate([trials.context_BTC, trials.held_out_BHC], axis=1).astype(np.float64)
    strength = np.abs(signal).mean(axis=(0, 1)) if trials.spikes else signal.std(axis=(0, 1))
    kept = np.sort(np.argsort(-strength, kind="stable")[:MOST_UNITS])
    smooth = uniform_filter1d(signal[:, :, kept], size=min(5, signal.shape[1]), axis=1).reshape(-1, len(kept))
    deviation = smooth.std(axis=0)
    varies = deviation > 0
    loadings = np.full(len(kept), -np.inf)
    if varies.sum() > 1:
        scored = (smooth[:, varies] - smooth[:, varies].mean(axis=0)) / deviation[varies]
        component = np.linalg.eigh(scored.T @ scored)[1][:, -1]
        loadings[varies] = component * (np.sign(component.sum()) or 1.0)
    return kept[np.argsort(loadings, kind="stable")]


def population_activity(trials: GeneratedTrials, values: np.ndarray) -> np.ndarray:
    """Mean over units per bin, last axis away: spikes/s for spikes, signal units otherwise."""
    mean = values.mean(axis=-1, dtype=np.float64)
    return mean / trials.bin_s if trials.spikes else mean


def fan_coverage(trials: GeneratedTrials) -> float:
    """Fraction of held-out bins, over all trials, whose population activity lies inside the samples' fan.

    Raises ValueError without held-out activity.
    """
    if trials.held_out_BHC is None:
        raise ValueError("the fan has nothing to cover: the file holds no held-out activity")
    low, high = _fan(trials, population_activity(trials, trials.counts_SBHC))
    recorded = population_activity(trials, trials.held_out_BHC)
    return float(((recorded >= low) & (recorded <= high)).mean())


def _title(trials: GeneratedTrials) -> str:
    return (
        f"{trials.head} head, session {trials.session_id} (subject {trials.subject_id}): {trials.trials} trials, "
        f"{trials.samples} samples of each, {trials.units} units, bins of {1e3 * trials.bin_s:g} ms, "
        f"seed {trials.seed}, temperature {trials.temperature:g}"
    )


def _shown_units(trials: GeneratedTrials, order: np.ndarray) -> str:
    which = (
        f"the {len(order)} most active of {trials.units} units" if len(order) < trials.units else f"{len(order)} units"
    )
    context = "the context, which the model saw, in grey; " if trials.context_bins and trials.spikes else ""
    if trials.held_out_BHC is None:
        return f"{context}nothing was recorded to compare with; {which}, sorted by the first principal component"
    return f"{context}{which}, sorted by the first principal component of recorded activity"


def _fan_words(trials: GeneratedTrials) -> str:
    fan = "5-95 %" if trials.samples >= FEWEST_FOR_FAN else "range"
    words = f"{fan} and mean of {trials.samples} samples"
    if trials.held_out_BHC is None:
        return words
    return f"{words}, which hold {100 * fan_coverage(trials):.0f} % of the recorded bins of all {trials.trials} trials"


def _statistics_words(trials: GeneratedTrials) -> str:
    bins = f"{trials.horizon_bins} bins after the context, one sample a trial"
    if trials.held_out_BHC is None:
        return bins
    return f"{bins}; grey: held-out trials against other held-out trials, the noise floor"


def _shown_context(trials: GeneratedTrials) -> np.ndarray:
    """The end of the context, at most four times as long as the horizon, so that the horizon stays visible."""
    return trials.context_BTC[:, max(0, trials.context_bins - 4 * trials.horizon_bins) :]


def _rasters(row: SubFigure, trials: GeneratedTrials, after_BHC: np.ndarray, order: np.ndarray, colour: str) -> None:
    panels = row.subplots(1, COLUMNS)
    image: AxesImage | None = None
    context = _shown_context(trials)
    width = 1e3 * trials.bin_s
    for trial, axes in enumerate(panels):
        if trial >= trials.trials:
            axes.set_axis_off()
            continue
        for values, start, tint in ((context, -context.shape[1], CONTEXT), (after_BHC, 0, colour)):
            if values.shape[1]:
                extent = (width * start, width * (start + values.shape[1]), 0.5, len(order) + 0.5)
                image = axes.imshow(
                    _raster_values(trials, values[trial][:, order].T, order), extent=extent, origin="lower",
                    aspect="auto", interpolation_stage="rgba", **_raster_colours(trials, tint),
                )  # fmt: skip
        _border(axes, trials, context.shape[1])
        axes.set_ylim(0.5, len(order) + 0.5)
        dress(axes, f"trial {trial + 1}", "time after the context (ms)", "unit" if trial == 0 else "")
    if not trials.spikes and image is not None:
        bar = row.colorbar(image, ax=list(panels), pad=0.01, fraction=0.02)
        bar.set_label("z-score", fontsize=8.5, color=MUTED)
        bar.ax.tick_params(labelsize=8, colors=MUTED)


def _raster_values(trials: GeneratedTrials, values_CT: np.ndarray, order: np.ndarray) -> np.ndarray:
    if trials.spikes:
        return values_CT
    reference = trials.counts_SBHC[0] if trials.held_out_BHC is None else trials.held_out_BHC
    reference = reference[:, :, order].reshape(-1, len(order))
    deviation = reference.std(axis=0)
    return (values_CT - reference.mean(axis=0)[:, None]) / np.where(deviation > 0, deviation, 1.0)[:, None]


def _raster_colours(trials: GeneratedTrials, tint: str) -> dict:
    """Counts: white, then the tint from one spike a bin to four. Continuous: z-scores from -3 to 3."""
    if trials.spikes:
        strengths = (0.0, 0.7, 0.85, 0.95, 1.0)
        colours: Colormap = ListedColormap([tuple(1 - s * (1 - c) for c in to_rgb(tint)) for s in strengths])
        return {"cmap": colours, "vmin": -0.5, "vmax": 4.5}
    diverging = LinearSegmentedColormap.from_list("signed", ["#2166ac", "#f7f7f7", "#b2182b"])
    return {"cmap": diverging, "vmin": -3.0, "vmax": 3.0}


def _border(axes: Axes, trials: GeneratedTrials, context_bins: int) -> None:
    """Mark where the context ends, and hold the time axis to what is shown."""
    width = 1e3 * trials.bin_s
    axes.set_xlim(-width * context_bins, width * trials.horizon_bins)
    if context_bins:
        axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))


def _share_heights(panels) -> None:
    low, high = min(axes.get_ylim()[0] for axes in panels), max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(low, high)


def _fan(trials: GeneratedTrials, values_SB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ends = (5, 95) if trials.samples >= FEWEST_FOR_FAN else (0, 100)
    low, high = np.percentile(values_SB, ends, axis=0)
    return low, high


def _population_row(row: SubFigure, trials: GeneratedTrials) -> None:
    """Population activity in the first trials, and its mean over all of them in the last panel."""
    row_heading(row, "Population over time", _fan_words(trials), RECORDED)
    panels = row.subplots(1, COLUMNS)
    context = population_activity(trials, _shown_context(trials))
    sampled = population_activity(trials, trials.counts_SBHC)
    low, high = _fan(trials, sampled)
    colour, width = head_colour(trials.head), 1e3 * trials.bin_s
    after = width * (np.arange(trials.horizon_bins) + 0.5)
    before = width * (np.arange(-context.shape[1], 0) + 0.5)
    unit = "spikes/s per unit" if trials.spikes else "mean over units (signal units)"
    for trial, axes in enumerate(panels[:-1]):
        if trial >= trials.trials:
            axes.set_axis_off()
            continue
        axes.fill_between(after, low[trial], high[trial], color=colour, alpha=0.2, linewidth=0, label="samples")
        axes.plot(after, sampled[:, trial].mean(axis=0), color=colour, linewidth=1.6, label="mean of samples")
        axes.plot(after, sampled[0, trial], color=colour, linewidth=0.7, alpha=0.8, label="one sample")
        if context.shape[1]:
            axes.plot(before, context[trial], color=CONTEXT, linewidth=1.1, label="context")
        if trials.held_out_BHC is not None:
            recorded = population_activity(trials, trials.held_out_BHC[trial])
            axes.plot(after, recorded, color=RECORDED, linewidth=1.3, label="held out")
        _border(axes, trials, context.shape[1])
        dress(axes, f"trial {trial + 1}", "time after the context (ms)", unit if trial == 0 else "")
    row_legend(row, panels[0])
    _share_heights(panels[: min(COLUMNS - 1, trials.trials)])
    draw_trial_average(panels[-1], trials, lambda values: population_activity(trials, values))
    dress(panels[-1], f"mean over all {trials.trials} trials, ± 2 standard errors", "time after the context (ms)", "")


def slowest_channels(trials: GeneratedTrials, wanted: int) -> np.ndarray:
    """The latent channels whose neighbouring bins correlate most: in the recorded latents if there are any."""
    latents = trials.latents_SBHL[0] if trials.held_out_latents_BHL is None else trials.held_out_latents_BHL
    deviations = latents.astype(np.float64) - latents.mean(axis=(0, 1), dtype=np.float64)
    power = np.maximum((deviations**2).mean(axis=(0, 1)), 1e-12)
    neighbours = (deviations[:, 1:] * deviations[:, :-1]).mean(axis=(0, 1)) if latents.shape[1] > 1 else power
    return np.argsort(-neighbours / power, kind="stable")[:wanted]


def _latent_row(row: SubFigure, trials: GeneratedTrials, distances: list[Distance]) -> None:
    """Sampled latent trajectories of the first trial, and the population's autocorrelation in the last panel."""
    words = f"trial 1: {min(SAMPLE_LINES, trials.samples)} sampled trajectories of the slowest channels"
    if trials.held_out_latents_BHL is not None:
        words += ", and what the encoder reads from the recorded bins"
    row_heading(row, "Latents", words, RECORDED)
    panels = row.subplots(1, COLUMNS)
    after = 1e3 * trials.bin_s * (np.arange(trials.horizon_bins) + 0.5)
    channels = slowest_channels(trials, COLUMNS - 1)
    for axes, channel in zip(panels[:-1], channels):
        for sample in range(min(SAMPLE_LINES, trials.samples)):
            label = "samples" if sample == 0 else None
            path = trials.latents_SBHL[sample, 0, :, channel]
            axes.plot(after, path, color=head_colour(trials.head), linewidth=0.8, alpha=0.65, label=label)
        if trials.held_out_latents_BHL is not None:
            path = trials.held_out_latents_BHL[0, :, channel]
            axes.plot(after, path, color=RECORDED, linewidth=1.6, label="held out, encoded")
        axes.set_xlim(0, 1e3 * trials.bin_s * trials.horizon_bins)
        first = channel == channels[0]
        dress(axes, f"channel {channel + 1}", "time after the context (ms)", "whitened latent" if first else "")
    for axes in panels[len(channels) : -1]:
        axes.set_axis_off()
    draw_autocorrelation(panels[-1], trials, distances)
    row_legend(row, panels[-1])
