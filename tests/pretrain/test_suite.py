"""The whole suite on two small sessions: what is in metrics.json, what is left out and why, and its statistics."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.launch.evaluation_tables import result_tables
from neurochorus.pretrain.evaluation.evaluate import evaluate
from neurochorus.pretrain.evaluation.evaluation_file import read_evaluation
from neurochorus.pretrain.evaluation.suite.generated_statistics import FLOOR, generated_statistics
from neurochorus.pretrain.evaluation.suite.horizons import leads_within
from neurochorus.pretrain.evaluation.suite.session_data import Generated, SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import Undefined
from neurochorus.pretrain.evaluation.windows import Windows
from tests.models.conftest import small_model
from tests.pretrain.suite_corpus import CONTEXT, FORECAST, HORIZON, write_suite_corpus
from tests.pretrain.test_metrics import nlb_bits_per_spike

SETTINGS = SuiteSettings(synthetic_trials=[10], synthetic_samples=2, generated_splits=2, condition_trials=4)
NOT_ALIGNED = "its samples are stretches of a longer recording, not trials aligned to an event"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_suite_corpus(tmp_path_factory.mktemp("suite") / "data")


def run(corpus: Corpus, modality: str = "spikes", suite: tuple[str, ...] = ("all",)) -> dict[str, Any]:
    model, other = (small_model(modality=modality, seed=seed) for seed in (0, 1))
    made = evaluate(
        model, corpus, ["a_s1", "b_s1"], "test", FORECAST, beside={"other": other}, suite=suite, suite_settings=SETTINGS
    )
    return json.loads(json.dumps(made, allow_nan=False))  # nothing that JSON cannot hold


@pytest.fixture(scope="module")
def results(corpus: Corpus) -> dict[str, Any]:
    return run(corpus)


def table(results: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [entry for entry in results["tables"] if entry["name"] == name]
    return found


def test_every_table_has_its_definition_and_means_over_sessions(results: dict[str, Any]):
    names = [entry["name"] for entry in results["tables"]]
    assert len(set(names)) == len(names)
    assert set(names) >= {
        "co_smoothing",
        "forecast_poisson_d2",
        "forecast_bits_per_spike_unit_mean",
        "reconstruction_poisson_d2",
        "psth_r2",
        "psth_r2_forecast",
        "decoding_stimulus",
        "decoding_label_side",
        "decoding_generated_stimulus",
        "decoding_synthetic_label_side",
        "generated_correlation_rmse",
    }
    for entry in results["tables"]:
        assert entry["definition"]
        assert entry["better"] in ("higher", "lower")
        for row in entry["rows"].values():
            values = [value for value in row["sessions"].values() if value is not None]
            if values:
                assert row["mean"] == pytest.approx(np.mean(values))
            if len(values) == 2:
                assert row["sem"] == pytest.approx(abs(values[0] - values[1]) / 2)


def test_what_a_session_lacks_is_said(results: dict[str, Any]):
    assert table(results, "psth_r2")["note"] == f"left out: b_s1: {NOT_ALIGNED}"
    for name in ("decoding_stimulus", "decoding_label_side"):
        assert table(results, name)["note"] == "left out: b_s1: it has no covariates and no labels of trials"
    assert table(results, "co_smoothing")["note"] == ""
    left_out = results["suite"]["left_out"]
    assert left_out.keys() == {"psth", "decoding", "decoding_label_start_s"}
    assert left_out["decoding_label_start_s"] == {"a_s1": "the label has more than 8 values: it is no category"}
    assert results["forecast"]["note"] == f"no psth in b_s1: {NOT_ALIGNED}"
    psth = results["forecast"]["rows"]["psth"]["sessions"]
    assert psth["b_s1"] is None
    assert psth["a_s1"] == pytest.approx(results["forecast"]["rows"]["psth"]["mean"])
    assert table(results, "co_smoothing")["rows"]["psth"]["sessions"]["b_s1"] is None


def test_conditions_are_labels_that_trials_share(results: dict[str, Any]):
    """The two sides, and not the starting times, which are another in every trial."""
    rows = table(results, "psth_r2")["rows"]
    assert rows["psth, train trials"]["mean"] > 0.7
    assert abs(rows["train mean"]["mean"]) < 0.1


def test_the_last_lead_is_the_forecast_and_each_is_nlb_tools_fp_bps(results: dict[str, Any], corpus: Corpus):
    horizons = results["horizons"]
    assert horizons["leads_bins"] == [1, 2, 5, HORIZON]
    for row, values in horizons["rows"].items():
        for session, by_lead in values["sessions"].items():
            whole = results["forecast"]["rows"][row]["sessions"][session]
            assert by_lead[-1] == pytest.approx(whole, rel=1e-9)
    data = SessionData(corpus, "b_s1", "test", FORECAST)
    train, test = (data.windows(split).signal_NTC.astype(float) for split in ("train", "test"))
    for place, lead in enumerate(horizons["leads_bins"]):
        future = test[:, CONTEXT : CONTEXT + lead]
        mean = train[:, : CONTEXT + lead].mean(axis=(0, 1))
        expected = nlb_bits_per_spike(np.broadcast_to(mean, future.shape).copy(), future)
        assert horizons["rows"]["train mean"]["sessions"]["b_s1"][place] == pytest.approx(expected, rel=1e-9)


def test_the_main_row_is_compared_with_every_other(results: dict[str, Any]):
    for name, rows, main in (
        ("forecast", results["forecast"]["rows"], "energy"),
        ("co_smoothing", table(results, "co_smoothing")["rows"], "seen rows"),
    ):
        found = {
            frozenset((entry["better_row"], entry["than_row"])): entry
            for entry in results["comparisons"]
            if entry["table"] == name and main in (entry["better_row"], entry["than_row"])
        }
        assert found.keys() == {frozenset((main, row)) for row in rows if row != main}
        for entry in found.values():
            shared = [
                rows[entry["better_row"]]["sessions"][session] - rows[entry["than_row"]]["sessions"][session]
                for session in ("a_s1", "b_s1")
                if None not in (rows[row]["sessions"][session] for row in (entry["better_row"], entry["than_row"]))
            ]
            assert entry["sessions"] == len(shared)
            assert entry["difference"] == pytest.approx(np.mean(shared))
            assert entry["difference"] >= 0
    assert {entry["lead_bins"] for entry in results["comparisons"] if "horizons" in entry["table"]} == {
        1,
        2,
        5,
        HORIZON,
    }


def test_probabilistic_scores_are_compared_too(results: dict[str, Any]):
    found = [entry for entry in results["comparisons"] if entry["table"] == "units: crps"]
    assert {frozenset((entry["better_row"], entry["than_row"])) for entry in found} >= {frozenset(("energy", "other"))}
    rows = results["calibration"]["rows"]
    crps = {row: rows[row]["units"]["stretch"]["crps"]["sessions"] for row in ("energy", "other")}
    gain = np.mean([crps["other"][session] - crps["energy"][session] for session in ("a_s1", "b_s1")])
    (entry,) = [entry for entry in found if {entry["better_row"], entry["than_row"]} == {"energy", "other"}]
    assert entry["difference"] == pytest.approx(abs(gain))
    assert entry["better_row"] == ("energy" if gain > 0 else "other")
    assert {"units: energy_score", "population: crps"} <= {entry["table"] for entry in results["comparisons"]}
    assert set(rows["energy"]["latents"]["stretch"]["coverage"]["sessions"]) == {"a_s1", "b_s1"}


def test_baselines_with_a_memory_are_at_every_lead_too(corpus: Corpus):
    model = small_model(autoencoder={"earlier_memory_bins": 50.0})
    made = evaluate(model, corpus, ["b_s1"], "test", FORECAST, suite=("horizons",))
    for row in ("earlier mean", "ridge mix, earlier"):
        (by_lead,) = made["horizons"]["rows"][row]["sessions"].values()
        assert by_lead[-1] == pytest.approx(made["forecast"]["rows"][row]["sessions"]["b_s1"])
        assert np.isfinite(by_lead).all()


def test_a_silent_session_is_left_out_and_named(tmp_path: Path):
    corpus = write_suite_corpus(tmp_path / "data", silent="b_s1")
    made = evaluate(small_model(), corpus, ["a_s1", "b_s1"], "test", FORECAST, suite=("horizons", "psth"))
    assert list(made["sessions"]) == list(made["forecast"]["rows"]["energy"]["sessions"]) == ["a_s1"]
    assert made["sessions_left_out"] == {"b_s1": "no spike in its train windows"}
    assert "left out: b_s1: no spike in its train windows" in made["forecast"]["note"]
    with pytest.raises(ValueError, match="no session can be scored: b_s1: no spike in its train windows"):
        evaluate(small_model(), corpus, ["b_s1"], "test", FORECAST)


def test_the_stimulus_is_decoded_from_counts(results: dict[str, Any]):
    rows = table(results, "decoding_stimulus")["rows"]
    assert rows["smoothed counts"]["mean"] > rows["raw counts"]["mean"] > 0.1
    assert abs(rows["train mean"]["mean"]) < 0.2
    labels = table(results, "decoding_label_side")["rows"]
    assert labels["chance"]["mean"] == 0.5
    assert labels["raw counts"]["mean"] > 0.6
    assert set(rows) == {"latents", "latents, other", "rates", "raw counts", "smoothed counts", "train mean"}


def test_the_page_and_the_screen_read_it(results: dict[str, Any], tmp_path: Path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"model": "x", "data": ["y"], **results}))
    read = read_evaluation(path)
    assert np.isnan(read.tables["forecast"].rows["psth"].sessions["b_s1"])
    shown = [item if isinstance(item, str) else str(item.title) for item in result_tables(results)]
    for words in (
        "co-smoothing",
        "forecast up to a lead",
        "decoding of stimulus",
        "the floor is perfect",
        "better row",
    ):
        assert any(words in title for title in shown), words
    assert any(text == f"psth: left out b_s1: {NOT_ALIGNED}" for text in shown)


def test_nothing_more_is_measured_unless_asked_for(corpus: Corpus):
    plain = run(corpus, suite=())
    assert "horizons" not in plain
    assert all(entry["name"].startswith(("forecast_", "reconstruction_")) for entry in plain["tables"])
    assert {entry["table"] for entry in plain["comparisons"]} >= {"forecast", "reconstruction", "forecast_poisson_d2"}
    list(result_tables(plain))
    with pytest.raises(ValueError, match="suite 'co-smoothing': expected horizons, co_smoothing, psth"):
        run(corpus, suite=("co-smoothing",))


def test_continuous_signals_have_the_suite_too(tmp_path: Path):
    found = run(write_suite_corpus(tmp_path / "data", "continuous"), "continuous")
    names = {entry["name"]: entry for entry in found["tables"]}
    assert names["co_smoothing"]["metric"] == "r2"
    assert names["forecast_mae"]["better"] == "lower"
    assert names.keys() >= {
        "generated_correlations",
        "psth_r2",
        "decoding_stimulus",
        "reconstruction_r2_variance_weighted",
    }
    assert set(names["decoding_stimulus"]["rows"]) >= {"raw signal", "smoothed signal"}
    list(result_tables(found))


def statistics_of(width: float, seed: int = 0, trials: int = 160) -> dict[str, dict[str, float]]:
    """Generated and recorded counts of one law, but for trials' gains `width` times as wide."""
    rng = np.random.default_rng(seed)
    rates = np.array([0.3, 0.5, 0.8, 1.2, 0.4, 0.9])

    def drawn(count: int, spread: float) -> np.ndarray:
        gains = np.exp(spread * np.cumsum(rng.normal(0, 0.15, size=(count, 24, 1)), axis=1))
        return rng.poisson(rates * gains).astype(np.int32)

    windows = {
        split: Windows(drawn(trials, 1.0), [str(row) for row in range(trials)], [], 0) for split in ("train", "test")
    }
    made = Generated(np.zeros((2, trials, 24, 1)), np.stack([drawn(trials, width) for _ in range(2)]))
    data = SimpleNamespace(
        split="test",
        spikes=True,
        forecast=SimpleNamespace(context_bins=0, horizon_bins=24),
        corpus=SimpleNamespace(bin_s=0.01, modality="spikes"),
        windows=lambda split: windows[split],
        generated=lambda model, split, samples, head: made,
    )
    tables = generated_statistics(cast(SessionData, data), cast(Any, {"model": (None, None)}), SuiteSettings())
    return {spec.metric: rows for spec, rows in tables.items()}


