"""Rows that follow a drifting session: better than frozen ones, held to time, memory and the old coordinates."""

import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models import (
    AutoencoderConfig,
    DynamicsConfig,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
    load,
    save,
)
from neurochorus.pretrain.adaptation.recent_bins import RecentBins
from neurochorus.pretrain.adaptation.row_fit import RowFit
from neurochorus.pretrain.adaptation.session_rows import rows_of, with_rows
from neurochorus.pretrain.adaptation.streaming import StreamingRows
from tests.allocations import measured_allocations
from tests.models.conftest import entry, small_model

UNITS, BINS, WINDOW = 30, 4000, 40
STEPS = 150


class Simulated:
    """Counts of units that are tuned to a noisy rotation in two dimensions; tuning and log gains drift."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.tuning, self.other = rng.normal(0, 0.8, size=(2, UNITS, 2))
        self.gain, self.other_gain = np.zeros(UNITS), rng.normal(0, 0.6, UNITS)
        self.rng = rng

    def record(self, bins: int, drift: float) -> tuple[np.ndarray, np.ndarray]:
        """Counts (bins, units) and states (bins, 2)."""
        angle = 2 * np.pi / 40
        turn = 0.98 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        states, state = np.empty((bins, 2)), self.rng.normal(size=2)
        for number in range(bins):
            state = turn @ state + 0.2 * self.rng.normal(size=2)
            states[number] = state
        tuning = np.cos(drift * np.pi / 2) * self.tuning + np.sin(drift * np.pi / 2) * self.other
        log_rate = states @ tuning.T + self.gain + drift * self.other_gain - 1.5
        return self.rng.poisson(np.exp(log_rate.clip(max=2))), states


def windows(counts_TC: np.ndarray) -> np.ndarray:
    return counts_TC[: len(counts_TC) // WINDOW * WINDOW].reshape(-1, WINDOW, counts_TC.shape[1])


@pytest.fixture(scope="module")
def trained() -> tuple[NeuralModel, Simulated]:
    """A model of two sessions, its autoencoder trained on the first as it was before the drift."""
    torch.manual_seed(0)
    simulated = Simulated(0)
    counts_TC, _ = simulated.record(BINS, 0.0)
    entries = [replace(entry(name, name[0], UNITS), unit_mean=counts_TC.mean(axis=0)) for name in ("a_s1", "b_s1")]
    transformer = TransformerConfig(width=24, blocks=1, heads=2)
    config = ModelConfig(
        head="gaussian",
        autoencoder=AutoencoderConfig(latents=4, encoder=transformer),
        dynamics=DynamicsConfig(transformer=transformer),
    )
    model = NeuralModel(config, UnitRegistry.from_sessions(entries), UnitStatistics.of(entries))
    optimizer = torch.optim.AdamW(model.autoencoder.parameters(), lr=5e-3, betas=(0.9, 0.95))
    cut = windows(counts_TC)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / STEPS)
        batch = model.context("a_s1", cut[torch.randint(len(cut), (16,)).numpy()])
        loss, count, _ = model.autoencoder(batch)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    return model.eval(), simulated


def any_signal(modality: str) -> np.ndarray:
    """300 bins of the 8 units of b_s1."""
    rng = np.random.default_rng(0)
    return rng.poisson(2.0, (300, 8)) if modality == "spikes" else rng.normal(3, 1, (300, 8)).astype(np.float32)


def loss_on(model: NeuralModel, counts_TC: np.ndarray) -> float:
    """Loss of a bin, of the present and the bins that follow, in nats an expected spike."""
    with torch.no_grad():
        loss, count, _ = model.autoencoder(model.context("a_s1", windows(counts_TC)))
    return float(loss / count)


@pytest.fixture(scope="module")
def followed(trained) -> dict:
    """A recording that drifts over five stretches, with a refit after each, and rows fitted on its end alone."""
    model, simulated = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = StreamingRows(model, "a_s1", minutes=0.5, window_bins=WINDOW, drift=1.0, learning_rate=4e-2)
    nbytes, refits = stream.nbytes, []
    for drift in np.linspace(0.1, 0.5, 5):
        stream.push(simulated.record(2000, float(drift))[0], continues=False)
        refits.append(stream.refit(steps=30))
    assert stream.nbytes == nbytes
    fitted = StreamingRows(model, "a_s1", minutes=1.0, window_bins=WINDOW, drift=10.0, learning_rate=4e-2)
    fitted.push(simulated.record(BINS, 0.5)[0])
    fitted.refit(steps=100)
    test_TC, states_TS = simulated.record(BINS, 0.5)
    return {"stream": stream, "fitted": fitted.model, "test": test_TC, "states": states_TS, "refits": refits} | {
        "before": before
    }


def test_refitted_rows_stay_near_rows_fitted_on_the_drifted_data(trained, followed) -> None:
    frozen, refitted, fitted = (
        loss_on(model, followed["test"]) for model in (trained[0], followed["stream"].model, followed["fitted"])
    )
    assert sum(one.accepted for one in followed["refits"]) >= 4
    assert all(one.loss_after < one.loss_before for one in followed["refits"] if one.accepted)
    assert frozen - fitted > 0.05  # the drift costs something
    assert frozen - refitted > 0.7 * (frozen - fitted)


def test_latents_stay_in_the_old_coordinates(trained, followed) -> None:
    """A linear map from latents to states, fitted before the drift, still reads them after it."""
    model, simulated = trained
    counts_TC, states_TS = simulated.record(BINS, 0.0)

    def latents(by: NeuralModel, counts: np.ndarray) -> np.ndarray:
        white = by.encode(by.context("a_s1", windows(counts))).numpy().reshape(-1, 4)
        return np.column_stack([white, np.ones(len(white))])

    decoder = np.linalg.lstsq(latents(model, counts_TC), states_TS, rcond=None)[0]

    made, states = latents(followed["stream"].model, followed["test"]), followed["states"]

    def r2(by: np.ndarray) -> float:
        return float(1 - ((states - made @ by) ** 2).sum() / ((states - states.mean(axis=0)) ** 2).sum())

    assert r2(decoder) > r2(np.linalg.lstsq(made, states, rcond=None)[0]) - 0.1
    assert r2(decoder) > 0.6


def test_nothing_else_changes(trained, followed) -> None:
    """The given model, the trunk and the other session, bit for bit."""
    model, before, refitted = trained[0], followed["before"], followed["stream"].model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.dynamics.parameters())
    other = model.context("b_s1", windows(followed["test"])[:3])
    assert torch.equal(model.encode(other), refitted.encode(other))
    assert torch.equal(model.forecast(other, 5, 2)[0], refitted.forecast(other, 5, 2)[0])
    own = model.context("a_s1", windows(followed["test"])[:3])
    assert not torch.equal(model.encode(own), refitted.encode(own))
    shared = refitted.autoencoder.encoder.state_dict(keep_vars=True)
    for name, value in model.autoencoder.encoder.state_dict(keep_vars=True).items():
        assert shared[name] is value  # no second trunk in memory


def test_rows_that_are_no_better_are_not_taken_over(trained) -> None:
    """Little data and no anchor: the rows over-fit, the held-back part says so, and the old ones stay."""
    model, simulated = trained
    stream = StreamingRows(model, "a_s1", minutes=0.1, window_bins=WINDOW, drift=100.0, learning_rate=0.5)
    stream.push(simulated.record(6 * WINDOW, 0.0)[0])
    found = stream.refit(steps=40)
    assert not found.accepted
    assert found.loss_after == found.loss_before
    assert stream.model is model


def test_the_anchor_keeps_little_data_from_spoiling_the_rows(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without drift, of a few windows: far from the anchor rows get worse on new data, near it they do not."""
    model, simulated = trained
    test_TC = simulated.record(BINS, 0.0)[0]
    few_TC = simulated.record(6 * WINDOW, 0.0)[0]
    moved = {}
    for drift in (0.02, 10.0):
        stream = StreamingRows(model, "a_s1", minutes=0.1, window_bins=WINDOW, drift=drift, learning_rate=4e-2)
        stream.push(few_TC)
        losses = iter(range(100, 0, -1))
        monkeypatch.setattr(RowFit, "loss", lambda *_, losses=losses: float(next(losses)))
        assert stream.refit(steps=50).accepted
        moved[drift] = loss_on(stream.model, test_TC) - loss_on(model, test_TC)
    assert moved[10.0] > 0.02
    assert moved[0.02] < 0.3 * moved[10.0]


