"""Charts of single trials: rasters of recorded next to generated activity, and forecasts as fans of samples.

Shapes as in generated_trials.py. Time is in ms after the context.
"""

import numpy as np

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.picture_style import head_colour
from neurochorus.pretrain.evaluation.pictures import FEWEST_FOR_FAN, population_activity
from neurochorus.pretrain.reporting.charts import (
    CONTEXT,
    INK,
    PAPER,
    Key,
    Plot,
    Trace,
    band,
    label,
    level,
    line,
    numbers,
)

CONTEXT_PER_HORIZON = 4
"Of a longer context only the end is drawn, so that the horizon stays visible."
INSIDE, OUTSIDE = 0.34, 0.17
"Opacity of the middle 50 % and 90 % of the samples."
TIME = "time after the context (ms)"
UNIT_BIN_S = 0.05
"Counts of single units are summed to bins of at least this width, as far as the horizon has room for FEWEST_BINS."
FEWEST_BINS = 8
DIVERGING = [[0.0, "#2166ac"], [0.5, "#f7f7f7"], [1.0, "#b2182b"]]


def fan_keys(trials: GeneratedTrials) -> list[Key]:
    """The legend of every fan of these trials."""
    colour = head_colour(trials.head)
    keys = [Key("context", CONTEXT), Key("recorded", INK), Key("median of samples", colour)]
    if trials.samples >= FEWEST_FOR_FAN:
        keys += [
            Key("middle 50 %", colour, kind="band", opacity=0.5),
            Key("middle 90 %", colour, kind="band", opacity=0.2),
        ]
    else:
        keys.append(Key("range of samples", colour, kind="band", opacity=0.3))
    return [*keys, Key("one sample", colour, "dot")]


def fan_plot(
    trials: GeneratedTrials,
    sampled_SH: np.ndarray,
    recorded_H: np.ndarray | None,
    context_T: np.ndarray | None,
    unit: str,
    bins: int = 1,
) -> Plot:
    """Context, what was recorded after it, and the samples' median and bands; values of `bins` bins each."""
    step = 1e3 * trials.bin_s * bins
    after = (0.5 * step, step)
    colour = head_colour(trials.head)
    traces: list[Trace] = []
    if trials.samples >= FEWEST_FOR_FAN:
        low, lower, middle, upper, high = np.percentile(sampled_SH, (5, 25, 50, 75, 95), axis=0)
        traces += band("middle 90 %", low, high, colour, after, OUTSIDE)
        traces += band("middle 50 %", lower, upper, colour, after, INSIDE)
    else:
        low, middle, high = np.percentile(sampled_SH, (0, 50, 100), axis=0)
        traces += band("range of samples", low, high, colour, after, 0.25)
    traces += line("one sample", sampled_SH[0], colour, after, "dot", 0.9)
    traces += line("median of samples", middle, colour, after)
    if context_T is not None and len(context_T):
        traces += line("context", context_T, CONTEXT, ((0.5 - len(context_T)) * step, step), width=1.3)
    if recorded_H is not None:
        traces += line("recorded", recorded_H, INK, after, width=1.6)
    shapes = [level(0.0, vertical=True)] if context_T is not None and len(context_T) else []
    return Plot(traces, {"xaxis": {"title": TIME}, "yaxis": {"title": unit}, "shapes": shapes, "hovermode": "x"})


def shown_context_bins(trials: GeneratedTrials) -> int:
    return min(trials.context_bins, CONTEXT_PER_HORIZON * trials.horizon_bins)


def population_fan(trials: GeneratedTrials, trial: int) -> Plot:
    """Mean activity over units in one trial."""
    shown = trials.context_BTC[trial, trials.context_bins - shown_context_bins(trials) :]
    recorded = None if trials.held_out_BHC is None else population_activity(trials, trials.held_out_BHC[trial])
    unit = "spikes/s per unit" if trials.spikes else "mean over units"
    sampled = population_activity(trials, trials.counts_SBHC[:, trial])
    return fan_plot(trials, sampled, recorded, population_activity(trials, shown), unit)


def latent_fan(trials: GeneratedTrials, trial: int, channel: int) -> Plot:
    """One latent channel in one trial; recorded: what the encoder reads."""
    known, context = trials.held_out_latents_BHL, trials.context_latents_BTL
    return fan_plot(
        trials,
        trials.latents_SBHL[:, trial, :, channel],
        None if known is None else known[trial, :, channel],
        None if context is None else context[trial, trials.context_bins - shown_context_bins(trials) :, channel],
        "whitened latent",
    )


