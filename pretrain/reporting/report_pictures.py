"""The report's pictures as PNG files, for where a page does not go: slides, papers, a README."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from neurochorus.pretrain.evaluation.calibration_pictures import calibration_picture
from neurochorus.pretrain.evaluation.evaluation_file import TABLES, Evaluation
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.pictures import head_picture
from neurochorus.pretrain.evaluation.result_pictures import score_picture, training_picture
from neurochorus.pretrain.evaluation.run_history import Columns
from neurochorus.pretrain.evaluation.score_comparison import compare_scores, labels
from neurochorus.pretrain.reporting.calibration_section import crps_reference, methods_of


def report_pictures(
    evaluations: Sequence[Evaluation],
    generated: Sequence[GeneratedTrials],
    histories: Mapping[str, dict[str, Columns]],
) -> dict[str, bytes]:
    """Name -> PNG: forecast, reconstruction, calibration, one a head and one a run."""
    pictures: dict[str, bytes] = {}
    for name in TABLES:
        for comparison in compare_scores(evaluations, name):
            pictures[_unused(name, pictures)] = png_bytes(score_picture(comparison.table, comparison.learned))
    calibrated = [evaluation for evaluation in evaluations if evaluation.calibration is not None]
    if calibrated:
        methods = methods_of(calibrated, labels(calibrated))
        pictures["calibration"] = png_bytes(calibration_picture(methods, crps_reference(methods)))
    for trials in generated:
        key = _unused(_file_name(trials.head), pictures, _file_name(f"{trials.head}_{trials.session_id}"))
        pictures[key] = png_bytes(head_picture(trials))
    for name, history in histories.items():
        key = _unused(_file_name(f"training_{Path(name).name}"), pictures)
        pictures[key] = png_bytes(training_picture(history))
    return pictures


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
