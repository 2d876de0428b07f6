"""Measuring the trials of results_lorenz.py: metrics.json, its table in markdown, and the pictures.

Rows are sets of trials, one a seed; distances are from the held-out trials. The first rows need no model: fresh trials
of the process that made the data (a perfect model), and disjoint halves of the held-out trials.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.importers.lorenz import fresh_trials
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.settings import parse_settings
from neurochorus.launch.lorenz_rows import SLOWEST
from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.trial_comparison import (
    COPYING,
    DEFINITIONS,
    TrialComparison,
    largest_population_count,
    mean_sizes,
)
from neurochorus.pretrain.evaluation.trial_pictures import raster_picture, statistics_picture
from neurochorus.pretrain.evaluation.whole_trials import WholeTrials
from neurochorus.pretrain.evaluation.windows import read_windows

PERFECT, FLOOR = "fresh trials of the true process", "halves of held-out trials"
DRAWS, SPLITS = 10, 10
"Sets of fresh trials, and halvings of the held-out ones."
SHORT = {
    "count_kl": "count KL",
    "count_kl_bulk": "count KL, bulk",
    "correlation_rmse": "corr.",
    "correlation_rmse_ldns": "corr., LDNS",
    "mean_interval_rmse": "mean ISI (s)",
    "sd_interval_rmse": "sd ISI (s)",
    "autocorrelation_rmse": "autocorr.",
    "spectrum_rmse": "spectrum",
    "energy_distance": "energy dist.",
    "nearest_ratio": "nearest ratio",
    "close_share": "close share",
}
DISTANCES = [name for name in DEFINITIONS if name not in COPYING]


def measure(data: str, session_id: str, files: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Distances of each row's trials, seed by seed, with mean and sd over seeds and ratios to PERFECT.

    Raises ValueError when a file has not as many trials as are held out.
    """
    corpus = Corpus(data)
    train_NTC, held_out_NTC = (_trials(corpus, session_id, split) for split in ("train", "test"))
    sets = {title: [_read(path, len(held_out_NTC)) for path in paths] for title, paths in files.items()}
    fresh = [_fresh(corpus, session_id, len(held_out_NTC), seed) for seed in range(DRAWS)]
    made = [trials.counts_NTC for row in sets.values() for trials in row]
    largest = largest_population_count(held_out_NTC, *fresh, *made)
    comparison = TrialComparison(train_NTC, held_out_NTC, corpus.bin_s)

    def distances(counts_NTC: np.ndarray) -> dict[str, float]:
        return comparison.distances(comparison.summary(counts_NTC), largest)

    perfect = [distances(counts) for counts in fresh]
    reference = mean_sizes(perfect)
    rows = {PERFECT: _row(perfect, reference), FLOOR: _row(comparison.halves_floor(largest, SPLITS), reference)}
    for title, row in sets.items():
        rows[title] = _row([distances(trials.counts_NTC) for trials in row], reference)
        rows[title]["seconds_per_thousand"] = [trials.seconds_per_thousand for trials in row]
        rows[title]["latent_seconds_per_thousand"] = [1000 / len(t.counts_NTC) * t.latent_seconds for t in row]
        rows[title]["threads"] = sorted({trials.threads for trials in row})
    return {
        "definitions": DEFINITIONS,
        "largest_count": largest,
        "trials": len(held_out_NTC),
        "bin_s": corpus.bin_s,
        "rows": rows,
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The distances with their sd over seeds, the same as multiples of a perfect model's, and copying and speed."""
    rows = results["rows"]

    def value(row: dict[str, Any], name: str) -> str:
        if name not in row["mean"]:
            return ""
        spread = "" if row["sd"][name] is None else f" ± {row['sd'][name]:.1g}"
        return f"{row['mean'][name]:.2g}{spread}"

    def ratio(row: dict[str, Any], name: str) -> str:
        return f"{row['ratio'][name]:.2f}" if name in row["ratio"] else ""

    copying = _table(rows, COPYING, lambda row, name: f"{row['mean'][name]:.3f}" if name in row["mean"] else "")
    return "\n".join(
        [
            f"Distances from {results['trials']} held-out trials (mean ± sd over sets of trials):\n",
            *_table(rows, DISTANCES, value),
            f"\nThe same as multiples of those of {PERFECT} (as many trials as held out):\n",
            *_table(rows, DISTANCES, ratio),
            "\nCopies of training trials:\n",
            *copying,
            "\nWall time of 1,000 trials:\n",
            *_speeds(rows),
            "",
        ]
    )


def pictures(out: Path, name: str, data: str, session_id: str, files: Mapping[str, Path]) -> Iterator[Path]:
    """Write NAME-rasters.png and NAME-statistics.png of one set of trials a row; yields their paths."""
    corpus = Corpus(data)
    held_out_NTC = _trials(corpus, session_id, "test")
    sets = {title: WholeTrials.read(path).counts_NTC for title, path in files.items()}
    fresh = _fresh(corpus, session_id, len(held_out_NTC), 0)
    for kind, figure in (
        ("rasters", raster_picture(held_out_NTC, sets, corpus.bin_s)),
        ("statistics", statistics_picture(held_out_NTC, fresh, sets, corpus.bin_s)),
    ):
        path = out / f"{name}-{kind}.png"
        path.write_bytes(png_bytes(figure))
        yield path


def _row(distances: Sequence[Mapping[str, float]], reference: Mapping[str, float]) -> dict[str, Any]:
    sizes = mean_sizes(distances)  # a count KL may be infinite, see population_count_kl
    values = {name: [one[name] for one in distances] for name in distances[0]}
    return {
        "values": values,
        "mean": {name: float(np.mean(numbers)) for name, numbers in values.items()},
        "sd": {name: _sd(numbers) for name, numbers in values.items()},
        "ratio": {name: sizes[name] / reference[name] for name in sizes if name in DISTANCES},
    }


def _sd(numbers: Sequence[float]) -> float | None:
    """Standard deviation over sets of trials; None for one set and where a value is infinite."""
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 and np.isfinite(numbers).all() else None


def _trials(corpus: Corpus, session_id: str, split: str) -> np.ndarray:
    """All whole trials of a split, (N, T, C)."""
    bins = len(corpus.read(corpus.rows_of(session_id, split)[0], with_meta=False).signal_TC)
    return read_windows(corpus, session_id, split, bins).signal_NTC


def _read(path: Path, trials: int) -> WholeTrials:
    found = WholeTrials.read(path)
    if len(found.counts_NTC) != trials:
        raise ValueError(
            f"{path}: {len(found.counts_NTC)} trials, but {trials} are held out; distances depend on the number: "
            "remove the file and generate as many"
        )
    return found


def _fresh(corpus: Corpus, session_id: str, trials: int, seed: int) -> np.ndarray:
    """Counts of new trials of the process that made the session."""
    manifest = corpus.dataset_of(session_id).manifest
    recipe = parse_settings(Recipe, manifest.provenance["recipe"], f"recipe of data set {manifest.name!r}")
    assert recipe.synthetic is not None
    truth = corpus.session(session_id).provenance["truth"]
    return fresh_trials(recipe.synthetic.lorenz, truth, trials, recipe.synthetic.trial_bins, seed)[1]


def _table(
    rows: Mapping[str, dict[str, Any]], columns: Sequence[str], cell: Callable[[dict[str, Any], str], str]
) -> list[str]:
    lines = [f"| | {' | '.join(SHORT[name] for name in columns)} |", "|---" * (1 + len(columns)) + "|"]
    return lines + [f"| {title} | {' | '.join(cell(row, name) for name in columns)} |" for title, row in rows.items()]


def _speeds(rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    slowest = np.mean(rows.get(SLOWEST, {}).get("latent_seconds_per_thousand", np.nan))
    yield f"| | latents (s) | with counts (s) | latents, times faster than {SLOWEST} | threads |"
    yield "|---|---|---|---|---|"
    for title, row in rows.items():
        latents = np.mean(row.get("latent_seconds_per_thousand", np.nan))
        if np.isfinite(latents):
            whole, threads = np.mean(row["seconds_per_thousand"]), ", ".join(map(str, row["threads"]))
            times = f"{slowest / latents:.0f}" if np.isfinite(slowest) else ""
            yield f"| {title} | {latents:.2f} | {whole:.2f} | {times} | {threads} |"
