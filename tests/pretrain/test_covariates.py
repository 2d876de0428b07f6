"""Covariates from the shards to what the dynamics are told of their scale."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import DynamicsConfig, ModelConfig
from neurochorus.models.dynamics.covariates import CovariateConfig
from neurochorus.pretrain.covariates import (
    CovariateStatistics,
    refuse_other_widths,
    sessions_without,
    with_widths,
)
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.evaluation.windows import read_windows

BINS, TRIALS = 12, 15
ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))
WIDTHS = {"wheel": 2, "clock": 1}


def recording(session_id: str, seed: int, **covariates: np.ndarray) -> Recording:
    """Counts of four units in trials of 12 bins; of five trials three train, one tests, one is valid."""
    generator = np.random.default_rng(seed)
    splits = ("train", "train", "test", "train", "valid")
    return Recording(
        session_id=session_id,
        subject_id=session_id[:3],
        modality="spikes",
        bin_s=0.01,
        signal_TC=generator.poisson(0.5, (TRIALS * BINS, 4)).astype(np.uint8),
        units=[Unit(f"{session_id}-{number}", "") for number in range(4)],
        segments=[Segment(i * BINS, (i + 1) * BINS, splits[i % 5]) for i in range(TRIALS)],
        covariates=covariates,
        provenance={},
    )


def wheel(seed: int) -> np.ndarray:
    """Two columns of behaviour, a fifth of it missing."""
    generator = np.random.default_rng(seed)
    values = generator.normal([3.0, -1.0], [0.5, 20.0], (TRIALS * BINS, 2)).astype(np.float32)
    values[generator.random(len(values)) < 0.2] = np.nan
    return values


def make_corpus(path: Path) -> Corpus:
    """ant_s1 has a wheel and a clock, ant_s2 a wheel, bee_s1 a constant light and something never known."""
    bins = TRIALS * BINS
    clock = (1e6 + np.arange(bins)[:, None] % 7).astype(np.float32)
    dark = {"light": np.full((bins, 1), 0.1, np.float32), "never": np.full((bins, 1), np.nan, np.float32)}
    write_dataset(
        [
            recording("ant_s1", 1, wheel=wheel(1), clock=clock),
            recording("ant_s2", 2, wheel=wheel(2)),
            recording("bee_s1", 3, **dark),
        ],
        path,
        name="covariates",
        sample_bins=BINS,
    )
    return Corpus(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("covariates") / "data")


def reading(**covariates: CovariateConfig) -> ModelConfig:
    return ModelConfig(dynamics=DynamicsConfig(covariates=covariates))


def train_batches(
    corpus: Corpus, widths: dict[str, int], rank: int = 0, world: int = 1, sessions: list[str] | None = None
) -> Iterator[Batch]:
    registry = UnitRegistry.from_sessions(corpus.sessions)
    batches = evaluation_batches(corpus, registry, "train", sessions, batch_size=2, covariates=widths)
    return (batch for number, batch in enumerate(batches) if number % world == rank)


def columns_of_train_split(corpus: Corpus, name: str) -> np.ndarray:
    """Values of a covariate (bins of all sessions that have it, columns), with NaN, as float64."""
    parts = []
    for entry in corpus.sessions:
        if name in entry.covariates:
            rows = corpus.rows_of(entry.session_id, "train")
            parts += [corpus.read(row).covariates_TK[:, entry.covariate_slices[name]] for row in rows]  # type: ignore[index]
    return np.concatenate(parts).astype(np.float64)


def test_widths_come_from_the_data_and_keep_the_order_of_the_settings(corpus: Corpus) -> None:
    config = reading(wheel=CovariateConfig(lag_bins=3), clock=CovariateConfig(known="ahead"))
    filled = with_widths(config, corpus.sessions)
    assert list(filled.dynamics.covariate_columns.items()) == [("wheel", 2), ("clock", 1)]
    assert filled.dynamics.covariates["wheel"].lag_bins == 3
    assert with_widths(filled, corpus.sessions) == filled
    assert with_widths(ModelConfig(), corpus.sessions) == ModelConfig()


def test_a_covariate_that_the_data_lack_is_refused_with_the_nearest(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"no session has a covariate 'whel'; did you mean 'wheel'"):
        with_widths(reading(whel=CovariateConfig()), corpus.sessions)
    chosen = [corpus.session("bee_s1")]
    with pytest.raises(ValueError, match=r"no session has a covariate 'wheel'; covariates there: light, never"):
        with_widths(reading(wheel=CovariateConfig()), chosen)


def test_a_width_other_than_the_data_s_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"model.dynamics.covariates.wheel.columns: 3, but the data sets have 2"):
        with_widths(reading(wheel=CovariateConfig(columns=3)), corpus.sessions)
    with pytest.raises(ValueError, match=r"'ant_s1': covariate 'wheel' has 2 columns; the model reads 5"):
        refuse_other_widths(corpus.sessions, {"clock": 1, "wheel": 5})
    refuse_other_widths(corpus.sessions, WIDTHS)


def test_sessions_without_a_covariate_are_listed(corpus: Corpus) -> None:
    assert sessions_without(corpus.sessions, WIDTHS) == {"wheel": ["bee_s1"], "clock": ["ant_s2", "bee_s1"]}
    assert sessions_without([corpus.session("ant_s1")], WIDTHS) == {}


def test_statistics_are_those_of_the_known_train_bins(corpus: Corpus) -> None:
    found = CovariateStatistics.of(train_batches(corpus, WIDTHS), WIDTHS, ONE_RANK)
    for columns, name in ((slice(0, 2), "wheel"), (slice(2, 3), "clock")):
        values = columns_of_train_split(corpus, name)
        np.testing.assert_allclose(found.mean_K[columns], np.nanmean(values, axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.sd_K[columns], np.nanstd(values, axis=0), rtol=1e-6)
    assert 1.9 < found.sd_K[2] < 2.1, "a clock far from zero keeps the spread of its seven values"


def test_a_constant_column_keeps_its_unit(corpus: Corpus) -> None:
    found = CovariateStatistics.of(train_batches(corpus, {"light": 1}), {"light": 1}, ONE_RANK)
    assert found.mean_K.tolist() == pytest.approx([0.1])
    assert found.sd_K.tolist() == [1.0]


def test_a_column_that_is_never_known_is_refused(corpus: Corpus) -> None:
    widths = {"light": 1, "never": 1}
    with pytest.raises(ValueError, match=r"covariate 'never' is missing in every bin of the train split"):
        CovariateStatistics.of(train_batches(corpus, widths), widths, ONE_RANK)


def test_windows_carry_the_covariates_that_were_asked_for(corpus: Corpus) -> None:
    windows = read_windows(corpus, "ant_s1", "test", 5, ["clock", "wheel", "light"])
    assert set(windows.covariates) == {"clock", "wheel"}
    assert windows.covariates["wheel"].shape == (len(windows.keys), 5, 2)
    starts = [BINS * trial + cut for trial in range(2, TRIALS, 5) for cut in (0, 5)]
    for window, start in enumerate(starts):
        np.testing.assert_array_equal(windows.covariates["wheel"][window], wheel(1)[start : start + 5])
        np.testing.assert_array_equal(windows.covariates["clock"][window, :, 0] % 1000, np.arange(start, start + 5) % 7)
    overlapping = read_windows(corpus, "ant_s1", "test", 5, ["wheel"], stride_bins=3)
    starts = [BINS * trial + cut for trial in range(2, TRIALS, 5) for cut in (0, 3, 6)]
    assert len(overlapping.keys) == len(set(overlapping.keys)) == len(starts)
    for window, start in enumerate(starts):
        np.testing.assert_array_equal(overlapping.covariates["wheel"][window], wheel(1)[start : start + 5])
        np.testing.assert_array_equal(windows.signal_NTC[0], overlapping.signal_NTC[0])
    assert read_windows(corpus, "bee_s1", "test", 5, ["wheel"]).covariates == {}
    assert read_windows(corpus, "ant_s1", "test", 5).covariates == {}
