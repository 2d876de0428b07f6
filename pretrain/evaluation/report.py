"""The report of an evaluation: one self-contained HTML page and its pictures as PNG files beside it."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from neurochorus.pretrain.evaluation.calibration_section import calibration_section
from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.held_out_comparison import SPLITS, Distance, distances_from_held_out
from neurochorus.pretrain.evaluation.html_page import Cell, Section, number, page, paragraph, picture, table
from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.pictures import head_picture
from neurochorus.pretrain.evaluation.result_pictures import score_picture, training_picture
from neurochorus.pretrain.evaluation.run_history import Columns
from neurochorus.pretrain.evaluation.score_comparison import Comparison, compare_scores, difference, labels

SECTIONS = {"forecast": "Forecast", "reconstruction": "Reconstruction"}
FREE_RUNNING = (
    "Generated trials are free-running: right of the dashed border the model sees only what it sampled itself. "
    "The trials are the first of the file, and where one generated trial stands against one recorded trial it is the "
    "first sample."
)
NOISE_FLOOR = (
    f"The held-out trials are split at random into disjoint halves I and J. Noise floor: recorded trials of I against "
    f"recorded trials of J. Generated: trials generated from the contexts of I against the same recorded trials of J. "
    f"Both sides have equally many trials, so a perfect model stands at the floor on average. "
    f"Means over {SPLITS} splits."
)


@dataclass(frozen=True)
class Report:
    html: str
    pictures: dict[str, bytes]
    "Name -> PNG."


def build_report(
    evaluations: Sequence[Evaluation],
    generated: Sequence[GeneratedTrials],
    histories: Mapping[str, dict[str, Columns]],
    command: str,
    title: str = "neurochorus: report",
) -> Report:
    """Make the page and its pictures; `histories` are training runs by name.

    Raises ValueError when there is nothing to report.
    """
    if not (evaluations or generated or histories):
        raise ValueError("nothing to report: give metrics, generated trials or runs")
    pictures: dict[str, bytes] = {}
    sections, lead = [], []
    for name, heading in SECTIONS.items():
        comparisons = compare_scores(evaluations, name)
        if comparisons:
            sections.append(_score_section(name, heading, comparisons, pictures))
        lead += [line for comparison in comparisons if name == "forecast" for line in _findings(comparison)]
    calibrated = [evaluation for evaluation in evaluations if evaluation.calibration is not None]
    if calibrated:
        section, pictures["calibration"] = calibration_section(calibrated, labels(calibrated))
        sections.append(section)
    if generated:
        sections.append(_generated_section(generated, pictures))
    if histories:
        sections.append(_training_section(histories, pictures))
    sections.append(_origin_section(evaluations, generated, command))
    return Report(page(title, lead, sections), pictures)


def write_report(report: Report, out: Path) -> list[Path]:
    """Write the pictures beside `out` as STEM_NAME.png, then the page; returns the paths, the page first.

    Each file is replaced whole or not at all. Raises OSError when one cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out]
    for name, png in report.pictures.items():
        paths.append(out.with_name(f"{out.stem}_{name}.png"))
        _replace(paths[-1], png)
    _replace(out, report.html.encode("utf-8"))
    return paths


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _findings(comparison: Comparison) -> list[str]:
    """One line for each learned method: its score, and its distance from the best baseline."""
    lines = []
    metric = comparison.table.metric.replace("_", " ")
    for name in comparison.learned:
        row = comparison.table.rows[name]
        line = f"{name}: forecasts at {_with_error(row.mean, row.standard_error)} {metric}"
        if comparison.reference is not None:
            gap = difference(comparison.table, name, comparison.reference)
            line += (
                f"; {_with_error(gap.mean, gap.standard_error, signed=True)} against {comparison.reference}, "
                f"the best baseline; better in {gap.better} of {gap.sessions} sessions"
            )
        lines.append(line + ".")
    return lines


def _score_section(name: str, heading: str, comparisons: list[Comparison], pictures: dict[str, bytes]) -> Section:
    parts = []
    for comparison in comparisons:
        scores = comparison.table
        key = _unused(name, pictures)
        pictures[key] = png_bytes(score_picture(scores, comparison.learned))
        if len(comparisons) > 1:
            parts.append(f"<h3>{escape(', '.join(labels(comparison.evaluations)))}</h3>")
        parts.append(paragraph(f"{scores.metric.replace('_', ' ')}: {scores.definition}"))
        caption = "Dots: sessions, each joined by a thin line. Diamonds: mean ± standard error over sessions."
        parts.append(picture(pictures[key], f"{heading} by method and session", caption))
        parts.append(_method_table(comparison))
        parts.append("<h3>Session by session</h3>")
        parts.append(_session_table(comparison))
    return Section(name, heading, "\n".join(parts))


def _method_table(comparison: Comparison) -> str:
    scores, reference = comparison.table, comparison.reference
    header = ["method", "mean", "standard error", "sessions"]
    if reference is not None:
        header += [f"minus {reference}", "standard error", "sessions better"]
    rows = []
    for name, row in scores.rows.items():
        cells: list[Cell | str] = [name, number(row.mean), number(row.standard_error), _whole(len(row.sessions))]
        if reference is not None and name != reference:
            gap = difference(scores, name, reference)
            cells += [
                number(gap.mean, signed=True),
                number(gap.standard_error),
                Cell(f"{gap.better} of {gap.sessions}", gap.better),
            ]
        elif reference is not None:
            cells += [Cell("–")] * 3
        rows.append(cells)
    caption = "Standard errors are over sessions. Differences are taken within a session"
    caption += f" from {reference}, the baseline with the best mean." if reference is not None else "."
    return table(header, rows, caption=caption)


