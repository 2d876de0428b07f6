"""Co-smoothing: what is held out stays unread, scores are nlb_tools', and a known truth gives the expected one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.metrics import bits_per_spike
from neurochorus.pretrain.evaluation.suite import cosmoothing as module
from neurochorus.pretrain.evaluation.suite.cosmoothing import cosmoothing
from neurochorus.pretrain.evaluation.suite.held_out_units import Unseen, encode_without, held_out_units
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import Undefined
from neurochorus.pretrain.evaluation.windows import Windows
from tests.models.conftest import small_model
from tests.pretrain.suite_corpus import FORECAST, write_suite_corpus
from tests.pretrain.test_metrics import nlb_bits_per_spike

IDS = [f"u{number}" for number in range(40)]


@pytest.fixture
def counts() -> torch.Tensor:
    """Counts of session b_s1, (3 trials, 20 bins, 8 units)."""
    return torch.poisson(torch.full((3, 20, 8), 0.5), generator=torch.Generator().manual_seed(1))


def test_held_out_units_are_nested_and_known_by_their_ids():
    quarter, half = held_out_units(IDS, 0.25, 0), held_out_units(IDS, 0.5, 0)
    assert (quarter.sum(), half.sum()) == (10, 20)
    assert half[quarter].all()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(held_out_units([IDS[place] for place in order], 0.25, 0), quarter[order])
    assert (held_out_units(IDS, 0.25, 1) != quarter).any()
    assert held_out_units(IDS[:2], 0.01, 0).sum() == 1
    assert held_out_units(IDS[:2], 0.99, 0).sum() == 1
    for ids, share in ((IDS[:1], 0.25), (IDS, 0.0), (IDS, 1.0)):
        with pytest.raises(ValueError, match="expected 2 or more and 0 < share < 1"):
            held_out_units(ids, share, 0)


@pytest.mark.parametrize("settings", [{}, {"history_bins": 3}, {"observation": "negative_binomial"}, {"causal": False}])
def test_nothing_of_the_held_out_units_is_read(settings: dict[str, Any], counts: torch.Tensor):
    model = small_model(autoencoder=settings)
    held = np.arange(8) < 3
    before = encode_without(model, model.context("b_s1", counts.numpy()), held)
    changed = counts.clone()
    changed[..., :3] += 4
    after = encode_without(model, model.context("b_s1", changed.numpy()), held)
    assert torch.equal(before.latent_BTL, after.latent_BTL)
    assert torch.equal(before.expected_BTC, after.expected_BTC)
    changed[:, -1, 5] += 4
    other = encode_without(model, model.context("b_s1", changed.numpy()), held)
    earlier = slice(0, -1)
    assert torch.equal(before.latent_BTL[:, earlier], other.latent_BTL[:, earlier]) == model.config.autoencoder.causal
    assert not torch.equal(before.latent_BTL[:, -1], other.latent_BTL[:, -1])


def test_with_all_units_seen_the_latents_are_those_of_the_encoder(counts: torch.Tensor):
    model = small_model()
    batch = model.context("b_s1", counts.numpy())
    found = encode_without(model, batch, np.zeros(8, dtype=bool))
    torch.testing.assert_close(found.latent_BTL, model.encode(batch))


def test_units_that_are_not_in_the_data_are_hidden_like_held_out_ones(counts: torch.Tensor):
    model, here = small_model(), [0, 2, 3, 5, 6]
    fewer = model.context("b_s1", counts[:, :, here].numpy(), [f"u{unit}" for unit in here])
    found = encode_without(model, fewer, np.zeros(5, dtype=bool))
    torch.testing.assert_close(found.latent_BTL, model.encode(fewer), rtol=1e-4, atol=1e-5)
    held_out = np.array([unit in (1, 4, 5, 7) for unit in range(8)])
    hidden = encode_without(model, model.context("b_s1", counts.numpy()), held_out)
    found = encode_without(model, fewer, np.array([unit == 5 for unit in here]))
    torch.testing.assert_close(found.latent_BTL, hidden.latent_BTL, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_suite_corpus(tmp_path_factory.mktemp("suite") / "data")


def test_the_score_of_seen_rows_is_nlb_tools_co_bps(corpus: Corpus):
    model, settings = small_model(), SuiteSettings(held_out_share=0.4)
    data = SessionData(corpus, "a_s1", "test", FORECAST)
    ((spec, rows),) = cosmoothing(data, {"energy": model, "other": small_model(seed=1)}, settings).items()
    windows = data.windows("test")
    held = held_out_units(windows.unit_ids, 0.4, 0)
    batch = model.context("a_s1", windows.signal_NTC, windows.unit_ids)
    rates = encode_without(model, batch, held).expected_BTC.numpy()[..., held].astype(float)
    expected = nlb_bits_per_spike(rates, windows.signal_NTC[..., held].astype(float))
    assert rows["seen rows"] == pytest.approx(expected, rel=1e-6)
    assert rows["seen rows, other"] != rows["seen rows"]
    assert rows.keys() >= {"few-shot", "few-shot, other", "train mean", "ridge, smoothed counts", "psth"}
    assert "the encoder is causal" in spec.definition
    assert rows["ridge, smoothed counts"] > rows["train mean"]  # the stimulus drives all units


class KnownLatents:
    """Session data whose latents are those that made the counts."""

    def __init__(self, seed: int = 0, trials: int = 120, bins: int = 20, units: int = 12):
        rng = np.random.default_rng(seed)
        self.z = {split: rng.normal(size=(trials, bins, 3)) for split in ("train", "valid", "test")}
        weights = rng.normal(0, 0.6, size=(3, units))
        self.rates = {split: 0.5 * np.exp(z @ weights) for split, z in self.z.items()}
        ids = [f"u{number}" for number in range(units)]
        self.made = {
            split: Windows(rng.poisson(rates).astype(np.uint8), [str(row) for row in range(trials)], ids, 0)
            for split, rates in self.rates.items()
        }
        self.bins, self.split, self.spikes, self.aligned, self.session_id = bins, "test", True, False, "s"
        self.corpus = type("Stub", (), {"modality": "spikes"})
        self.trials_of = trials

    def windows(self, split: str) -> Windows:
        return self.made[split]

    def groups(self, split: str) -> np.ndarray:
        return np.arange(self.trials_of)


def with_latents(monkeypatch: pytest.MonkeyPatch, data: KnownLatents, change: Callable[..., np.ndarray]) -> None:
    """The model's encoder gives the true latents, changed."""
    order = iter(("train", "test"))

    def known(model: NeuralModel, batch: Any, held_out_C: np.ndarray) -> Unseen:
        split = next(order)
        return Unseen(torch.from_numpy(change(data.z[split])), torch.from_numpy(data.rates[split]))

    monkeypatch.setattr(module, "encode_without", known)
    monkeypatch.setattr(module, "batch_of", lambda *_: None)
    monkeypatch.setattr(module, "chunks", lambda windows: [slice(None)])


