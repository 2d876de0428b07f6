"""Small runs on two ranks whose dynamics read covariates: pretraining, resuming, and a new animal that lacks them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import load
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.covariates import CovariateStatistics
from neurochorus.pretrain.distributed import process_group
from neurochorus.pretrain.finetuning import FinetuneConfig, finetune, refuse_other_recordings
from neurochorus.pretrain.loop import StoppedEarly
from neurochorus.pretrain.pretraining import pretrain
from neurochorus.pretrain.training_data import TrainingData
from tests.distributed import run_ranks
from tests.pretrain.test_covariates import BINS, ONE_RANK, TRIALS, make_corpus, recording, train_batches

WIDTHS = {"clock": 1, "wheel": 2}
TRAIN = {"global_batch": 4, "micro_batch": 2, "log_every": 1}
QUIET = {"wandb": {"mode": "disabled"}, "checkpoint": {"every": 10}}
SETTINGS = {
    "model": {
        "autoencoder": {"latents": 3, "encoder": {"width": 16, "blocks": 1, "heads": 2}, "future_weights": {1: 0.5}},
        "dynamics": {
            "transformer": {"width": 16, "blocks": 1, "heads": 2},
            "covariates": {"clock": {"known": "ahead"}, "wheel": {"lag_bins": 2}},
        },
        "heads": {"energy": {"width": 16, "blocks": 1}},
    },
    "autoencoder": {"steps": 2},
    "dynamics": {"steps": 3},
    "train": TRAIN,
    "zero": {"stage": 2},
    "forecast": {"context_bins": 8, "horizon_bins": 4},
    **QUIET,
}


def config(folder: Path, name: str, **sections: Mapping[str, object]) -> RunConfig:
    given = {"path": str(folder / "data"), "exclude": ["subject:bee"], "workers": 0}
    values = {**SETTINGS, "run": {"dir": str(folder / name)}, "data": given}
    values |= {name: {**values[name], **section} for name, section in sections.items()}
    return parse_settings(RunConfig, values, "test")


def runs_of_two_ranks(folder: Path) -> list[str]:
    """A run; two of the dynamics alone, the second stopped after every step; a new animal. Where the second stopped."""
    stops = []
    with process_group() as ranks:
        pretrain(config(folder, "whole"), ranks)
        taken = {"init": str(folder / "whole" / "autoencoder")}
        pretrain(config(folder, "straight", autoencoder=taken), ranks)
        while len(stops) < 9:
            try:
                pretrain(config(folder, "stopped", autoencoder=taken, train={"max_hours": 1e-9}), ranks)
                break
            except StoppedEarly as stopped:
                stops.append(str(stopped))
        finetune(finetuning(folder, "bee_s1"), ranks)
    return stops


def finetuning(folder: Path, session: str) -> FinetuneConfig:
    values = {
        "model": str(folder / "whole" / "export"),
        "run": {"dir": str(folder / "tuned")},
        "data": {"path": str(folder / "data"), "sessions": [session], "workers": 0},
        "autoencoder": {"steps": 2},
        "dynamics": {"steps": 2},
        "train": TRAIN,
        **QUIET,
    }
    return parse_settings(FinetuneConfig, values, "test")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_corpus(folder / "data")
    for stops in run_ranks(runs_of_two_ranks, 2, folder):
        assert [text.partition(":")[0] for text in stops] == [f"dynamics stopped at step {step}" for step in (1, 2)]
    return folder


def test_the_model_knows_widths_and_scale_of_its_covariates(work: Path) -> None:
    model, corpus = load(work / "whole" / "export"), Corpus(work / "data")
    assert model.config.dynamics.covariate_columns == WIDTHS
    written = yaml.safe_load((work / "whole" / "config.yaml").read_text())["model"]["dynamics"]["covariates"]
    assert written["wheel"] == {"known": "past", "lag_bins": 2, "columns": 2}
    ants = ["ant_s1", "ant_s2"]
    expected = CovariateStatistics.of(train_batches(corpus, WIDTHS, sessions=ants), WIDTHS, ONE_RANK)
    buffers = dict(model.dynamics.named_buffers())
    torch.testing.assert_close(buffers["covariates.mean"], expected.mean_K)
    torch.testing.assert_close(buffers["covariates.sd"], expected.sd_K)


def test_covariates_were_learned_from(work: Path) -> None:
    before, after = (load(work / "whole" / part).dynamics.state_dict() for part in ("autoencoder", "export"))
    for number in range(len(WIDTHS)):
        name = f"covariates.maps.{number}.weight"
        assert not torch.equal(before[name], after[name])


def test_a_stopped_run_with_covariates_continues_bit_for_bit(work: Path) -> None:
    one, other = (load(work / name / "export").state_dict() for name in ("straight", "stopped"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    whole = load(work / "whole" / "export").state_dict()
    assert torch.equal(one["dynamics.covariates.sd"], whole["dynamics.covariates.sd"])


def test_a_new_animal_without_covariates_changes_nothing_of_the_old(work: Path) -> None:
    before, after = load(work / "whole" / "export"), load(work / "tuned" / "export")
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name][: len(value)] if value.ndim else after.state_dict()[name])
    counts = np.random.default_rng(0).poisson(0.5, (2, 8, 4))
    given = {"clock": np.full((2, 12, 1), 1e6), "wheel": np.zeros((2, 8, 2))}
    old, new = (model.rollout(model.context("ant_s1", counts, covariates=given), 4, 2) for model in (before, after))
    assert torch.equal(old.latents, new.latents)
    assert torch.isfinite(after.rollout(after.context("bee_s1", counts), 4, 2).rates).all()


def test_a_new_session_with_a_wider_covariate_is_refused(work: Path, tmp_path: Path) -> None:
    wide = recording("cat_s1", 5, wheel=np.zeros((TRIALS * BINS, 3), np.float32))
    write_dataset([wide], tmp_path / "wide", name="wide", sample_bins=BINS)
    data = TrainingData(Corpus(tmp_path / "wide"), ["cat_s1"])
    with pytest.raises(ValueError, match=r"'cat_s1': covariate 'wheel' has 3 columns; the model reads 2"):
        refuse_other_recordings(load(work / "whole" / "export"), data)


@pytest.mark.parametrize(
    ("covariates", "words"),
    [
        ({"whel": {}}, "no session has a covariate 'whel'; did you mean 'wheel'"),
        ({"light": {}}, "no session has a covariate 'light'"),
        ({"wheel": {"columns": 4}}, "wheel.columns: 4, but the data sets have 2"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    work: Path, covariates: dict[str, dict[str, object]], words: str
) -> None:
    model = {**SETTINGS["model"], "dynamics": {"covariates": covariates}}
    with pytest.raises(ValueError, match=words):
        pretrain(config(work, "refused", model=model), ONE_RANK)
    assert not (work / "refused").exists()


def test_a_covariate_that_is_missing_everywhere_is_refused_before_training(work: Path) -> None:
    model = {**SETTINGS["model"], "dynamics": {"covariates": {"never": {}}}}
    values = config(work, "refused", model=model, data={"exclude": []})
    with pytest.raises(ValueError, match="covariate 'never' is missing in every bin of the train split"):
        pretrain(values, ONE_RANK)
    assert not (work / "refused").exists()
