"""The report of evaluations, generated trials, transfer and training runs: one self-contained HTML page."""

from collections.abc import Mapping, Sequence

from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.run_history import Columns
from neurochorus.pretrain.evaluation.score_comparison import labels
from neurochorus.pretrain.evaluation.transfer_file import Transfer
from neurochorus.pretrain.reporting.calibration_section import calibration_section
from neurochorus.pretrain.reporting.comparison_section import comparison_section
from neurochorus.pretrain.reporting.example_section import example_section
from neurochorus.pretrain.reporting.generated_section import generated_section
from neurochorus.pretrain.reporting.horizon_section import horizon_section
from neurochorus.pretrain.reporting.html_page import Section, page
from neurochorus.pretrain.reporting.origin_section import origin_section
from neurochorus.pretrain.reporting.score_section import score_sections
from neurochorus.pretrain.reporting.training_section import training_section
from neurochorus.pretrain.reporting.transfer_section import transfer_section


def build_report(
    evaluations: Sequence[Evaluation],
    generated: Sequence[GeneratedTrials],
    histories: Mapping[str, dict[str, Columns]],
    command: str,
    title: str = "neurochorus: report",
    transfers: Sequence[Transfer] = (),
    examples: Sequence[GeneratedTrials] = (),
) -> str:
    """Return the page; `histories` are training runs by name, `examples` one session and head each.

    Raises ValueError when there is nothing to report.
    """
    if not (evaluations or generated or histories or transfers or examples):
        raise ValueError("nothing to report: give metrics, generated trials, examples, transfer files or runs")
    names = labels(evaluations)
    lead, scores = score_sections(evaluations)
    sections: list[Section | None] = [*scores, horizon_section(evaluations, names)]
    sections.append(comparison_section(evaluations, names))
    calibrated = [evaluation for evaluation in evaluations if evaluation.calibration is not None]
    if calibrated:
        sections.append(calibration_section(calibrated, labels(calibrated)))
    if transfers:
        sections.append(transfer_section(transfers))
    if examples:
        sections.append(example_section(examples))
    if generated:
        sections.append(generated_section(generated))
    if histories:
        sections.append(training_section(histories))
    sections.append(origin_section(evaluations, generated, command))
    return page(title, lead, [section for section in sections if section is not None])
