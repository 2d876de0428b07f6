"""Example forecasts of an evaluation, session by session: rasters, fans and latent trajectories to look through."""

from collections.abc import Callable, Sequence
from html import escape

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.picture_style import head_colour
from neurochorus.pretrain.evaluation.pictures import slowest_channels, unit_order
from neurochorus.pretrain.reporting.charts import INK, Panel, Picker, Plot, chart_group
from neurochorus.pretrain.reporting.html_page import Section, paragraph
from neurochorus.pretrain.reporting.latent_charts import PLANES, principal_components, trajectory_keys, trajectory_plot
from neurochorus.pretrain.reporting.trial_charts import fan_keys, latent_fan, population_fan, raster

WORDS = (
    "The first windows of each session, not chosen. Forecasts are free-running: right of the dashed line the model "
    "sees only what it sampled itself."
)
MOST_SESSIONS = 40
MOST_WINDOWS = 4


def example_section(examples: Sequence[GeneratedTrials]) -> Section:
    """Charts for each head; `examples`: one entry a session and head."""
    parts = [paragraph(WORDS)]
    heads = dict.fromkeys(trials.head for trials in examples)
    for head in heads:
        if len(heads) > 1:
            parts.append(f"<h3>{escape(head)} head</h3>")
        parts.append(_charts([trials for trials in examples if trials.head == head]))
    return Section("examples", "Forecasts, session by session", "\n".join(parts))


def _charts(examples: Sequence[GeneratedTrials]) -> str:
    shown = list(examples[:MOST_SESSIONS])
    names = [trials.session_id for trials in shown]
    orders = [unit_order(trials) for trials in shown]
    components = [principal_components(trials) for trials in shown]
    channels = [int(slowest_channels(trials, 1)[0]) for trials in shown]

    def panel(title: str, words: str, make: Callable[[int, int], Plot], height: int = 280) -> Panel:
        plots = {
            (place, window): make(place, window)
            for place, trials in enumerate(shown)
            for window in range(min(MOST_WINDOWS, trials.trials))
        }
        return Panel(title, words, plots, (0, 1), height)

    def recorded(place: int, window: int) -> Plot:
        held_out = shown[place].held_out_BHC
        return Plot([]) if held_out is None else raster(shown[place], held_out[window], window, orders[place], INK)

    def generated(place: int, window: int) -> Plot:
        one = shown[place]
        return raster(one, one.counts_SBHC[0, window], window, orders[place], head_colour(one.head))

    panels = [
        panel("recorded", "Raster of recorded activity", recorded),
        panel("forecast, one sample", "Raster of one sampled forecast", generated),
        panel("population", "Population activity and the fan of samples", lambda p, w: population_fan(shown[p], w)),
        panel("slowest latent channel", "Slowest latent channel and the fan of samples",
              lambda p, w: latent_fan(shown[p], w, channels[p])),
        *(
            panel("latent trajectories", "Latent trajectories in the plane of two principal components",
                  lambda p, w, plane=plane: trajectory_plot(shown[p], w, components[p], plane))
            for plane in PLANES[:2]
        ),
    ]  # fmt: skip
    longest = max(min(MOST_WINDOWS, trials.trials) for trials in shown)
    pickers = [Picker("session", names), Picker("window", [str(window + 1) for window in range(longest)])]
    keys = {key.name: key for trials in shown for key in (*fan_keys(trials), *trajectory_keys(trials))}
    more = f"The first {len(shown)} of {len(examples)} sessions of the file." if len(examples) > len(shown) else ""
    return chart_group(panels, list(keys.values()), pickers, more, least_width=340)
