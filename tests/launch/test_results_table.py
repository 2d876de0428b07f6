"""The table of results.py: means and spreads by hand."""

from typing import Any

import pytest

from neurochorus.launch.results_table import markdown_table


def metrics(ours: list[float], ridge: list[float]) -> dict[str, Any]:
    rows = {"energy": ours, "ridge": ridge}
    return {
        "sessions": {"a": {"subject": "ann"}, "b": {"subject": "ann"}, "c": {"subject": "ben"}},
        "forecast": {
            "rows": {row: {"sessions": dict(zip("abc", values, strict=True))} for row, values in rows.items()}
        },
    }


@pytest.mark.parametrize("target", [None, "ben"])
def test_means_and_spreads(target: str | None) -> None:
    seeds = [metrics([0.1, 0.2, 0.6], [0.1, 0.1, 0.1]), metrics([0.3, 0.2, 0.4], [0.1, 0.1, 0.1])]
    lines = markdown_table(seeds, target).splitlines()
    assert lines[0] == "| session | subject | energy | ridge |"
    assert lines[2] == "| a | ann | 0.200 | 0.100 |"
    assert lines[5] == "| **mean over sessions** | | **0.3000** | **0.1000** |"
    # means of the sessions over seeds are 0.2, 0.2, 0.5: sd 0.1732, over the root of 3
    assert lines[6] == "| **s.e. over sessions** | | 0.1000 | 0.0000 |"
    assert lines[7] == "| **s.d. over seeds** | | 0.0000 | 0.0000 |"
    ends = ["| **pretraining animals** | | 0.2000 | 0.1000 |", "| **new animal (ben)** | | 0.5000 | 0.1000 |"]
    assert lines[8:] == (ends if target else [])
    assert not any("over seeds" in line for line in markdown_table(seeds[:1], target).splitlines())