def unit_bins(trials: GeneratedTrials) -> int:
    """Bins that are summed in the fan of a single unit."""
    if not trials.spikes:
        return 1
    return max(1, min(round(UNIT_BIN_S / trials.bin_s), trials.horizon_bins // FEWEST_BINS))


def unit_fan(trials: GeneratedTrials, trial: int, unit: int) -> Plot:
    """Spikes of one unit in bins of `unit_bins`, or its signal."""
    bins = unit_bins(trials)
    shown = shown_context_bins(trials) // bins * bins
    context = trials.context_BTC[trial, trials.context_bins - shown :, unit]
    recorded = None if trials.held_out_BHC is None else _summed(trials.held_out_BHC[trial, :, unit], bins)
    title = f"spikes in {1e3 * trials.bin_s * bins:g} ms" if trials.spikes else "signal"
    sampled = _summed(trials.counts_SBHC[:, trial, :, unit], bins)
    return fan_plot(trials, sampled, recorded, _summed(context, bins), title, bins)


def rate_fan(trials: GeneratedTrials, trial: int, unit: int) -> Plot:
    """Rate of one unit that each sample implies; nothing for a continuous signal or a file without rates."""
    if trials.rates_SBHC is None or not trials.spikes:
        return Plot([])
    return fan_plot(trials, trials.rates_SBHC[:, trial, :, unit] / trials.bin_s, None, None, "spikes/s")


def raster(trials: GeneratedTrials, after_HC: np.ndarray, trial: int, order: np.ndarray, colour: str) -> Plot:
    """Counts (or z-scores) of the units in `order`, the first at the bottom, after the end of the context."""
    width = 1e3 * trials.bin_s
    shown = shown_context_bins(trials)
    names = [label(trials.unit_ids[unit]) if trials.unit_ids else f"unit {unit + 1}" for unit in order]
    names = names if len(set(names)) == len(names) else [f"unit {unit + 1}" for unit in order]
    traces = []
    for values_TC, first, tint in (
        (trials.context_BTC[trial, trials.context_bins - shown :], -shown, CONTEXT),
        (after_HC, 0, colour),
    ):
        if len(values_TC):
            traces.append({
                "type": "heatmap", "z": _heights(trials, values_TC[:, order].T, order), "y": names,
                "x0": width * (first + 0.5), "dx": width, "showscale": False, "hoverongaps": False,
                "hovertemplate": "%{y}, %{x:.4~g} ms: %{z:.3~g}<extra></extra>", **_tints(trials, tint),
            })  # fmt: skip
    axes = {
        "xaxis": {"title": TIME, "range": [-width * shown, width * trials.horizon_bins], "showgrid": False},
        "yaxis": {"title": f"{len(order)} units", "showticklabels": False, "ticks": "", "showgrid": False,
                  "type": "category", "fixedrange": True},
    }  # fmt: skip
    return Plot(traces, {**axes, "shapes": [level(0.0, vertical=True)] if shown else []})


def _heights(trials: GeneratedTrials, values_CT: np.ndarray, order: np.ndarray) -> dict[str, str]:
    if trials.spikes:
        return numbers(np.minimum(values_CT, 255).astype(np.uint8))
    reference = trials.counts_SBHC[0] if trials.held_out_BHC is None else trials.held_out_BHC
    reference = reference[:, :, order].reshape(-1, len(order))
    deviation = reference.std(axis=0)
    return numbers(
        np.round((values_CT - reference.mean(axis=0)[:, None]) / np.where(deviation > 0, deviation, 1.0)[:, None], 1)
    )


def _tints(trials: GeneratedTrials, tint: str) -> dict:
    if not trials.spikes:
        return {"colorscale": DIVERGING, "zmin": -3, "zmax": 3}
    recorded = trials.counts_SBHC[0] if trials.held_out_BHC is None else trials.held_out_BHC
    return {
        "colorscale": [[0.0, PAPER], [1.0, tint]],
        "zmin": 0,
        "zmax": max(1.0, float(np.percentile(recorded, 99.5))),
    }


def _summed(values: np.ndarray, bins: int) -> np.ndarray:
    """Sums over `bins` neighbouring bins of the last axis; a rest at the end is left out."""
    count = values.shape[-1] // bins
    return values[..., : count * bins].reshape(*values.shape[:-1], count, bins).sum(axis=-1, dtype=float)
