"""launch/impute.py and launch/score_imputation.py on a small model and data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from neurochorus.launch import generate, impute, score_imputation
from neurochorus.models import save
from tests.models.conftest import small_model
from tests.pretrain.test_covariates_in_forecasts import READ, write_corpus


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """Arguments that all commands share; the data set is at tmp_path / "data"."""
    write_corpus(tmp_path / "data")
    model = save(small_model(covariates=READ), tmp_path / "model")
    return ["--model", str(model), "--session", "a_s1", "--samples", "3", "--particles", "16"]


def test_a_data_set_with_units_and_bins_hidden(tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture) -> None:
    arguments = [
        *base,
        "--data",
        str(tmp_path / "data"),
        "--trials",
        "2",
        "--hide-bins",
        "3:5",
        "--hide-units",
        "u1,u4",
    ]
    made = []
    for name in ("one.npz", "two.npz"):
        assert impute.main([*arguments, "--out", str(tmp_path / name)]) == 0
        made.append(dict(np.load(tmp_path / name, allow_pickle=False)))
    assert f"imputed: {tmp_path / 'two.npz'}" in capsys.readouterr().out
    one, two = made
    for name in ("latents", "rates", "counts"):
        np.testing.assert_array_equal(one[name], two[name])
    trials, bins, units = one["recorded"].shape
    assert one["counts"].shape == one["rates"].shape == (3, trials, bins, units)
    assert one["mean_rate"].shape == one["rate_low"].shape == one["rate_high"].shape == (trials, bins, units)
    assert not one["observed"][:, 3:5].any()
    assert not one["observed"][:, :, [1, 4]].any()
    assert one["observed"].sum() == trials * (bins - 2) * (units - 2)
    seen = one["observed"]
    np.testing.assert_array_equal(one["counts"][:, seen], np.broadcast_to(one["recorded"][seen], (3, seen.sum())))
    assert one["gap_row"].tolist() == [0, 1]
    assert one["gap_start"].tolist() == [3, 3]
    assert one["gap_stop"].tolist() == [5, 5]
    assert (one["gap_effective"] > 1).all()


def test_an_array_in_which_nan_is_missing(tmp_path: Path, base: list[str]) -> None:
    """NaN, the same entries as a mask, and the same bins by name are one and the same."""
    counts = np.random.default_rng(0).poisson(0.5, (2, 12, 5)).astype(np.float32)
    mask = np.zeros(counts.shape, dtype=bool)
    mask[:, 4:7] = True
    np.save(tmp_path / "counts.npy", counts)
    np.save(tmp_path / "mask.npy", mask)
    counts[mask] = np.nan
    (tmp_path / "holes").mkdir()
    np.save(tmp_path / "holes" / "counts.npy", counts)
    ways = {
        "holes": ["--data", str(tmp_path / "holes" / "counts.npy")],
        "mask": ["--data", str(tmp_path / "counts.npy"), "--missing", str(tmp_path / "mask.npy")],
        "bins": ["--data", str(tmp_path / "counts.npy"), "--hide-bins", "4:7"],
    }
    made = {}
    for name, words in ways.items():
        assert impute.main([*base, *words, "--out", str(tmp_path / f"{name}.npz")]) == 0
        made[name] = dict(np.load(tmp_path / f"{name}.npz", allow_pickle=False))
    for name in ("mask", "bins"):
        np.testing.assert_array_equal(made[name]["rates"], made["holes"]["rates"])
        np.testing.assert_array_equal(made[name]["counts"], made["holes"]["counts"])
    assert np.isnan(made["holes"]["recorded"][:, 4:7]).all()
    assert np.isfinite(made["mask"]["recorded"]).all()


def test_units_that_an_array_lacks_are_filled_in(
    tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture
) -> None:
    """Columns by their ids, in any order; those that are not there are as if nothing had been observed of them."""
    counts = np.random.default_rng(0).poisson(0.5, (2, 12, 5)).astype(np.float32)
    (tmp_path / "ids.txt").write_text("u4\nu0\nu2\n")
    (tmp_path / "fewer").mkdir()
    np.save(tmp_path / "fewer" / "counts.npy", counts[:, :, [4, 0, 2]])
    whole = counts.copy()
    whole[:, :, [1, 3]] = np.nan
    np.save(tmp_path / "counts.npy", whole)
    made = []
    for file, words in (("fewer/counts.npy", ["--unit-ids", str(tmp_path / "ids.txt")]), ("counts.npy", [])):
        assert impute.main([*base, "--data", str(tmp_path / file), *words, "--out", str(tmp_path / "made.npz")]) == 0
        made.append(dict(np.load(tmp_path / "made.npz", allow_pickle=False)))
    assert "session a_s1: 2 of the 5 units that the model knows are not in the data" in capsys.readouterr().err
    for name in ("rates", "counts", "recorded", "observed", "unit_ids"):
        np.testing.assert_array_equal(made[0][name], made[1][name])
    assert made[0]["unit_ids"].tolist() == [f"u{unit}" for unit in range(5)]
    mask = np.zeros((12, 3), dtype=bool)
    mask[3:5, 0] = True
    np.save(tmp_path / "mask.npy", mask)  # like the array: of its columns
    words = ["--data", str(tmp_path / "fewer/counts.npy"), "--unit-ids", str(tmp_path / "ids.txt")]
    words += ["--missing", str(tmp_path / "mask.npy"), "--out", str(tmp_path / "made.npz")]
    assert impute.main([*base, *words]) == 0
    observed = np.load(tmp_path / "made.npz", allow_pickle=False)["observed"]
    assert np.argwhere(~observed[0, :, 4])[:, 0].tolist() == [3, 4]
    assert observed[:, :, [0, 2]].all()
    assert not made[0]["observed"][:, :, [1, 3]].any()


def test_generation_from_permuted_columns_is_the_same(tmp_path: Path, base: list[str]) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (2, 12, 5))
    order = [3, 1, 4, 0, 2]
    (tmp_path / "ids.txt").write_text("".join(f"u{unit}\n" for unit in order))
    (tmp_path / "permuted").mkdir()
    np.save(tmp_path / "counts.npy", counts)
    np.save(tmp_path / "permuted" / "counts.npy", counts[:, :, order])
    made = []
    for file, words in (("counts.npy", []), ("permuted/counts.npy", ["--unit-ids", str(tmp_path / "ids.txt")])):
        context = ["--context", str(tmp_path / file), "--horizon", "4", "--out", str(tmp_path / "made.npz")]
        assert generate.main([*base[:4], "--samples", "3", *context, *words]) == 0
        made.append(dict(np.load(tmp_path / "made.npz", allow_pickle=False)))
    np.testing.assert_allclose(made[1]["latents"], made[0]["latents"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made[1]["rates"], made[0]["rates"][..., order], rtol=1e-5, atol=1e-6)


def test_mistakes_are_named_and_leave_nothing(tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture) -> None:
    data = ["--data", str(tmp_path / "data")]
    np.save(tmp_path / "mask.npy", np.zeros((3, 3), dtype=bool))
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "one.npy", np.zeros((2, 12, 1)))
    (tmp_path / "ids.txt").write_text("unit_7\n")
    for words, error in (
        (data, "nothing is missing: give --hide-units"),
        ([*data, "--hide-bins", "5"], "--hide-bins '5': expected START:STOP"),
        ([*data, "--hide-bins", "5:500"], "bins 5:500: expected a stretch inside the"),
        ([*data, "--hide-bins", "0:500000", "--hide-units", "u1"], "expected a stretch inside"),
        ([*data, "--hide-units", "u11"], "has no unit 'u11'"),
        ([*data, "--missing", str(tmp_path / "mask.npy")], "the mask of what is missing is bool of shape (3, 3)"),
        ([*data, "--missing", str(tmp_path / "no.npy")], "no.npy: no such file"),
        (["--data", str(tmp_path / "words.npy"), "--hide-units", "u1"], "expected an array (trials, bins, 5 units"),
        (["--data", str(tmp_path / "nowhere"), "--hide-units", "u1"], "expected a data set directory or an .npy file"),
        ([*data, "--hide-units", "u0,u1,u2,u3,u4"], "nothing is observed in"),
        ([*data, "--hide-bins", "3:5", "--head", "flow"], "this model has no head 'flow'"),
        ([*data, "--hide-units", "u1", "--particles", "0"], "particles: expected 1 or more, found 0"),
        ([*data, "--hide-units", "u1", "--covariates", "known"], "expected data, none or an .npz file"),
        ([*data, "--hide-units", "u1", "--level", "90"], "level is 90.0"),
        ([*data, "--unit-ids", "ids.txt"], "unit ids 'ids.txt': no such file"),
        ([*data, "--unit-ids", str(tmp_path / "ids.txt")], "unit ids: they tell the columns of an .npy apart"),
        (
            ["--data", str(tmp_path / "one.npy"), "--unit-ids", str(tmp_path / "ids.txt")],
            "1 of 1 unit ids are not in the model (unit_7)",
        ),
    ):
        assert impute.main([*base, *words, "--out", str(tmp_path / "no.npz")]) == 1, words
        assert error in capsys.readouterr().err
    assert not list(tmp_path.glob("*no.npz*"))


def test_the_score_stands_beside_the_baselines(tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture) -> None:
    arguments = ["--model", base[1], "--data", str(tmp_path / "data"), "--window-bins", "12", "--gap-bins", "4"]
    arguments += ["--windows", "2", "--unit-folds", "2", "--samples", "4", "--particles", "8"]
    out = tmp_path / "imputation.json"
    assert score_imputation.main([*arguments, "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert set(results["hidden_units"]["rows"]) == {"imputed", "ridge from the other units", "train mean"}
    assert set(results["hidden_bins"]["rows"]) == {"imputed", "forecast from the left", "interpolation", "train mean"}
    for name in ("hidden_units", "hidden_bins"):
        assert all(np.isfinite(row["mean"]) for row in results[name]["rows"].values())
        assert 0 <= results[name]["coverage"]["mean"] <= 1
    assert results["gap"] == [4, 8]
    assert results["hidden_bins"]["effective_particles"] > 1
    assert "hidden units: bits_per_spike" in capsys.readouterr().out
    for words, error in (
        (["--unit-folds", "6"], "5 units, fewer than 6 folds"),
        (["--gap-bins", "12"], "leave nothing"),
    ):
        assert score_imputation.main([*arguments, *words, "--out", str(tmp_path / "no.json")]) == 1
        assert error in capsys.readouterr().err
