"""The HTML report: complete, self-contained, and right about what it says; and its launch script."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from neurochorus.launch.report import main
from neurochorus.pretrain.evaluation.baselines import all_baselines
from neurochorus.pretrain.evaluation.evaluation_file import read_evaluation
from neurochorus.pretrain.evaluation.forecaster import MODALITIES
from neurochorus.pretrain.evaluation.run_history import read_run_history
from neurochorus.pretrain.evaluation.score_comparison import compare_scores, difference, is_learned
from neurochorus.pretrain.reporting.html_page import number, table

SESSIONS = ("otter_1", "otter_2", "hare_1")
SCORES = {
    "gaussian head, same backbone": (0.11, 0.22, 0.18),
    "train mean": (-0.091, -0.082, -0.073),
    "ridge": (0.101, 0.202, 0.153),
}


def row(values: tuple[float, ...]) -> dict[str, Any]:
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sem": error, "sessions": dict(zip(SESSIONS, values))}


def metrics(head: str, values: tuple[float, ...], **more: Any) -> dict[str, Any]:
    scores = {name: row(shared[: len(values)]) for name, shared in SCORES.items()}
    facts = {session: {"subject": session.split("_")[0], "windows": 21, "units": 1234} for session in SESSIONS}
    content = {
        "model": f"runs/{head}/export", "head": head, "modality": "spikes", "data": ["data/demo"], "split": "test",
        "seed": 17, "samples": 32,
        "command": ["launch/evaluate.py", "--model", f"runs/{head}"],
        "context_bins": 30, "horizon_bins": 10, "bin_s": 0.01,
        "forecast": {"metric": "bits_per_spike", "definition": "<gain> & loss", "rows": {head: row(values), **scores}},
        "reconstruction": {"metric": "bits_per_spike", "definition": "seen bins", "rows": {"autoencoder": row(values)}},
        "calibration": {"level": 0.9, "coverage_by_lead": [0.912, 0.887], "definition": "share inside"},
        "sessions": facts,
    }  # fmt: skip
    return content | more


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_baseline_is_taken_for_a_learned_model(modality: str) -> None:
    assert not any(is_learned(name) for name in all_baselines(modality, aligned=True))
    assert is_learned("energy")
    assert is_learned("gaussian head, same backbone")


def write_metrics(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    path.write_text(json.dumps(content))
    return path


def write_run(folder: Path, tail: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"stage": stage, "step": step, "samples_seen": 8 * step, "loss": 1 / step, "loss_present": 0.5 / step,
         "lr": 1e-3, "grad_norm": 1.0, "bins_per_s": 1e4}
        for stage in ("autoencoder", "dynamics") for step in (1, 10, 20)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def write_generated(path: Path, head: str, trials: int = 8, session: str = "otter_1") -> Path:
    rng = np.random.default_rng(0)
    np.savez(
        path, latents=rng.standard_normal((3, trials, 6, 2)), rates=np.ones((3, trials, 6, 5)),
        counts=rng.poisson(1.0, (3, trials, 6, 5)), context=rng.poisson(1.0, (trials, 4, 5)),
        held_out=rng.poisson(1.0, (trials, 6, 5)), held_out_latents=rng.standard_normal((trials, 6, 2)),
        unit_ids=np.array(list("abcde")), sample_ids=np.array([str(n) for n in range(trials)]), session_id=session,
        subject_id="otter", head=head, modality="spikes", bin_s=0.01, seed=5, temperature=1.0,
    )  # fmt: skip
    return path


class Page(HTMLParser):
    """Checks that tags are closed in order and charts have words; gathers text, tables as rows of cell texts, links."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.text, self.tables, self.addresses = "", [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if named.get("role") == "img":
            assert named["aria-label"]
        self.addresses += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Page]:
    """A report of two heads, with everything in it."""
    folder = tmp_path_factory.mktemp("report")
    a = write_metrics(folder / "a", metrics("energy", (0.121, 0.232, 0.194)))
    b = write_metrics(folder / "b", metrics("flow", (0.111, 0.213, 0.149)))
    pictures = [write_generated(folder / f"{head}.npz", head) for head in ("energy", "flow")]
    out = folder / "page" / "report.html"
    arguments = ["--metrics", a, b, "--generated", *pictures, "--runs", write_run(folder / "run"), "--out", out]
    arguments += ["--pictures", out.parent / "pictures"]
    assert main([str(argument) for argument in arguments]) == 0
    return out, Page(out.read_text(encoding="utf-8"))