def measured(data: KnownLatents, **settings: Any) -> dict[str, float]:
    made = cosmoothing(cast(SessionData, data), {"energy": small_model()}, SuiteSettings(**settings))
    return next(iter(made.values()))


def test_a_known_poisson_truth_gives_the_expected_score(monkeypatch: pytest.MonkeyPatch):
    data = KnownLatents()
    held = held_out_units(data.made["test"].unit_ids, 0.25, 0)
    possible = bits_per_spike(data.made["test"].signal_NTC[..., held], data.rates["test"][..., held])
    with_latents(monkeypatch, data, lambda z: z)
    rows = measured(data)
    assert rows["seen rows"] == pytest.approx(possible, rel=1e-9)
    assert possible - 0.03 < rows["few-shot"] < possible + 0.01
    assert 0 < rows["Poisson regression, smoothed counts"] < rows["few-shot"]
    assert -0.05 < rows["train mean"] <= 0


def test_few_shots_teach_less_than_many(monkeypatch: pytest.MonkeyPatch):
    scores = []
    for shots in (2, 8, None):
        data = KnownLatents()
        with_latents(monkeypatch, data, lambda z: z)
        scores.append(measured(data, few_shot_trials=shots))
    few, more, many = (rows["few-shot"] for rows in scores)
    assert few < more < many
    assert scores[0]["seen rows"] == scores[2]["seen rows"]
    assert scores[0]["train mean"] != scores[2]["train mean"]


def test_latents_of_other_trials_score_nothing(monkeypatch: pytest.MonkeyPatch):
    data = KnownLatents()
    with_latents(monkeypatch, data, lambda z: np.roll(z, 1, axis=0))
    assert measured(data)["few-shot"] <= 0.0


def test_silent_held_out_units_leave_the_session_out(corpus: Corpus):
    data = KnownLatents()
    for windows in data.made.values():
        windows.signal_NTC[:] = 0
    with pytest.raises(Undefined, match="held-out units have no spike"):
        measured(data)


def test_a_continuous_signal_is_scored_by_r2(tmp_path: Path):
    corpus = write_suite_corpus(tmp_path / "data", "continuous")
    data = SessionData(corpus, "b_s1", "test", FORECAST)
    ((spec, rows),) = cosmoothing(data, {"energy": small_model(modality="continuous")}, SuiteSettings()).items()
    assert spec.metric == "r2"
    assert set(rows) == {"seen rows", "few-shot", "train mean", "ridge, smoothed counts"}
    assert all(np.isfinite(value) for value in rows.values())
