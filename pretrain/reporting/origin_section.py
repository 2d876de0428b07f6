"""Where a report comes from: command, data, seeds, and every setting that the files state."""

import shlex
from collections.abc import Sequence
from html import escape

from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.score_comparison import labels
from neurochorus.pretrain.reporting.cells import whole
from neurochorus.pretrain.reporting.html_page import Cell, Section, table


def origin_section(evaluations: Sequence[Evaluation], generated: Sequence[GeneratedTrials], command: str) -> Section:
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
            + [whole(n) for n in (t.trials, t.samples, t.units, t.context_bins, t.horizon_bins)]
            + [Cell(f"{1e3 * t.bin_s:g}", t.bin_s), whole(t.seed), Cell(f"{t.temperature:g}", t.temperature)]
            for t in generated
        ]
        parts += ["<h3>Generated trials</h3>", table(header, rows, text_columns=(0, 1, 2))]
    return Section("origin", "Command, data, seeds", "\n".join(parts))


def _plain(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
