"""What forecasts and generation are told of covariates: stimuli ahead, behaviour until the context ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import NeuralModel
from neurochorus.models.dynamics import CovariateConfig
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.contexts import covariates_from_file, read_context
from neurochorus.pretrain.evaluation.evaluate import evaluate
from neurochorus.pretrain.evaluation.generated_trials import read_generated_trials
from neurochorus.pretrain.evaluation.generation import generate, write_generated
from tests.models.conftest import small_model

CONTEXT, HORIZON, TRIALS = 8, 4, 30
BINS = CONTEXT + HORIZON
READ = {
    "stimulus": CovariateConfig(known="ahead", lag_bins=2, columns=1),
    "wheel": CovariateConfig(known="past", lag_bins=2, columns=2),
}
FORECAST = ForecastSection(context_bins=CONTEXT, horizon_bins=HORIZON, samples=3)
Change = Callable[[dict[str, np.ndarray]], None]


def write_corpus(path: Path, change: Change = lambda covariates: None) -> Corpus:
    """Session a_s1 of the small model; `change` is applied to its covariates (trials, bins, columns)."""
    generator = np.random.default_rng(0)
    covariates = {
        "stimulus": generator.normal(size=(TRIALS, BINS, 1)).astype(np.float32),
        "wheel": generator.normal(size=(TRIALS, BINS, 2)).astype(np.float32),
        "other": generator.normal(size=(TRIALS, BINS, 1)).astype(np.float32),
    }
    covariates["wheel"][0, 2] = np.nan
    change(covariates)
    splits = ("train", "valid", "test")
    made = Recording(
        session_id="a_s1",
        subject_id="a",
        modality="spikes",
        bin_s=0.01,
        signal_TC=generator.poisson(0.5, (TRIALS * BINS, 5)).astype(np.uint8),
        units=[Unit(f"u{number}", "") for number in range(5)],
        segments=[Segment(i * BINS, (i + 1) * BINS, splits[i % 3]) for i in range(TRIALS)],
        covariates={name: values.reshape(TRIALS * BINS, -1) for name, values in covariates.items()},
        provenance={},
    )
    write_dataset([made], path, name="told", sample_bins=BINS)
    return Corpus(path)


@pytest.fixture(scope="module")
def model() -> NeuralModel:
    return small_model(covariates=READ)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("told") / "data")


def measured(model: NeuralModel, corpus: Corpus) -> dict[str, Any]:
    return evaluate(model, corpus, ["a_s1"], "test", FORECAST, beside={"blind": small_model(seed=1)})


def test_behaviour_after_the_context_is_not_seen_and_stimuli_are(
    model: NeuralModel, corpus: Corpus, tmp_path: Path
) -> None:
    def wheel_turns(covariates: dict[str, np.ndarray]) -> None:
        covariates["wheel"][:, CONTEXT:] += 7.0
        covariates["other"] += 7.0

    def stimulus_jumps(covariates: dict[str, np.ndarray]) -> None:
        covariates["stimulus"][:, CONTEXT:] += 7.0

    def wheel_turned(covariates: dict[str, np.ndarray]) -> None:
        covariates["wheel"][:, CONTEXT - 1] += 7.0

    before = measured(model, corpus)
    assert before["covariates"] == {"stimulus": "ahead", "wheel": "past"}
    assert measured(model, write_corpus(tmp_path / "wheel", wheel_turns)) == before
    for number, change in enumerate((stimulus_jumps, wheel_turned)):
        after = measured(model, write_corpus(tmp_path / f"{number}", change))["forecast"]["rows"]
        assert after[model.config.head] != before["forecast"]["rows"][model.config.head]
        assert after["blind"] == before["forecast"]["rows"]["blind"]


def test_a_covariate_of_another_width_is_refused(model: NeuralModel, tmp_path: Path) -> None:
    def widen(covariates: dict[str, np.ndarray]) -> None:
        covariates["stimulus"] = np.repeat(covariates["stimulus"], 3, axis=2)

    wide = write_corpus(tmp_path / "wide", widen)
    with pytest.raises(ValueError, match=r"'a_s1': covariate 'stimulus' has 3 columns; the model reads 1"):
        measured(model, wide)


def context_of(model: NeuralModel, corpus: Corpus, covariates: str, **changes: Any) -> Any:
    options: dict[str, Any] = {"split": "test", "context_bins": CONTEXT, "horizon_bins": HORIZON, "trials": None}
    source = changes.pop("source", str(corpus.datasets[0].path))
    return read_context(model, "a_s1", source, covariates=covariates, **(options | changes))


def test_contexts_carry_what_was_asked_for(model: NeuralModel, corpus: Corpus) -> None:
    known, data = (context_of(model, corpus, name).covariates for name in ("known", "data"))
    assert {name: values.shape[1:] for name, values in known.items()} == {"stimulus": (12, 1), "wheel": (8, 2)}
    assert {name: values.shape[1:] for name, values in data.items()} == {"stimulus": (12, 1), "wheel": (12, 2)}
    np.testing.assert_array_equal(data["wheel"][:, :CONTEXT], known["wheel"])
    assert context_of(model, corpus, "none").covariates == {}
    assert context_of(model, corpus, "known", source="none", trials=2).covariates == {}
    alone = context_of(model, corpus, "data", context_bins=0, horizon_bins=BINS, trials=2)
    assert alone.signal_BTC.shape == (2, 0, 5)
    assert alone.held_out_BHC is not None
    assert alone.covariates["wheel"].shape == (2, BINS, 2)
    assert small_model().config.dynamics.covariates == {}
    assert context_of(small_model(), corpus, "known").covariates == {}


def test_generation_follows_the_covariates_it_is_given(model: NeuralModel, corpus: Corpus, tmp_path: Path) -> None:
    def made(covariates: str, guidance: float = 1.0, **changes: Any) -> dict[str, Any]:
        context = context_of(model, corpus, covariates, context_bins=0, **changes)
        return generate(model, context, HORIZON, samples=2, guidance=guidance)

    data, none = made("data"), made("none")
    assert set(data) - set(none) == {"covariate_stimulus", "covariate_wheel"}
    assert not np.array_equal(data["latents"], none["latents"])
    assert not np.array_equal(data["latents"], made("data", guidance=2.0)["latents"])
    np.testing.assert_allclose(none["latents"], made("none", guidance=2.0)["latents"], atol=1e-5)
    # the same arrays from a file give the same activity
    np.savez(tmp_path / "own.npz", stimulus=data["covariate_stimulus"], wheel=data["covariate_wheel"])
    own = made(str(tmp_path / "own.npz"))
    np.testing.assert_array_equal(own["counts"], data["counts"])
    trials = read_generated_trials(write_generated(tmp_path / "out.npz", data))
    assert trials.context_bins == 0
    with np.load(tmp_path / "out.npz") as archive:
        assert float(archive["guidance"]) == 1.0
        np.testing.assert_array_equal(archive["covariate_wheel"], data["covariate_wheel"])


def test_from_nothing_a_file_says_how_many_trials(model: NeuralModel, corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, stimulus=np.ones((3, 9, 1)))
    for trials, expected in ((None, 3), (2, 2)):
        context = context_of(model, corpus, str(path), source="none", trials=trials)
        assert context.covariates["stimulus"].shape == (expected, HORIZON, 1)
        assert len(context.keys) == expected
    with pytest.raises(ValueError, match=r"own.npz: stimulus has 3 trials, but there are 10 contexts"):
        context_of(model, corpus, str(path))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"stimulos": np.ones((2, 4, 1))}, "reads no covariate 'stimulos'; did you mean 'stimulus'"),
        ({"stimulus": np.ones((2, 4, 3))}, r"stimulus is float64 of shape \(2, 4, 3\); expected numbers .*, 1\)"),
        ({"stimulus": np.ones((2, 4))}, r"of shape \(2, 4\)"),
        ({"stimulus": np.full((2, 4, 1), "left")}, "expected numbers"),
        ({"stimulus": np.ones((2, 4, 1)), "wheel": np.ones((3, 4, 2))}, "found stimulus 2, wheel 3"),
        ({"stimulus": np.array([None])}, "not an .npz of plain arrays"),
        ({}, "found no array"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    model: NeuralModel, tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"own.npz: .*{words}"):
        covariates_from_file(tmp_path / "own.npz", model)


def test_covariates_that_are_not_there_are_refused(model: NeuralModel, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="covariates 'wheel': expected known, data, none or an"):
        context_of(model, corpus, "wheel")
    with pytest.raises(ValueError, match="covariates data: the context 'none' is no data set directory"):
        context_of(model, corpus, "data", source="none")
    with pytest.raises(ValueError, match=r"session 'a_s1' has none of those that the model reads \(none\)"):
        context_of(small_model(), corpus, "data")
    with pytest.raises(ValueError, match="none of its 10 test samples has 13 bins"):
        context_of(model, corpus, "data", context_bins=0, horizon_bins=13)
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"one.npz: not an .npz"):
        covariates_from_file(tmp_path / "one.npz", model)