def _session_table(comparison: Comparison) -> str:
    scores = comparison.table
    known = {name: facts for evaluation in comparison.evaluations for name, facts in evaluation.sessions.items()}
    best = max if scores.higher_is_better else min
    rows = []
    for session in scores.sessions:
        values = {name: row.sessions.get(session, float("nan")) for name, row in scores.rows.items()}
        top = best((value for value in values.values() if value == value), default=None)
        facts = known.get(session, {})
        rows.append(
            [
                session,
                str(facts.get("subject", "–")),
                *(_whole(facts.get(fact)) for fact in ("units", "windows")),
                *(number(value, best=value == top) for value in values.values()),
            ]
        )
    footer = [
        ["mean", "", "", "", *(number(row.mean) for row in scores.rows.values())],
        ["standard error", "", "", "", *(number(row.standard_error) for row in scores.rows.values())],
    ]
    header = ["session", "subject", "units", "windows", *scores.rows]
    caption = "The best of a row is blue. A click on a header sorts."
    return table(header, rows, footer, caption, text_columns=(0, 1))


def _generated_section(generated: Sequence[GeneratedTrials], pictures: dict[str, bytes]) -> Section:
    parts = [paragraph(FREE_RUNNING), paragraph(NOISE_FLOOR)]
    for trials in generated:
        distances = distances_from_held_out(trials)
        key = _unused(_file_name(trials.head), pictures, _file_name(f"{trials.head}_{trials.session_id}"))
        pictures[key] = png_bytes(head_picture(trials, distances))
        parts.append(f"<h3>{escape(f'{trials.head} head, session {trials.session_id}')}</h3>")
        words = f"Generated against held-out activity: {trials.head} head, session {trials.session_id}"
        parts.append(picture(pictures[key], words))
        parts.append(_distance_table(trials, distances))
    return Section("generated", "Generated against held-out activity", "\n".join(parts))


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


def _training_section(histories: Mapping[str, dict[str, Columns]], pictures: dict[str, bytes]) -> Section:
    parts = []
    for name, history in histories.items():
        key = _unused(_file_name(f"training_{Path(name).name}"), pictures)
        pictures[key] = png_bytes(training_picture(history))
        parts += [f"<h3>{escape(name)}</h3>", picture(pictures[key], f"Training curves of {name}")]
        rows = [
            [stage, _whole(int(columns["step"][-1])), number(float(columns["loss"][-1])) if "loss" in columns else "–"]
            for stage, columns in history.items()
        ]
        parts.append(table(["stage", "last step logged", "last loss logged"], rows))
    return Section("training", "Training", "\n".join(parts))


def _origin_section(evaluations: Sequence[Evaluation], generated: Sequence[GeneratedTrials], command: str) -> Section:
    """Command, data, seeds, and every setting that the files state."""
    parts = ["<h3>Command</h3>", f"<pre>{escape(command)}</pre>"]
    for evaluation, name in zip(evaluations, labels(evaluations)):
        settings = dict(evaluation.settings)
        if isinstance(settings.get("command"), list):
            settings["command"] = shlex.join(["python", *map(str, settings["command"])])
        rows = [[key, _plain(value)] for key, value in {"file": str(evaluation.path), **settings}.items()]
        rows.append(["windows, all sessions", _plain(sum(s.get("windows", 0) for s in evaluation.sessions.values()))])
        parts += [f"<h3>Evaluation: {escape(name)}</h3>", table(["setting", "value"], rows, text_columns=(0, 1))]
    if generated:
        header = ["head", "session", "subject", "trials", "samples", "units", "context bins", "generated bins",
                  "bin (ms)", "seed", "temperature"]  # fmt: skip
        rows = [
            [t.head, t.session_id, t.subject_id]
            + [_whole(n) for n in (t.trials, t.samples, t.units, t.context_bins, t.horizon_bins)]
            + [Cell(f"{1e3 * t.bin_s:g}", t.bin_s), _whole(t.seed), Cell(f"{t.temperature:g}", t.temperature)]
            for t in generated
        ]
        parts += ["<h3>Generated trials</h3>", table(header, rows, text_columns=(0, 1, 2))]
    return Section("origin", "Command, data, seeds", "\n".join(parts))


def _plain(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _whole(value: object) -> Cell:
    return Cell(f"{value:,}", value) if isinstance(value, int) else Cell("–")


def _with_error(mean: float, error: float, signed: bool = False) -> str:
    text = number(mean, signed=signed).text
    return text if error != error else f"{text} ± {number(error).text}"


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def _unused(name: str, taken: Mapping[str, bytes], fuller: str | None = None) -> str:
    """`name`, or when a picture has it already `fuller`, or then with a number."""
    for candidate in (name, fuller or name):
        if candidate not in taken:
            return candidate
    base, count = fuller or name, 2
    while f"{base}_{count}" in taken:
        count += 1
    return f"{base}_{count}"
