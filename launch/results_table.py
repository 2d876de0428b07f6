"""Results of several seeds as one markdown table: a row a session, a column a forecast."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def markdown_table(results: Sequence[dict[str, Any]], target_subject: str | None) -> str:
    """Forecast of each session (mean over seeds) for every row of metrics.json, means and spread at the end.

    The last lines: mean over all sessions with its standard error over sessions, the standard deviation of that mean
    over seeds, and, if there is a target animal, the means over the sessions of the pretraining animals and of it.
    """
    rows = list(results[0]["forecast"]["rows"])
    sessions = results[0]["sessions"]
    values = {
        row: np.array([[one["forecast"]["rows"][row]["sessions"][name] for name in sessions] for one in results])
        for row in rows
    }  # (seeds, sessions)
    on_target = np.array([facts["subject"] == target_subject for facts in sessions.values()])
    lines = ["| session | subject | " + " | ".join(rows) + " |", "|---" * (2 + len(rows)) + "|"]
    for place, (name, facts) in enumerate(sessions.items()):
        cells = " | ".join(f"{values[row][:, place].mean():.3f}" for row in rows)
        lines.append(f"| {name} | {facts['subject']} | {cells} |")

    def summary(title: str, cell: Any) -> str:
        return f"| **{title}** | | " + " | ".join(cell(values[row]) for row in rows) + " |"

    lines.append(summary("mean over sessions", lambda v: f"**{v.mean():.4f}**"))
    lines.append(summary("s.e. over sessions", lambda v: f"{v.mean(axis=0).std(ddof=1) / v.shape[1] ** 0.5:.4f}"))
    if len(results) > 1:
        lines.append(summary("s.d. over seeds", lambda v: f"{v.mean(axis=1).std(ddof=1):.4f}"))
    if target_subject is not None:
        lines.append(summary("pretraining animals", lambda v: f"{v[:, ~on_target].mean():.4f}"))
        lines.append(summary(f"new animal ({target_subject})", lambda v: f"{v[:, on_target].mean():.4f}"))
    return "\n".join(lines) + "\n"