def test_a_refit_ends_in_time_and_others_may_go_on(trained) -> None:
    model, simulated = trained
    stream = StreamingRows(model, "a_s1", minutes=0.5, window_bins=WINDOW)
    counts_TC = simulated.record(2000, 0.3)[0]
    stream.push(counts_TC)
    stream.refit(steps=2)
    begun = time.monotonic()
    found = stream.refit(seconds=0.8, steps=10**6)
    assert 0.4 < time.monotonic() - begun < 3.0
    assert found.steps > 1
    thread = threading.Thread(target=stream.refit, kwargs={"seconds": 1.0, "steps": 10**6})
    thread.start()
    while not stream._refitting.locked():
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="a refit is under way"):
        stream.refit(steps=1)
    taken = stream.model
    first = taken.encode(taken.context("a_s1", windows(counts_TC)[:2]))
    stream.push(counts_TC)
    thread.join()
    # the model that was taken before is not touched by the one that took its place
    assert torch.equal(first, taken.encode(taken.context("a_s1", windows(counts_TC)[:2])))


def test_a_refit_takes_a_few_times_the_memory_of_the_buffer_and_gives_it_back(trained) -> None:
    model, simulated = trained
    peaks, buffers, kept = {}, {}, {}
    for minutes in (0.5, 2.0):
        stream = StreamingRows(model, "a_s1", minutes=minutes, window_bins=WINDOW)
        for _ in range(2):  # more than there is room for
            stream.push(simulated.record(round(6000 * minutes), 0.3)[0])
        stream.refit(steps=2)
        before = stream.nbytes
        for steps in (2, 8):
            with measured_allocations() as found:  # of tensors
                stream.refit(steps=steps)
            tracemalloc.start()  # and of arrays
            stream.refit(steps=steps)
            peaks[minutes, steps] = found.peak + tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            kept[minutes, steps] = found.kept
        buffers[minutes] = stream.nbytes
        assert stream.nbytes == before
        assert peaks[minutes, 8] < 1.2 * peaks[minutes, 2]
        assert max(kept.values()) < 2**18
    # windows of int64 counts in double precision would take eight times as much
    assert peaks[2.0, 8] - peaks[0.5, 8] < 4 * (buffers[2.0] - buffers[0.5])


