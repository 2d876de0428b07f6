"""The whole model: rollouts, added sessions, and the model directory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.models import LatentSequence, load, read_training, save
from neurochorus.models.rollout import expected_rate
from tests.models.conftest import entry, small_model

HEADS = ("energy", "flow", "gaussian")


@pytest.mark.parametrize("head", HEADS)
def test_cached_rollout_equals_feeding_everything_again(counts: torch.Tensor, head: str) -> None:
    """The first two simulated bins, given as context, are continued as in one go."""
    model = small_model(head, history_scales=[1, 3])
    context = model.context("b_s1", counts.numpy())
    latents = model.encode(context)

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(row) for row in range(3)]

    whole = model.dynamics.simulate(LatentSequence.plain(latents, 2, 2), 5, 1, generators())[:, 0]
    own = generators()
    first = model.dynamics.simulate(LatentSequence.plain(latents, 2, 2), 2, 1, own)[:, 0]
    rest = model.dynamics.simulate(LatentSequence.plain(torch.cat((latents, first), dim=1), 2, 2), 3, 1, own)[:, 0]
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bins", [0, 1, 20])
def test_a_sample_does_not_depend_on_the_batch_around_it(counts: torch.Tensor, head: str, bins: int) -> None:
    model = small_model(head)
    together = model.context("b_s1", counts[:, :bins].numpy())
    alone = model.context("b_s1", counts[1:2, :bins].numpy())
    alone.sample_ids = together.sample_ids[1:2]
    many = model.rollout(together, horizon=4, samples=3, seed=7)
    one = model.rollout(alone, horizon=4, samples=2, seed=7)
    assert many.rates.shape == (3, 3, 4, 8)
    torch.testing.assert_close(one.latents[:, 0], many.latents[:2, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.counts[:, 0], many.counts[:2, 1])
    other_seed = model.rollout(alone, horizon=4, samples=2, seed=8)
    assert not torch.allclose(one.latents, other_seed.latents)


def test_forecast_is_the_expected_rate_of_the_rollout(counts: torch.Tensor) -> None:
    model = small_model("flow")
    context = model.context("b_s1", counts.numpy())
    rollout = model.rollout(context, horizon=3, samples=5, seed=1)
    mean, latents = model.forecast(context, horizon=3, samples=5, seed=1)
    torch.testing.assert_close(mean, rollout.expected_rate)
    assert torch.equal(latents, rollout.latents)
    usual = model.autoencoder.units_of(context).mean_BC.unsqueeze(1)
    torch.testing.assert_close(rollout.expected_rate, 0.97 * rollout.rates.mean(dim=0) + 0.03 * usual)
    assert not torch.allclose(rollout.expected_rate, rollout.mean_rate)


def test_the_usual_rate_guards_against_what_no_sample_shows() -> None:
    """Bursts of 20 spikes in 2 % of trials: the loss of the exact rate, of means over 32 samples, and with a share."""
    rng = np.random.default_rng(0)
    bursts = torch.from_numpy(np.where(rng.random((32, 20_000, 1, 1)) < 0.02, 20.0, 0.01))
    counts = torch.from_numpy(rng.poisson(np.where(rng.random((20_000, 1, 1)) < 0.02, 20.0, 0.01))).double()
    true = torch.full_like(counts, 0.02 * 20 + 0.98 * 0.01)

    def loss(rate: torch.Tensor) -> float:
        return float((rate - counts * rate.log()).mean())

    mean = bursts.mean(dim=0)
    guarded = expected_rate(mean, true[:1], 0.03)
    assert loss(true) + 0.1 < loss(guarded) < loss(mean) - 0.1
    assert torch.equal(expected_rate(mean, None, 0.03), mean)


def test_the_companion_is_the_gaussian_head_of_the_same_model(counts: torch.Tensor) -> None:
    model = small_model("energy")
    context = model.context("b_s1", counts.numpy())
    own, companion = (model.rollout(context, 2, 2, head=head).latents for head in ("energy", "gaussian"))
    assert not torch.allclose(own, companion)
    with pytest.raises(ValueError, match="has no head 'flow'; it has: energy, gaussian"):
        model.rollout(context, 2, 2, head="flow")


def test_units_are_found_by_id(counts: torch.Tensor) -> None:
    model = small_model()
    order = [3, 1, 0, 2, 7, 6, 5, 4]
    ids = [f"u{number}" for number in order]
    plain = model.context("b_s1", counts.numpy())
    permuted = model.context("b_s1", counts[:, :, order].numpy(), ids)
    torch.testing.assert_close(model.encode(permuted), model.encode(plain), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.reconstruct(permuted), model.reconstruct(plain)[:, :, order])


def test_contexts_that_do_not_fit_are_refused(counts: torch.Tensor) -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"'b_s2'.*launch/finetune.py"):
        model.context("b_s2", counts.numpy())
    with pytest.raises(ValueError, match=r"8 units\), found \(3, 20, 7\)"):
        model.context("b_s1", counts[:, :, :7].numpy())
    with pytest.raises(ValueError, match="1 of 8 unit ids are not in the model \\(u99\\)"):
        model.context("b_s1", counts.numpy(), [f"u{n}" for n in (0, 1, 2, 3, 4, 5, 6, 99)])
    padded = model.context("b_s1", counts.numpy())
    padded.bin_mask_BT[0, -1] = False
    with pytest.raises(ValueError, match="padded bins"):
        model.rollout(padded, 2, 1)


def test_appended_sessions_leave_the_old_ones_bit_identical(counts: torch.Tensor) -> None:
    model = small_model()
    before = model.rollout(model.context("b_s1", counts.numpy()), 3, 2)
    model.append_sessions([entry("c_s1", "c", 6), entry("a_s2", "a", 4)])
    after = model.rollout(model.context("b_s1", counts.numpy()), 3, 2)
    assert torch.equal(before.rates, after.rates)
    assert torch.equal(before.latents, after.latents)
    assert model.registry.subjects == ["a", "b", "c"]
    new = model.rollout(model.context("c_s1", np.ones((2, 10, 6), np.uint8)), 3, 2)
    assert torch.isfinite(new.rates).all()
    with pytest.raises(ValueError, match="'c_s1' is in the model already"):
        model.append_sessions([entry("c_s1", "c", 6)])


FRESH_PROCESS = """
import sys, numpy, torch
from neurochorus.models import load
model = load(sys.argv[1])
rollout = model.rollout(model.context("b_s1", numpy.load(sys.argv[2])), 4, 3, seed=5)
numpy.savez(sys.argv[3], latents=rollout.latents, rates=rollout.rates, counts=rollout.counts)
"""


@pytest.mark.parametrize("head", HEADS)
def test_a_fresh_process_gives_bit_identical_outputs(tmp_path: Path, counts: torch.Tensor, head: str) -> None:
    model = small_model(head)
    save(model, tmp_path / "export", {"seed": 3})
    np.save(tmp_path / "counts.npy", counts.numpy())
    arguments = [str(tmp_path / name) for name in ("export", "counts.npy", "out.npz")]
    # the child must compute on as many threads as this process: a product split otherwise rounds otherwise
    script = f"import torch; torch.set_num_threads({torch.get_num_threads()})\n{FRESH_PROCESS}"
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    here = model.rollout(model.context("b_s1", counts.numpy()), 4, 3, seed=5)
    there = np.load(tmp_path / "out.npz", allow_pickle=False)
    for name in ("latents", "rates", "counts"):
        np.testing.assert_array_equal(there[name], getattr(here, name).numpy())
    assert read_training(tmp_path / "export") == {"seed": 3}


def test_the_directory_says_what_it_is(tmp_path: Path) -> None:
    save(small_model(), tmp_path / "export", {"data": "made up"})
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "sessions.json",
    ]
    card = (tmp_path / "export" / "README.md").read_text()
    assert "b_s1 | b | 8" in card
    assert "made up" in card


def test_broken_directories_are_refused_by_name(tmp_path: Path) -> None:
    export = save(small_model(), tmp_path / "export")
    with pytest.raises(ValueError, match=r"nowhere/config.json: missing"):
        load(tmp_path / "nowhere")
    weights = (export / "model.safetensors").read_bytes()
    (export / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load(export)
    (export / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: missing"):
        load(export)
    save(small_model(history_scales=[1, 3]), tmp_path / "other")
    (export / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"'dynamics.read.weight': expected shape \(16, 12\), found \(16, 8\)"):
        load(export)


def test_edited_sessions_are_refused(tmp_path: Path) -> None:
    """Swapping two unit ids keeps every count and hash of the units; the rows would go to the wrong neurons."""
    export = save(small_model(), tmp_path / "export")
    values = json.loads((export / "sessions.json").read_text())
    ids = values["sessions"][1]["unit_ids"]
    ids[0], ids[1] = ids[1], ids[0]
    (export / "sessions.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="rows would be given to the wrong units"):
        load(export)


def test_a_failed_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: torch.Tensor
) -> None:
    export = save(small_model(seed=0), tmp_path / "export")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neurochorus.models.export.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(small_model(seed=1), export)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    kept = load(export)
    assert torch.equal(kept.whitening.matrix, small_model(seed=0).whitening.matrix)
    context = kept.context("b_s1", counts.numpy())
    assert torch.equal(kept.encode(context), small_model(seed=0).encode(context))


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not a model directory"):
        save(small_model(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()