def row_of(page: Page, title: str, table_with: str) -> list[str]:
    """The row of that name in the first table with such a header."""
    found = next(rows for rows in page.tables if table_with in rows[0])
    return next(cells for cells in found if cells[0] == title)


def test_every_session_value_mean_and_standard_error_is_in_the_page(made):
    page = made[1]
    header = row_of(page, "session", "subject")
    assert header[4:] == ["energy", "gaussian head, same backbone", "flow", "ridge", "train mean"]
    assert row_of(page, "otter_2", "subject") == [
        "otter_2", "otter", "1,234", "21", "0.2320", "0.2200", "0.2130", "0.2020", "−0.0820",
    ]  # fmt: skip
    assert row_of(page, "mean", "subject")[4:6] == ["0.1823", "0.1700"]
    error = np.std([0.121, 0.232, 0.194], ddof=1) / math.sqrt(3)
    assert row_of(page, "standard error", "subject")[4] == f"{error:.4f}"


def test_differences_are_paired_by_session(made):
    gaps = np.array([0.121, 0.232, 0.194]) - SCORES["ridge"]
    error = gaps.std(ddof=1) / math.sqrt(3)
    assert row_of(made[1], "energy", "minus ridge") == [
        "energy", "0.1823", row_of(made[1], "standard error", "subject")[4], "3",
        f"+{gaps.mean():.4f}", f"{error:.4f}", "3 of 3",
    ]  # fmt: skip
    assert row_of(made[1], "flow", "minus ridge")[-1] == "2 of 3"


def test_page_states_command_data_seeds_and_definitions(made):
    text = made[1].text
    for words in ("python launch/report.py --metrics", "data/demo", "<gain> & loss", "share inside", "Noise floor"):
        assert words in text
    assert row_of(made[1], "seed", "setting") == ["seed", "17"]
    assert row_of(made[1], "command", "setting")[1] == "python launch/evaluate.py --model runs/energy"
    assert row_of(made[1], "flow", "temperature")[-2:] == ["5", "1"]