def test_state_and_model_are_written_and_read_back(trained, tmp_path: Path) -> None:
    model, simulated = trained
    save(model, tmp_path / "export", {"forecast": {"context_bins": 30, "horizon_bins": 10, "samples": 4}})
    ids = list(model.registry.session("a_s1").unit_ids)
    stream = StreamingRows.open(tmp_path / "export", "a_s1", minutes=0.2, unit_ids=ids[::-1], learning_rate=2e-2)
    assert stream.window_bins == 40
    counts_TC = simulated.record(900, 0.4)[0]
    stream.push(counts_TC[:500, ::-1])
    stream.push(counts_TC[500:, ::-1], continues=False)
    assert stream.refit(steps=40).accepted
    stream.save(tmp_path / "state.safetensors")
    again = StreamingRows.restore(tmp_path / "state.safetensors", load(tmp_path / "export"))
    assert np.array_equal(again.recent.windows(40), stream.recent.windows(40))
    assert np.array_equal(
        again.recent.windows(40), np.concatenate([windows(counts_TC[20:500]), windows(counts_TC[500:])])
    )
    for rows in ("rows", "anchor"):
        assert all(torch.equal(value, getattr(stream, rows)[name]) for name, value in getattr(again, rows).items())
    assert (again.learning_rate, again.recent.room) == (2e-2, stream.recent.room)
    for one in (stream, again):  # what comes now has its columns in the order that the stream began with
        one.push(counts_TC[:100, ::-1])
    assert np.array_equal(again.recent.windows(40), stream.recent.windows(40))
    again.export(tmp_path / "drifted")
    batch = model.context("a_s1", windows(counts_TC)[:2])
    assert torch.equal(load(tmp_path / "drifted").encode(batch), stream.model.encode(batch))
    with pytest.raises(ValueError, match="began with other rows"):
        StreamingRows.restore(tmp_path / "state.safetensors", load(tmp_path / "drifted"))
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a state"):
        StreamingRows.restore(tmp_path / "other", model)


