"""The transfer curve: what each arm reaches with how much of the target data."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurochorus.pretrain.evaluation.picture_style import FLOOR, METHODS, MUTED, RECORDED, dress, new_figure
from neurochorus.pretrain.evaluation.transfer import SCRATCH, fraction_text, over_seeds, summary


def transfer_picture(results: Mapping[str, Any]) -> Figure:
    """Mean over sessions against the share of the data, bands the 95 % interval over sessions.

    Adaptations are drawn through, trainings from scratch dashed, baselines thin and grey.
    """
    figure = new_figure(7.5, 4.6)
    axes: Axes = figure.subplots()
    seen = [0.0]
    for name, by_fraction in results["baselines"].items():
        shares, means, *_ = _curve(results, by_fraction)
        if not shares:
            continue
        seen += means
        axes.plot(shares, means, color=FLOOR, linewidth=1.0, marker=".", zorder=1)
        axes.annotate(name, (shares[-1], means[-1]), xytext=(6, 0), textcoords="offset points", fontsize=7.5,
                      color=MUTED, va="center", annotation_clip=False)  # fmt: skip
    for place, (arm, by_fraction) in enumerate(results["arms"].items()):
        averaged = {text: over_seeds(values) for text, values in by_fraction.items()}
        shares, means, lows, highs = _curve(results, averaged)
        seen += means
        colour, scratch = METHODS[place % len(METHODS)], arm.startswith(SCRATCH)
        axes.fill_between(shares, lows, highs, color=colour, alpha=0.10, linewidth=0, zorder=2)
        axes.plot(shares, means, color=colour, linewidth=1.8, linestyle="--" if scratch else "-",
                  marker="o", markersize=4, label=arm, zorder=3)  # fmt: skip
    shares = [100 * fraction for fraction in results["fractions"]]
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.axhline(0, color=RECORDED, linewidth=0.6, zorder=0)
    # of two sessions a band is twelve times as wide as their difference
    (low, high), room = axes.get_ylim(), 0.5 * (max(seen) - min(seen)) + 1e-3
    axes.set_ylim(max(low, min(seen) - room), min(high, max(seen) + room))
    axes.legend(fontsize=8, frameon=False, labelcolor=RECORDED)
    dress(axes, "", "target data, %", results["metric"].replace("_", " "))
    return figure


def _curve(
    results: Mapping[str, Any], by_fraction: Mapping[str, Mapping[str, float | None]]
) -> tuple[list[float], list[float], list[float], list[float]]:
    points = [
        (100 * fraction, *found)
        for fraction in results["fractions"]
        if (found := summary(by_fraction.get(fraction_text(fraction), {}))) is not None
    ]
    if not points:  # of a model whose forecasts are no numbers
        return [], [], [], []
    shares, means, lows, highs = (list(column) for column in zip(*points, strict=True))
    return shares, means, lows, highs