def test_page_needs_nothing_else(made):
    out, page = made
    assert all(address.startswith("#") for address in page.addresses)
    html = re.sub(r'(<script type="text/plain"[^>]*>)[^<]*', r"\1", out.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|[^:]//[a-z]|@import|url\(", html)
    assert "default-src 'none'" in out.read_text(encoding="utf-8")


def test_pictures_are_written_where_they_are_asked_for(made):
    out = made[0]
    assert [path.name for path in out.parent.iterdir() if path.is_file()] == ["report.html"]
    names = ("calibration", "energy", "flow", "forecast", "reconstruction", "training_run")
    files = sorted((out.parent / "pictures").iterdir())
    assert [path.name for path in files] == [f"report_{name}.png" for name in names]
    for path in files:
        assert imread(path)[:, :, :3].std() > 0.03


def test_rows_that_differ_between_models_carry_their_names(made):
    titles = [cells[0] for rows in made[1].tables for cells in rows]
    assert {"autoencoder (energy)", "autoencoder (flow)"} <= set(titles)
    assert "ridge (energy)" not in titles


def test_models_measured_on_different_things_are_not_put_in_one_table(tmp_path):
    first = read_evaluation(write_metrics(tmp_path / "a", metrics("energy", (0.1, 0.2, 0.3))))
    for name, change in {"b": {"horizon_bins": 20}, "c": {"split": "valid"}}.items():
        other = read_evaluation(write_metrics(tmp_path / name, metrics("flow", (0.1, 0.2, 0.3), **change)))
        assert len(compare_scores([first, other], "forecast")) == 2
    fewer = read_evaluation(write_metrics(tmp_path / "d", metrics("flow", (0.1, 0.2))))
    assert len(compare_scores([first, fewer], "forecast")) == 2


def test_lower_can_be_better(tmp_path):
    content = metrics("energy", (0.1, 0.2, 0.1))
    content["forecast"]["metric"] = "poisson_nll"
    comparison = compare_scores([read_evaluation(write_metrics(tmp_path, content))], "forecast")[0]
    assert comparison.reference == "train mean"
    assert next(iter(comparison.table.rows)) == "train mean"
    assert difference(comparison.table, "energy", "ridge").better == 3


def test_one_session_has_no_standard_error(tmp_path):
    path = write_metrics(tmp_path, metrics("energy", (0.25,)))
    assert main(["--metrics", str(path), "--out", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert row_of(page, "energy", "mean")[1:3] == ["0.2500", "–"]
    assert "energy: forecasts at 0.2500 bits per spike; +0.1400 against ridge" not in page.text
    assert "energy: forecasts at 0.2500 bits per spike; +0.1490 against ridge" in page.text


def test_a_head_twice_gives_two_pictures(tmp_path):
    files = [write_generated(tmp_path / "a.npz", "energy"), write_generated(tmp_path / "b.npz", "energy", 3, "hare_1")]
    arguments = ["--generated", *map(str, files), "--out", str(tmp_path / "r.html"), "--pictures", str(tmp_path)]
    assert main(arguments) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"r_energy.png", "r_energy_hare_1.png"}
    assert "too few trials" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_text_from_files_cannot_become_markup(tmp_path):
    content = metrics("energy", (0.1, 0.2, 0.3), model="</pre><script>alert(1)</script>")
    path = write_metrics(tmp_path, content)
    assert main(["--metrics", str(path), "--title", "<b>", "--out", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<title>&lt;b&gt;</title>" in html


def test_numbers_sort_by_their_whole_value_and_undefined_ones_are_dashes():
    cells = table(["name", "value"], [["a", number(-0.123456)], ["b", number(float("nan"))]])
    assert '<td data-value="-0.123456">−0.1235</td>' in cells
    assert '<td data-value="">–</td>' in cells


def test_history_of_a_resumed_and_cut_run(tmp_path):
    again = json.dumps({"stage": "dynamics", "step": 20, "loss": 7.0, "loss_extra": 2.0})
    history = read_run_history(write_run(tmp_path / "run", tail=again + '\n{"stage": "dyn'))
    assert list(history) == ["autoencoder", "dynamics"]
    np.testing.assert_array_equal(history["dynamics"]["step"], [1, 10, 20])
    np.testing.assert_allclose(history["dynamics"]["loss"], [1.0, 0.1, 7.0])
    np.testing.assert_array_equal(history["dynamics"]["loss_extra"], [np.nan, np.nan, 2.0])


def test_broken_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 7 is no line of a run"):
        read_run_history(write_run(tmp_path / "a", tail="oops\n"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no lines"):
        read_run_history(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": None}, "head is None, expected str"),
        ({"forecast": {"metric": "x"}}, "has no forecast.rows"),
        (
            {"forecast": {"metric": "x", "rows": {"a": {"mean": "1", "sessions": {}}}}},
            "rows.a.mean is '1', expected a number",
        ),
        ({"forecast": {"metric": "x", "rows": {"a": {"mean": 1.0, "sessions": {"s": 2.0}}}}}, "its sessions average 2"),
        ({"calibration": {"level": 0.9}}, "has no calibration.coverage_by_lead"),
        ({"sessions": []}, r"sessions is \[\], expected dict"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(tmp_path, capsys, change, message):
    path = write_metrics(tmp_path, metrics("energy", (0.1, 0.2, 0.3)) | change)
    assert main(["--metrics", str(path), "--out", str(tmp_path / "r.html")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {path}")
    assert re.search(message, printed)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_missing_files_and_nothing_to_report(tmp_path, capsys):
    assert main(["--metrics", str(tmp_path / "none.json"), "--out", str(tmp_path / "r.html")]) == 1
    assert "none.json" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "r.html")]) == 1
    assert "nothing to report" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
