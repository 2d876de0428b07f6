"""What the report's charts hold: their numbers, what they leave out, and that plotly knows every property."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from neurochorus.launch.report import main
from neurochorus.pretrain.evaluation.evaluation_file import read_evaluation
from neurochorus.pretrain.evaluation.example_forecasts import read_example_forecasts
from neurochorus.pretrain.evaluation.generated_trials import trials_of
from neurochorus.pretrain.evaluation.transfer_file import read_transfer
from neurochorus.pretrain.reporting.charts import Plot, band, chart_group, line, numbers, plain
from neurochorus.pretrain.reporting.example_section import example_section
from neurochorus.pretrain.reporting.generated_section import generated_section
from neurochorus.pretrain.reporting.latent_charts import principal_components, trajectory_plot
from neurochorus.pretrain.reporting.transfer_section import POOLED_WORDS, session_means, transfer_section
from neurochorus.pretrain.reporting.trial_charts import population_fan, unit_bins, unit_fan
from tests.pretrain.report_files import HOSTILE, LEADS, SESSIONS, metrics, transfer, trials, write_arrays, write_files


def unpacked(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def array(spec: dict[str, str]) -> np.ndarray:
    found = np.frombuffer(base64.b64decode(spec["bdata"]), {"f4": "<f4", "u1": "u1"}[spec["dtype"]])
    return found.reshape([int(size) for size in spec["shape"].split(",")]) if "shape" in spec else found


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    assert main(write_files(folder)) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def charts(html) -> list[dict[str, Any]]:
    """Every plot of the page."""
    groups = re.findall(r'<script type="text/plain">([^<]*)</script></figure>', html)
    assert len(groups) > 10
    return [plot for group in groups for panel in json.loads(unpacked(group)) for plot in panel["plots"].values()]


def test_plotly_knows_every_property_and_every_plot_has_traces(charts):
    for plot in charts:
        assert plot["traces"]
        layout = dict(plot["layout"])
        for axis in ("xaxis", "yaxis"):
            if axis in layout:
                layout[axis] = {**layout[axis], "title": {"text": layout[axis].get("title", "")}}
        go.Figure(plot["traces"], layout)


def bare(**change: Any) -> dict[str, np.ndarray]:
    """Trials without what a file may lack, and with `change`."""
    optional = ("held_out", "held_out_latents", "context_latents", "unit_ids")
    arrays = {name: value for name, value in trials().items() if name not in optional}
    return arrays | {name: np.asarray(value) for name, value in change.items()}


ODD = {
    "from nothing": bare(context=np.zeros((6, 0, 5))),
    "continuous": trials() | {"modality": np.array("continuous"), "counts": trials()["counts"] * 0.1 - 0.3},
    "continuous from nothing": bare(context=np.zeros((6, 0, 5)), modality="continuous"),
    "one of everything": {
        name: value[:1, :1, :1, :1] if value.ndim == 4 else value[:1, :1, :1] if value.ndim == 3 else value[:1]
        if value.ndim else value
        for name, value in trials().items()
    },
    "silent": trials() | {"counts": np.zeros((12, 6, 20, 5)), "held_out": np.zeros((6, 20, 5))},
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD)
def test_odd_files_give_charts_that_plotly_takes(name):
    one = trials_of(Path("x.npz"), ODD[name])
    sections = generated_section([one]).body + example_section([one]).body
    groups = re.findall(r'<script type="text/plain">([^<]*)</script></figure>', sections)
    planes = ODD[name]["latents"].shape[-1] > 1
    assert len(groups) == (6 if planes else 5)
    assert ("Latent trajectories</h4>" in sections) == planes
    for plot in (plot for group in groups for panel in json.loads(unpacked(group)) for plot in panel["plots"].values()):
        go.Figure(plot["traces"])


def test_sections_and_no_markup_from_files(html):
    for title in ("Forecast", "Reconstruction", "More scores", "Score against lead", "Which differences hold",
                  "Transfer to new sessions", "Forecasts, session by session", "Training"):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert "<img" not in html
    assert html.count("</script>") == html.count("<script")
    assert "Decoding of &lt;speed&gt;" in html


def test_names_are_text_for_plotly_too(charts):
    texts = [text for plot in charts for trace in plot["traces"] for text in trace.get("text", ())]
    assert "&lt;img src=x onerror=" in " ".join(texts)
    assert not any("<" in text for text in texts)


def test_a_curve_without_a_finite_value_and_a_panel_without_a_curve_are_left_out(html, charts):
    assert line("a", np.full(3, np.nan), "#000000", (0.0, 1.0)) == []
    assert band("a", np.full(3, np.nan), np.ones(3), "#000000", (0.0, 1.0)) == []
    assert chart_group([plain("empty", "nothing", Plot([]))]) == ""
    assert "gradient norm" not in html
    assert "never defined" not in {trace.get("legendgroup") for plot in charts for trace in plot["traces"]}


def test_undefined_values_become_gaps_of_float32():
    found = array(numbers(np.array([1.5, np.inf, np.nan])))
    np.testing.assert_array_equal(found, np.array([1.5, np.nan, np.nan], dtype=np.float32))
    np.testing.assert_array_equal(array(numbers(np.array([[1, 2], [3, 255]], np.uint8))), [[1, 2], [3, 255]])


def test_the_fan_holds_the_quantiles_of_the_samples():
    one = trials_of(Path("x.npz"), trials())
    plot = population_fan(one, 2)
    named = {(trace["legendgroup"], trace.get("fill")): trace for trace in plot.traces}
    sampled = one.counts_SBHC[:, 2].mean(axis=-1) / 0.01
    outer = array(named["middle 90 %", "toself"]["y"])
    np.testing.assert_allclose(outer[:20], np.percentile(sampled, 95, axis=0), rtol=1e-6)
    np.testing.assert_allclose(outer[20:], np.percentile(sampled, 5, axis=0)[::-1], rtol=1e-6)
    np.testing.assert_allclose(array(named["median of samples", None]["y"]), np.median(sampled, axis=0), rtol=1e-6)
    assert named["recorded", None]["x0"] == pytest.approx(5.0)
    assert named["context", None]["x0"] == pytest.approx(-75.0)


def test_units_are_shown_in_bins_wide_enough_and_the_last_bin_of_the_context_ends_where_it_does():
    one = trials_of(Path("x.npz"), trials(bins=40))
    assert unit_bins(one) == 5
    assert one.held_out_BHC is not None
    named = {trace["legendgroup"]: trace for trace in unit_fan(one, 0, 1).traces}
    np.testing.assert_array_equal(array(named["recorded"]["y"]), one.held_out_BHC[0, :, 1].reshape(8, 5).sum(axis=1))
    np.testing.assert_array_equal(array(named["context"]["y"]), [one.context_BTC[0, 3:, 1].sum()])
    assert named["context"]["x0"] == pytest.approx(-25.0)


def test_trajectories_start_at_the_end_of_the_context_in_the_plane_of_the_principal_components():
    one = trials_of(Path("x.npz"), trials())
    components = principal_components(one)
    assert one.held_out_latents_BHL is not None
    flat = one.held_out_latents_BHL.reshape(-1, 4)
    _, singular, vectors = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(vectors[:3] * components.vectors_LK.T, axis=1)), 1.0, rtol=1e-9)
    np.testing.assert_allclose(components.shares_K, (singular**2 / (singular**2).sum())[:3], rtol=1e-9)
    named = {trace["legendgroup"]: trace for trace in trajectory_plot(one, 1, components, (0, 2)).traces}
    context, recorded = (np.stack([array(named[name][axis]) for axis in "xy"]) for name in ("context", "recorded"))
    np.testing.assert_array_equal(context[:, -1], recorded[:, 0])
    expected = (one.held_out_latents_BHL[1] - flat.mean(axis=0)) @ components.vectors_LK[:, [0, 2]]
    np.testing.assert_allclose(recorded[:, 1:].T, expected, rtol=1e-4, atol=1e-5)


def test_transfer_is_averaged_over_the_seeds_that_are_defined(tmp_path):
    path = tmp_path / "transfer.json"
    path.write_text(json.dumps(transfer()))
    read = read_transfer(path)
    assert list(read.fractions) == ["0.1", "0.5", "1.0"]
    means = session_means(read.arms["rows"], "0.1")
    assert means == pytest.approx({"otter_1": 0.5, "otter_2": 0.21, "otter_3": 0.21})
    assert set(session_means(read.arms["scratch"], "1.0")) == {"otter_1", "otter_2"}
    assert read.comparisons[0].fraction == "0.1"
    page = transfer_section([read]).body
    assert "animals better" in page
    assert "2 of 2" in page
    assert POOLED_WORDS in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"rows": {"a tenth": {}}}}, "a fraction is called 'a tenth'"),
        ({"arms": {"rows": {"0.1": {"s": ["x"]}}}}, r"arms\.rows\.0\.1\.s\[0\] is 'x', expected a number"),
        ({"arms": None}, "arms is None, expected dict"),
        ({"comparisons": [{"better_row": "a"}]}, r"has no comparisons\[0\]\.than_row"),
    ],
)
def test_transfer_files_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "transfer.json"
    path.write_text(json.dumps(transfer() | change))
    with pytest.raises(ValueError, match=message) as caught:
        read_transfer(path)
    assert str(path) in str(caught.value)


def test_tables_and_horizons_of_the_file_are_read(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics()))
    read = read_evaluation(path)
    assert list(read.tables) == ["forecast", "reconstruction", "decoding", "correlations"]
    assert not read.tables["correlations"].higher_is_better
    assert np.isnan(read.tables["decoding"].rows["nothing"].mean)
    assert read.horizons is not None
    np.testing.assert_array_equal(read.horizons.leads_bins, LEADS)
    assert read.horizons.sessions == SESSIONS
    assert not any(name in read.settings for name in ("tables", "comparisons"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": {}}, None),
        ({"tables": [{"name": "forecast"}]}, "which another table has"),
        ({"tables": [{"name": "a", "better": "up"}]}, "better is 'up', expected higher or lower"),
        (
            {"horizons": {"metric": "x", "leads_bins": [1, 2], "rows": {"a": {"mean": [0.1]}}}},
            r"horizons\.rows\.a\.mean has shape \(1,\), expected one value for each of the 2 leads",
        ),
        ({"comparisons": "all"}, "comparisons is a str, expected a list"),
    ],
)
def test_new_parts_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics() | change))
    if message is None:
        assert set(read_evaluation(path).tables) == {"forecast", "reconstruction"}
        return
    with pytest.raises(ValueError, match=message):
        read_evaluation(path)


def test_examples_are_read_session_by_session_without_rates(tmp_path):
    arrays = {f"0/{name}": value for name, value in trials().items() if name != "rates"}
    write_arrays(tmp_path / "a.npz", arrays)
    read = read_example_forecasts(tmp_path / "a.npz")
    assert [one.session_id for one in read] == [HOSTILE]
    assert read[0].rates_SBHC is None
    write_arrays(tmp_path / "b.npz", trials())
    with pytest.raises(ValueError, match=r"holds an array 'latents': make it with launch/evaluate\.py --examples"):
        read_example_forecasts(tmp_path / "b.npz")
