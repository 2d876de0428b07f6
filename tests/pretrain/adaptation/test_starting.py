"""Rows from data start better than random ones, on an animal that shares its latent system with known ones."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import NeuralModel, load, save
from neurochorus.models.reference import REFERENCE_FILE
from neurochorus.pretrain.adaptation import starting
from neurochorus.pretrain.adaptation.old_rows import freeze_all_but_new_rows, state_of
from neurochorus.pretrain.adaptation.rate_prior import RatePrior
from neurochorus.pretrain.adaptation.start_settings import StartSection
from neurochorus.pretrain.adaptation.starting import RowStart, start_rows
from neurochorus.pretrain.training_data import TrainingData
from tests.pretrain.adaptation.turning_animals import BINS, NEW, UNITS, animal, pretrained, write_animals


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_animals(tmp_path_factory.mktemp("starting") / "data")


@pytest.fixture(scope="module")
def known(corpus: Corpus) -> NeuralModel:
    return pretrained(corpus, steps=240)


def started(known: NeuralModel, corpus: Corpus, **section: object) -> tuple[NeuralModel, RowStart]:
    model = copy.deepcopy(known)
    made = start_rows(model, TrainingData(corpus, [NEW]), parse_settings(StartSection, section, "test"))
    return model, made


@torch.no_grad()
def held_out_loss(model: NeuralModel, corpus: Corpus) -> float:
    model.eval()
    (batch,) = evaluation_batches(corpus, model.registry, "test", [NEW])
    loss, bins, _ = model.autoencoder(batch)
    return float(loss / bins)


def fitted(model: NeuralModel, known: NeuralModel, corpus: Corpus, steps: int) -> None:
    """Adam on the new rows."""
    torch.manual_seed(0)
    freeze_all_but_new_rows(model, state_of(known))
    (batch,) = evaluation_batches(corpus, model.registry, "train", [NEW])
    optimizer = torch.optim.Adam([p for p in model.autoencoder.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for _ in range(steps):
        loss, bins, _ = model.autoencoder(batch)
        optimizer.zero_grad()
        (loss / bins).backward()
        optimizer.step()


def test_aligned_rows_start_better_than_random_and_are_still_ahead_after_50_steps(
    known: NeuralModel, corpus: Corpus
) -> None:
    models = {name: started(known, corpus, method=name)[0] for name in ("random", "regions", "aligned")}
    before = {name: held_out_loss(model, corpus) for name, model in models.items()}
    assert before["aligned"] < before["regions"] < before["random"]
    for model in models.values():
        fitted(model, known, corpus, steps=50)
    after = {name: held_out_loss(model, corpus) for name, model in models.items()}
    assert after["aligned"] < after["random"]
    # without a step the aligned rows are most of the way from random ones to where fitting leads
    assert before["aligned"] < 0.5 * (before["random"] + after["aligned"])


def test_auto_takes_what_fits_best_and_says_so(known: NeuralModel, corpus: Corpus) -> None:
    _, made = started(known, corpus)
    facts = made.facts()["sessions"][NEW]
    assert facts["method"] == min(facts["losses"], key=facts["losses"].__getitem__) != "regions"
    assert made.lines()[0].startswith(f"rows of {NEW} start aligned")


def test_what_holds_the_rates_is_worth_what_shrank_them(
    known: NeuralModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a session's counts are three times as dispersed as a Poisson's, in both."""
    monkeypatch.setattr(starting, "dispersion_of", lambda *_: 3.0)
    model, made = started(known, corpus, method="regions")
    assert made.prior is not None
    assert made.pseudo_spikes is not None
    assert made.prior.pseudo_spikes.tolist() == pytest.approx([3 * made.pseudo_spikes] * UNITS)
    entry = corpus.session(NEW)
    mean_C = model.autoencoder.unit_mean[-UNITS:].numpy()
    prior_C = RatePrior.learned(known.registry, known.autoencoder.unit_mean.numpy()).rates(entry, 3.0).prior_C
    worth_C = made.prior.pseudo_spikes.numpy()
    expected_C = (entry.unit_mean * entry.train_bins + worth_C) / (entry.train_bins + worth_C / prior_C)
    np.testing.assert_allclose(mean_C, expected_C, rtol=1e-5)


@pytest.mark.parametrize("method", ["random", "aligned"])
def test_a_unit_has_the_same_rows_wherever_it_stands(
    known: NeuralModel, corpus: Corpus, tmp_path: Path, method: str
) -> None:
    order = np.random.default_rng(5).permutation(UNITS)
    write_dataset([animal(NEW, 12, order)], tmp_path / "permuted", name="turn", sample_bins=BINS)
    one, _ = started(known, corpus, method=method)
    other, _ = started(known, Corpus(tmp_path / "permuted"), method=method)
    rows = [model.registry.session(NEW).row_of for model in (one, other)]
    for unit, row in rows[0].items():
        for table in ("read_in_rows", "read_out_rows", "unit_offsets"):
            ours, theirs = (getattr(model.autoencoder, table).weight for model in (one, other))
            torch.testing.assert_close(ours[row], theirs[rows[1][unit]], rtol=2e-3, atol=2e-4)


def test_the_reference_travels_with_the_model_and_need_not(known: NeuralModel, corpus: Corpus, tmp_path: Path) -> None:
    save(known, tmp_path / "model")
    read = load(tmp_path / "model").reference
    assert read is not None
    assert known.reference is not None
    torch.testing.assert_close(read.covariance_GKK, known.reference.covariance_GKK)
    (tmp_path / "model" / REFERENCE_FILE).unlink()
    without = load(tmp_path / "model")
    assert without.reference is None
    _, made = started(without, corpus)
    assert made.sessions[NEW].method == "regions"
    with pytest.raises(ValueError, match="aligned: the model directory has no reference"):
        started(without, corpus, method="aligned")
    (tmp_path / "model" / REFERENCE_FILE).write_bytes(b"cut")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load(tmp_path / "model")


def test_regions_of_known_units_travel_and_are_not_needed(known: NeuralModel, tmp_path: Path) -> None:
    save(known, tmp_path / "model")
    session = load(tmp_path / "model").registry.sessions[0]
    assert session.regions == ["CA1"] * UNITS
    values = known.registry.to_json()
    for item in values["sessions"]:
        del item["regions"]  # as earlier versions wrote it
    old = type(known.registry).from_json(values)
    assert old == known.registry
    assert old.sessions[0].regions is None
    values["sessions"][0]["regions"] = ["CA1"]
    with pytest.raises(ValueError, match="1 regions for 30 units"):
        type(known.registry).from_json(values)
