"""Submission files of the Neural Latents Benchmark: what nlb_tools reads of them, and what is named as wrong."""

import importlib.util
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.special import gammaln

from neurochorus.launch.submit import main
from neurochorus.models import save
from neurochorus.pretrain.submissions.neural_latents import (
    DATA_SETS,
    file_problems,
    group_problems,
    missing_scaling_sets,
    read_submission,
    write_submission,
)
from neurochorus.pretrain.submissions.unread_units import forward_rates, smoothed_rates
from tests.pretrain.submissions.small_models import model_of

NAME, HELD_IN, HELD_OUT = "mc_maze_small_20", 107, 35
SHAPES = {
    "train_rates_heldin": (75, 35, 107),
    "train_rates_heldout": (75, 35, 35),
    "eval_rates_heldin": (25, 35, 107),
    "eval_rates_heldout": (25, 35, 35),
    "eval_rates_heldin_forward": (25, 10, 107),
    "eval_rates_heldout_forward": (25, 10, 35),
}


def nlb_bits_per_spike(rates: np.ndarray, spikes: np.ndarray) -> float:
    """nlb_tools/evaluation.py, `bits_per_spike` and `neg_log_likelihood`, written out."""

    def nll(rates: np.ndarray) -> float:
        return float(np.sum(rates - spikes * np.log(rates) + gammaln(spikes + 1.0)))

    null = np.tile(spikes.mean(axis=(0, 1), keepdims=True), (*spikes.shape[:-1], 1))
    return (nll(null) - nll(rates)) / np.sum(spikes) / np.log(2)


def nlb_evaluate(targets: dict[str, np.ndarray], path: Path) -> dict[str, float]:
    """What nlb_tools/evaluation.py `evaluate` reads of a group and scores, for co-bps and fp-bps."""
    group = {key: rates.astype("float") for key, rates in read_submission(path)[NAME].items()}
    np.concatenate([group["eval_rates_heldin"], group["eval_rates_heldout"]], axis=-1)
    np.concatenate([group["train_rates_heldin"], group["train_rates_heldout"]], axis=-1)
    spikes = np.dstack([targets["eval_spikes_heldin_forward"], targets["eval_spikes_heldout_forward"]])
    rates = np.dstack([group["eval_rates_heldin_forward"], group["eval_rates_heldout_forward"]])
    return {
        "co-bps": nlb_bits_per_spike(group["eval_rates_heldout"], targets["eval_spikes_heldout"]),
        "fp-bps": nlb_bits_per_spike(rates, spikes),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A submission made by the command from input files as nlb_tools writes them, and the evaluation's targets."""
    folder = tmp_path_factory.mktemp("nlb")
    rng = np.random.default_rng(0)
    save(model_of("maze", HELD_IN + HELD_OUT, 0.02), folder / "export")
    spikes = {key.replace("rates", "spikes"): rng.poisson(0.3, shape).astype(float) for key, shape in SHAPES.items()}
    spikes["eval_spikes_heldin"][0, -3:] = np.nan  # a trial that was not recorded to its end
    for name, keys in (("train", ("train_spikes_heldin", "train_spikes_heldout")), ("eval", ("eval_spikes_heldin",))):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for key in keys:
                file[key] = spikes[key]
    out = folder / "submission.h5"
    arguments = ["--model", str(folder / "export"), "--session", "maze", "--data-set", "mc_maze_small"]
    arguments += ["--train", str(folder / "train.h5"), "--eval", str(folder / "eval.h5")]
    assert main(["nlb", *arguments, "--samples", "2", "--out", str(out)]) == 0
    assert main(["check", str(out)]) == 0
    return out, spikes


def test_a_submission_has_the_published_shapes_and_is_scored_by_the_benchmarks_formulas(written) -> None:
    out, targets = written
    found = read_submission(out)[NAME]
    assert {key: rates.shape for key, rates in found.items()} == SHAPES
    assert all(rates.dtype == np.float32 and np.isfinite(rates).all() and (rates > 0).all() for rates in found.values())
    scores = nlb_evaluate(targets, out)
    assert -10 < scores["co-bps"] < 0.05  # untrained
    assert np.isfinite(scores["fp-bps"])
    assert missing_scaling_sets(out) == ["mc_maze_large_20", "mc_maze_medium_20"]


@pytest.mark.skipif(importlib.util.find_spec("nlb_tools") is None, reason="nlb_tools is not installed")
def test_nlb_tools_accepts_and_scores_a_submission(written) -> None:
    evaluation = importlib.import_module("nlb_tools.evaluation")
    out, targets = written
    assert "sklearn" in sys.modules
    behavior = {"train_behavior": np.random.rand(75, 35, 2), "eval_behavior": np.random.rand(25, 35, 2)}  # noqa: NPY002
    (result,) = evaluation.evaluate({NAME: {**targets, **behavior}}, str(out))
    scores, expected = result["mc_maze_scaling_20_split"], nlb_evaluate(targets, out)
    assert scores["[100] co-bps"] == pytest.approx(expected["co-bps"], rel=1e-6)
    assert scores["[100] fp-bps"] == pytest.approx(expected["fp-bps"], rel=1e-6)


def fields() -> dict[str, np.ndarray]:
    return {key: np.full(shape, 0.1) for key, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.pop("eval_rates_heldout"), "eval_rates_heldout is missing"),
        (lambda f: f.pop("eval_rates_heldin_forward"), "eval_rates_heldin_forward is missing"),
        (lambda f: f.update(rates=f["eval_rates_heldin"]), "rates is not a field"),
        (lambda f: f.update(eval_rates_heldin=f["eval_rates_heldin"][:, :30]), "expected (25, 35, 107) in phase val"),
        (lambda f: f["eval_rates_heldout"].__setitem__((0, 0, 0), np.nan), "1 NaN"),
        (lambda f: f["eval_rates_heldout"].__setitem__((0, 0, 0), -0.1), "negative rates (least: -0.1)"),
    ],
)
def test_what_is_wrong_with_a_group_is_named_and_not_written(tmp_path: Path, change, said: str) -> None:
    made = fields()
    change(made)
    (problem,) = group_problems(NAME, made)
    assert said in problem
    with pytest.raises(ValueError, match="not written"):
        write_submission(tmp_path / "s.h5", NAME, made)
    assert not list(tmp_path.iterdir())


