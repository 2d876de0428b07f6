"""Generated next to recorded activity: single trials, latents, units, and statistics against their noise floors."""

from collections.abc import Sequence
from html import escape

import numpy as np

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.held_out_comparison import SPLITS, Distance, distances_from_held_out
from neurochorus.pretrain.evaluation.picture_style import head_colour
from neurochorus.pretrain.evaluation.pictures import fan_coverage, slowest_channels, unit_order
from neurochorus.pretrain.reporting.charts import INK, Panel, Picker, chart_group
from neurochorus.pretrain.reporting.html_page import Section, number, paragraph, table
from neurochorus.pretrain.reporting.latent_charts import PLANES, principal_components, trajectory_keys, trajectory_plot
from neurochorus.pretrain.reporting.statistic_charts import statistic_charts
from neurochorus.pretrain.reporting.trial_charts import (
    fan_keys,
    latent_fan,
    population_fan,
    raster,
    rate_fan,
    unit_fan,
)

FREE_RUNNING = (
    "Generated trials are free-running: after the context (right of the dashed line) the model sees only what it "
    "sampled itself. The trials are the first of the file, and where one generated trial stands against one recorded "
    "trial it is the first sample."
)
NOISE_FLOOR = (
    f"The held-out trials are split at random into disjoint halves I and J. Noise floor: recorded trials of I against "
    f"recorded trials of J. Generated: trials generated from the contexts of I against the same recorded trials of J. "
    f"Both sides have equally many trials, so a perfect model stands at the floor on average. "
    f"Means over {SPLITS} splits."
)
MOST_TRIALS = 6
MOST_UNITS = 16
"Units that can be picked: the most active."
CHANNELS = 3


def generated_section(generated: Sequence[GeneratedTrials]) -> Section:
    parts = [paragraph(FREE_RUNNING)]
    for trials in generated:
        parts.append(f"<h3>{escape(f'{trials.head} head, session {trials.session_id}')}</h3>")
        parts += [_single_trials(trials), _latents(trials), _units(trials)]
        parts += ["<h4>Statistics of all trials</h4>", paragraph(NOISE_FLOOR, muted=True), statistic_charts(trials)]
        parts.append(_distance_table(trials, distances_from_held_out(trials)))
    return Section("generated", "Generated against held-out activity", "\n".join(parts))


def _picker(trials: GeneratedTrials) -> Picker:
    return Picker("trial", [str(trial + 1) for trial in range(min(MOST_TRIALS, trials.trials))])


def _single_trials(trials: GeneratedTrials) -> str:
    order = unit_order(trials)
    shown = range(min(MOST_TRIALS, trials.trials))
    panels = [
        Panel(
            f"generated, {trials.head} head",
            "Raster of generated activity of one trial",
            {(t,): raster(trials, trials.counts_SBHC[0, t], t, order, head_colour(trials.head)) for t in shown},
            (0,),
            300,
        ),
        Panel(
            "population",
            "Population activity of one trial: context, recorded, and the fan of samples",
            {(t,): population_fan(trials, t) for t in shown},
            (0,),
            300,
        ),
    ]
    which = f"the {len(order)} most active of {trials.units}" if len(order) < trials.units else f"all {len(order)}"
    caption = f"Rasters: {which} units, sorted by the first principal component; the context in grey."
    if trials.held_out_BHC is not None:
        recorded = trials.held_out_BHC
        plots = {(t,): raster(trials, recorded[t], t, order, INK) for t in shown}
        panels.insert(0, Panel("recorded", "Raster of recorded activity of one trial", plots, (0,), 300))
        share = f"{100 * fan_coverage(trials):.0f} % of the recorded bins of all {trials.trials} trials"
        caption += f" The outer band of the population, of {trials.samples} samples, holds {share}."
    return chart_group(panels, fan_keys(trials), [_picker(trials)], caption)


def _latents(trials: GeneratedTrials) -> str:
    shown = range(min(MOST_TRIALS, trials.trials))
    components = principal_components(trials)
    panels = [
        Panel(
            "",
            "Latent trajectories of one trial in the plane of two principal components",
            {(t,): trajectory_plot(trials, t, components, plane) for t in shown},
            (0,),
            300,
        )
        for plane in PLANES
    ]
    fans = [
        Panel(
            f"latent channel {channel + 1}",
            f"Latent channel {channel + 1} of one trial and the fan of samples",
            {(t,): latent_fan(trials, t, int(channel)) for t in shown},
            (0,),
        )
        for channel in slowest_channels(trials, CHANNELS)
    ]
    return _headed("Latent trajectories", chart_group(panels, trajectory_keys(trials), [_picker(trials)])) + _headed(
        "Forecast fans of the slowest latents", chart_group(fans, fan_keys(trials), [_picker(trials)])
    )


def _units(trials: GeneratedTrials) -> str:
    """Fans of the most active units; each trial and unit is one plot."""
    signal = trials.counts_SBHC[0] if trials.held_out_BHC is None else trials.held_out_BHC
    strength = signal.mean(axis=(0, 1)) if trials.spikes else signal.std(axis=(0, 1))
    units = [int(unit) for unit in np.argsort(-strength, kind="stable")[:MOST_UNITS]]
    names = [trials.unit_ids[unit] if trials.unit_ids else f"unit {unit + 1}" for unit in units]
    pairs = [(t, place, unit) for t in range(min(MOST_TRIALS, trials.trials)) for place, unit in enumerate(units)]
    panels = [
        Panel(
            "spikes" if trials.spikes else "signal",
            "Activity of one unit in one trial and the fan of samples",
            {(t, place): unit_fan(trials, t, unit) for t, place, unit in pairs},
            (0, 1),
        ),
        Panel(
            "rate that the samples imply",
            "Rate of one unit in one trial: fan of samples",
            {(t, place): rate_fan(trials, t, unit) for t, place, unit in pairs},
            (0, 1),
        ),
    ]
    pickers = [_picker(trials), Picker("unit", names)]
    caption = f"The {len(units)} most active of {trials.units} units." if len(units) < trials.units else ""
    return _headed("Forecast fans of units", chart_group(panels, fan_keys(trials), pickers, caption))


def _headed(title: str, charts: str) -> str:
    """Charts under their title; nothing where there are none."""
    return f"<h4>{escape(title)}</h4>{charts}" if charts else ""


def _distance_table(trials: GeneratedTrials, distances: list[Distance]) -> str:
    if not distances:
        why = "nothing was recorded after these contexts" if trials.held_out_BHC is None else "too few trials"
        return paragraph(f"No distances from held-out activity: {why}.", muted=True)
    rows = [
        [
            distance.name,
            number(distance.generated),
            number(distance.noise_floor),
            number(distance.generated / distance.noise_floor if distance.noise_floor else float("nan"), 2),
            distance.unit or "–",
            distance.definition,
        ]
        for distance in distances
    ]
    header = ["statistic", "generated", "noise floor", "ratio", "unit", "distance from held-out trials"]
    return table(header, rows, text_columns=(0, 4, 5))
