"""What arms are measured by is what evaluate.py reports of a model, and is refused where it is not defined."""

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.pretrain.evaluation.evaluate import evaluate
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.transfer_measures import Decoding, Forecasts, file_stem, measure_called
from tests.models.conftest import small_model
from tests.pretrain.suite_corpus import FORECAST, write_suite_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_suite_corpus(tmp_path_factory.mktemp("suite") / "data")


def test_the_forecast_is_that_of_evaluate(corpus: Corpus) -> None:
    model, measure = small_model(), measure_called("forecast", corpus, FORECAST)
    values = evaluate(model, corpus, ["a_s1"], "test", FORECAST)["forecast"]["rows"]
    assert measure.value(model, corpus, "a_s1", "test") == values["energy"]["sessions"]["a_s1"]
    found = measure.baselines(corpus, "a_s1", "test")
    shrunk = found.pop("train mean")
    assert 0 < abs(shrunk - values["train mean"]["sessions"]["a_s1"]) < 0.05
    for name, value in found.items():
        assert value == values[name]["sessions"]["a_s1"]
    remembering = measure_called("forecast", corpus, FORECAST, memory_bins=30.0)
    assert set(remembering.baselines(corpus, "a_s1", "test")) - set(found) == {
        "train mean", "earlier mean", "ridge mix, earlier"
    }  # fmt: skip


def test_what_is_decoded_is_that_of_the_suite(corpus: Corpus) -> None:
    model, measure = small_model(), measure_called("decoding:stimulus", corpus, FORECAST)
    found = evaluate(model, corpus, ["a_s1"], "test", FORECAST, suite=["decoding"])
    (table,) = [one for one in found["tables"] if one["name"] == "decoding_stimulus"]
    rows = {name: row["sessions"]["a_s1"] for name, row in table["rows"].items()}
    assert measure.value(model, corpus, "a_s1", "test") == rows["latents"]
    baselines = measure.baselines(corpus, "a_s1", "test")
    assert baselines == {name: rows[name] for name in ("raw counts", "smoothed counts", "train mean")}
    assert baselines["smoothed counts"] > 0.5  # one sign drives all bins of a trial
    assert np.isfinite(list(baselines.values())).all()


def test_measures_that_are_not_there_are_refused(corpus: Corpus) -> None:
    for text in ("decoding", "decoding:", "forecasts", "speed"):
        with pytest.raises(ValueError, match="expected forecast or decoding:COVARIATE"):
            measure_called(text, corpus, FORECAST)
    with pytest.raises(ValueError, match="no session has it; did you mean 'stimulus'"):
        measure_called("decoding:stimulos", corpus, FORECAST)
    aligned, endless = (SessionData(corpus, session, "test", FORECAST) for session in ("a_s1", "b_s1"))
    assert Decoding("stimulus", FORECAST).problem(aligned) is None
    assert Decoding("stimulus", FORECAST).problem(endless) == "it has no covariate 'stimulus'"
    assert Forecasts(True, FORECAST).problem(aligned) is None


def test_files_of_measures_do_not_overwrite_each_other(corpus: Corpus) -> None:
    names = [
        file_stem("transfer", measure_called(text, corpus, FORECAST)) for text in ("forecast", "decoding:stimulus")
    ]
    assert names == ["transfer", "transfer-decoding-stimulus"]