def test_groups_join_a_file_and_forward_bins_may_be_left_out(tmp_path: Path) -> None:
    made = {key: rates for key, rates in fields().items() if "forward" not in key}
    write_submission(tmp_path / "s.h5", NAME, made)
    area = {key: np.full(shape, 0.2) for key, shape in DATA_SETS["area2_bump"].shapes(5, "test").items()}
    write_submission(tmp_path / "s.h5", "area2_bump", area)
    write_submission(tmp_path / "s.h5", NAME, {key: 2 * rates for key, rates in made.items()})
    assert file_problems(tmp_path / "s.h5") == []
    found = read_submission(tmp_path / "s.h5")
    assert list(found) == ["area2_bump", NAME]
    assert found[NAME]["eval_rates_heldout"].max() == np.float32(0.2)
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file["mc_mace/train_rates_heldin"] = np.ones(3)
    assert "mc_mace: no data set" in file_problems(tmp_path / "s.h5")[0]
    (tmp_path / "t.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match=r"t.h5: not an HDF5 file"):
        file_problems(tmp_path / "t.h5")


@pytest.mark.parametrize("history", [0, 3])
def test_rates_do_not_depend_on_what_stands_in_the_columns_of_held_out_units(history: int) -> None:
    model = model_of("maze", 8, 0.02, history_bins=history)
    held_out_C = np.arange(8) >= 5
    counts = np.random.default_rng(0).poisson(0.5, (3, 12, 8))
    other = counts.copy()
    other[..., held_out_C] = 9
    one, two = (model.context("maze", values) for values in (counts, other))
    assert torch.equal(smoothed_rates(model, one, held_out_C), smoothed_rates(model, two, held_out_C))
    ahead = [forward_rates(model, batch, held_out_C, 4, 3, seed=0) for batch in (one, two)]
    assert torch.equal(*ahead)
    read = counts.copy()
    read[..., 0] = 9
    assert not torch.equal(ahead[0], forward_rates(model, model.context("maze", read), held_out_C, 4, 3, seed=0))


def test_with_nothing_held_out_rates_are_those_of_the_model() -> None:
    model, none = model_of("maze", 8, 0.02), np.zeros(8, dtype=bool)
    batch = model.context("maze", np.random.default_rng(0).poisson(0.5, (3, 12, 8)))
    torch.testing.assert_close(smoothed_rates(model, batch, none), model.reconstruct(batch))
    torch.testing.assert_close(forward_rates(model, batch, none, 4, 3, 0), model.forecast(batch, 4, 3, 0)[0])


def test_the_session_must_have_the_units_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(model_of("maze", 5, 0.02), tmp_path / "export")
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["train_spikes_heldin"] = file["eval_spikes_heldin"] = np.zeros((2, 35, 4))
        file["train_spikes_heldout"] = np.zeros((2, 35, 2))
    arguments = ["--model", str(tmp_path / "export"), "--session", "maze", "--train", str(tmp_path / "in.h5")]
    arguments += ["--eval", str(tmp_path / "in.h5"), "--out", str(tmp_path / "o.h5"), "--data-set"]
    assert main(["nlb", *arguments, "mc_maze_small"]) == 1
    assert "4 held-in and 2 held-out units are 6; session 'maze' has 5" in capsys.readouterr().err
    assert main(["nlb", *arguments, "mc_mace"]) == 1
    assert "'mc_mace' in bins of 20 ms: the benchmark takes mc_maze" in capsys.readouterr().err