def test_trials_of_the_true_law_stand_at_the_floor_and_others_above():
    good = [statistics_of(1.0, seed) for seed in range(4)]
    bad = statistics_of(3.0)
    for name in ("correlation_rmse", "mean_interval_rmse", "autocorrelation_rmse", "count_kl_bulk"):
        ratio = np.mean([rows[name]["model"] / rows[name][FLOOR] for rows in good])
        assert 0.6 < ratio < 1.6, name
        assert bad[name]["model"] > 2 * bad[name][FLOOR], name


def test_too_few_trials_have_no_statistics():
    with pytest.raises(Undefined, match="3 windows in the test split; halves need 4 or more"):
        statistics_of(1.0, trials=3)


def test_settings_that_cannot_work_are_refused(corpus: Corpus):
    assert leads_within(None, 60) == [1, 2, 5, 10, 20, 50, 60]
    assert leads_within([5, 1], 5) == [1, 5]
    with pytest.raises(ValueError, match=r"leads_bins: \[7\]; expected leads of 1 to 6 bins"):
        leads_within([7], 6)
    with pytest.raises(SettingsError, match=r"held_out_share: 1.5; expected a share(.|\n)*synthetic_trials: \[0\]"):
        parse_settings(SuiteSettings, {"held_out_share": 1.5, "synthetic_trials": [0]}, "--suite-set")