def test_wrong_use_is_refused(trained) -> None:
    model, simulated = trained
    with pytest.raises(ValueError, match="does not know session 'c_s1'"):
        StreamingRows(model, "c_s1")
    with pytest.raises(ValueError, match=r"expected each of its 30 unit ids once, found 2 \(1 of them known\)"):
        StreamingRows(model, "a_s1", unit_ids=["u0", "x"])
    with pytest.raises(ValueError, match=r"a buffer of 60 minutes of 30 units takes 23 MiB.*remember 2.6 minutes"):
        StreamingRows(model, "a_s1", minutes=60, max_bytes=2**20)
    with pytest.raises(ValueError, match="room for 4 of them"):
        StreamingRows(model, "a_s1", minutes=0.01)
    burning = small_model(autoencoder={"burn_in_bins": 40})
    with pytest.raises(ValueError, match="window_bins is 40, but the model scores no bin before its burn-in of 40"):
        StreamingRows(burning, "a_s1", minutes=0.1)
    stream = StreamingRows(model, "a_s1", minutes=0.1)
    with pytest.raises(ValueError, match="expected an array \\(bins, 30 units\\), found shape \\(5, 29\\)"):
        stream.push(np.zeros((5, 29)))
    with pytest.raises(ValueError, match="a_s1"):
        stream.push(np.full((5, 30), -1.0))
    stream.push(simulated.record(100, 0.0)[0])
    with pytest.raises(ValueError, match="2 windows of 40 bins in the buffer, expected 4 or more"):
        stream.refit()
    with pytest.raises(ValueError, match="rows of shapes"):
        with_rows(model, "a_s1", {"read_in_rows": torch.zeros(1)})


@pytest.mark.parametrize("modality", ["spikes", "continuous"])
def test_histories_and_continuous_signals_are_followed_too(modality: str) -> None:
    model = small_model(modality=modality, autoencoder={"history_bins": 3})
    stream = StreamingRows(model, "b_s1", minutes=0.05, window_bins=20)
    signal_TC = any_signal(modality)
    stream.push(signal_TC)
    assert stream.refit(steps=20).accepted
    assert not torch.equal(stream.rows["history_rows"], rows_of(model, "b_s1")["history_rows"])


@pytest.mark.parametrize("modality", ["spikes", "continuous"])
def test_a_memory_of_earlier_bins_is_that_of_the_buffer(modality: str) -> None:
    model = small_model(modality=modality, autoencoder={"earlier_memory_bins": 50.0})
    stream = StreamingRows(model, "b_s1", minutes=0.05, window_bins=20)
    signal_TC = any_signal(modality)
    stream.push(signal_TC)
    fitted, held = stream._split()
    assert fitted.earlier is not None
    assert held.earlier is not None
    weight_T = np.exp(-np.arange(240)[::-1] / 50.0)  # 12 of the 15 windows are fitted on
    np.testing.assert_allclose(held.earlier.sums_NC[0], weight_T @ signal_TC[:240], rtol=1e-4)
    assert held.earlier.bins_N[0] == pytest.approx(weight_T.sum(), rel=1e-4)
    assert not fitted.earlier.bins_N[0]
    assert stream.refit(steps=20).accepted
    assert not torch.equal(stream.rows["earlier_rows"], rows_of(model, "b_s1")["earlier_rows"])
    now = stream.model.context("b_s1", signal_TC[None, -5:], earlier=stream.earlier)
    assert stream.model.rollout(now, horizon=3, samples=2).rates.isfinite().all()
    assert StreamingRows(small_model(), "b_s1", minutes=0.05, window_bins=20).earlier is None


def test_a_ring_holds_the_latest_bins_and_windows_cross_no_gap() -> None:
    ring = RecentBins(10, 1, np.dtype(np.uint16))
    assert ring.windows(3).shape == (0, 3, 1)
    for start, stop, continues in ((0, 4, True), (4, 6, True), (6, 13, False)):
        ring.push(np.arange(start, stop, dtype=np.uint16)[:, None], continues)
    assert len(ring) == ring.room == 10
    assert ring.in_order()[0][:, 0].tolist() == list(range(3, 13))
    assert ring.windows(3)[..., 0].tolist() == [[3, 4, 5], [7, 8, 9], [10, 11, 12]]
    ring.push(np.arange(100, 125, dtype=np.uint16)[:, None])  # more than it holds
    assert ring.in_order()[0][:, 0].tolist() == list(range(115, 125))
