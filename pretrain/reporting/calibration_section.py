"""The part of the report on calibration: its charts, and tables of coverage, spread and proper scores."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from neurochorus.pretrain.evaluation.calibration_file import WHATS, Calibration, Figure
from neurochorus.pretrain.evaluation.calibration_pictures import ROWS, Method, crps_gap
from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.reporting.calibration_charts import calibration_charts
from neurochorus.pretrain.reporting.html_page import Cell, Section, details, number, paragraph, table

SCORES = {
    "spread_skill": "spread / error",
    "crps": "CRPS",
    "energy_score": "energy score, stretch",
    "variogram_score": "variogram score, stretch",
}
WORDS = ("coverage", "rank_histogram", *SCORES, "stretch", "inflation")
CAPTION = (
    "Bands: two standard errors. Dashed grey: a calibrated model. Ranks in a valley and spread / error below 1: "
    "over-confident. CRPS of latents can be compared between heads that share an autoencoder."
)


def calibration_section(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Section:
    """Of evaluations that have a calibration; `names` are their labels."""
    methods = methods_of(evaluations, names)
    reference = crps_reference(methods)
    known = [(name, one.calibration) for name, one in zip(names, evaluations) if one.calibration is not None]
    parts = [paragraph(words) for words in dict.fromkeys(shape.definition for _, shape in known)]
    parts.append(paragraph(CAPTION))
    for what, shown in methods.items():
        parts += [f"<h3>{escape(what.capitalize())}</h3>", paragraph(ROWS[what] + ".", muted=True)]
        parts += [calibration_charts(what, shown, reference), _score_table(shown, reference)]
    parts += [details("Coverage of latents by lead", _lead_table(known)), *_inflation_table(known), _definitions(known)]
    return Section("calibration", "Calibration", "\n".join(parts))


def methods_of(evaluations: Sequence[Evaluation], names: Sequence[str]) -> dict[str, list[Method]]:
    """Latents, units, population -> methods of all evaluations; a name that several have carries their label."""
    rows = [
        (row, label, evaluation.bin_s, evaluation.calibration.levels, whats)
        for evaluation, label in zip(evaluations, names)
        if evaluation.calibration is not None
        for row, whats in evaluation.calibration.rows.items()
    ]
    taken = [row for row, *_ in rows]
    found: dict[str, list[Method]] = {what: [] for what in WHATS}
    for row, label, bin_s, levels, whats in rows:
        name = row if taken.count(row) == 1 else label if row == label.split(",")[0] else f"{row} ({label})"
        for what, parts in whats.items():
            found[what].append(Method(name, bin_s, levels, parts))
    return {what: methods for what, methods in found.items() if methods}


def crps_reference(methods: Mapping[str, Sequence[Method]]) -> str | None:
    """The method that CRPS is shown against: a Gaussian head where there is one, the first otherwise."""
    names = [method.name for method in methods["latents"]]
    plain = [name for name in names if "recalibrated" not in name]
    if len(names) < 2 or not plain:
        return None
    return next((name for name in plain if "gaussian" in name), plain[0])


def _score_table(methods: Sequence[Method], reference: str | None) -> str:
    levels = sorted({level for method in methods for level in method.levels})
    against = next((method for method in methods if method.name == reference), None)
    header = ["method", *(f"{100 * level:g} % holds" for level in levels), *SCORES.values()]
    header += [] if against is None else [f"CRPS minus {reference}, %"]
    rows = []
    for method in methods:
        stretch = method.parts["stretch"]
        cells: list[Cell | str] = [method.name]
        covered = stretch.get("coverage")
        for level in levels:
            place = method.levels.index(level) if level in method.levels and covered is not None else None
            cells.append(Cell("–") if covered is None or place is None else _with_error(covered, 3, place))
        cells += [_with_error(stretch[name], 4) if name in stretch else Cell("–") for name in SCORES]
        if against is not None:
            cells.append(_gap(method, against))
        rows.append(cells)
    caption = "All leads together, ± standard error. A calibrated model holds exactly the level, at spread / error 1."
    return table(header, rows, caption=caption)


def _gap(method: Method, against: Method) -> Cell:
    """Mean over leads of the difference within sessions; its error from the sessions' own means."""
    gap = None if method is against else crps_gap(method, against)
    if gap is None:
        return Cell("–")
    mine, other = method.parts["by_lead"]["crps"].sessions, against.parts["by_lead"]["crps"].sessions
    both = [name for name in mine if name in other]
    scale = np.mean([other[name].mean() for name in both])
    values = 100 * np.array([mine[name].mean() - other[name].mean() for name in both]) / scale
    error = values.std(ddof=1) / np.sqrt(len(both)) if len(both) > 1 else np.nan
    text = number(float(values.mean()), 2, signed=True).text
    return Cell(text if np.isnan(error) else f"{text} ± {error:.2f}", float(values.mean()))


def _with_error(figure: Figure, digits: int, place: int | None = None) -> Cell:
    mean, error = (float(values if place is None else values[place]) for values in (figure.mean, figure.error))
    cell = number(mean, digits)
    return cell if np.isnan(mean) or np.isnan(error) else Cell(f"{cell.text} ± {error:.{digits}f}", mean)


def _lead_table(known: Sequence[tuple[str, Calibration]]) -> str:
    longest = max(len(shape.coverage_by_lead) for _, shape in known)
    rows = [
        [name, number(shape.level, 2), *(number(value, 3) for value in shape.coverage_by_lead)]
        + [Cell("–")] * (longest - len(shape.coverage_by_lead))
        for name, shape in known
    ]
    return table(["model", "level", *(f"bin {lead}" for lead in range(1, longest + 1))], rows)


def _inflation_table(known: Sequence[tuple[str, Calibration]]) -> list[str]:
    rows = [
        [f"{row} ({name})" if len(known) > 1 else row, *(number(float(factor), 3) for factor in factors)]
        for name, shape in known
        for row, factors in shape.inflation.items()
    ]
    if not rows:
        return []
    longest = max(len(row) for row in rows)
    rows = [row + [Cell("–")] * (longest - len(row)) for row in rows]
    header = ["method", *(f"bin {lead}" for lead in range(1, longest))]
    return ["<h3>How much wider the samples would have to be</h3>", table(header, rows)]


def _definitions(known: Sequence[tuple[str, Calibration]]) -> str:
    every = {name: text for _, shape in known for name, text in shape.definitions.items()}
    shown = [name for name in WORDS if name in every and (name != "inflation" or any(s.inflation for _, s in known))]
    lines = "".join(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(every[name])}</dd>" for name in shown)
    return f"<dl>{lines}</dl>" if lines else ""
