"""launch/generate.py with covariates and guidance."""

from pathlib import Path

import numpy as np
import pytest

from neurochorus.launch import generate
from neurochorus.models import save
from tests.models.conftest import small_model
from tests.pretrain.test_covariates_in_forecasts import READ, write_corpus


def made(out: Path, *words: str) -> dict[str, np.ndarray]:
    model = save(small_model(covariates=READ), out.parent / "model")
    arguments = ["--model", str(model), "--session", "a_s1", "--horizon", "6", "--samples", "2", "--out", str(out)]
    assert generate.main([*arguments, *words]) == 0
    with np.load(out, allow_pickle=False) as archive:
        return dict(archive)


def test_activity_is_generated_from_covariates_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path / "data")
    source = ["--context", str(tmp_path / "data"), "--context-bins", "0", "--trials", "3"]
    known = made(tmp_path / "known.npz", *source)
    assert known["counts"].shape == (2, 3, 6, 5)
    assert known["covariate_stimulus"].shape == (3, 6, 1)
    assert known["covariate_wheel"].shape == (3, 0, 2)
    told = made(tmp_path / "told.npz", *source, "--covariates", "data", "--guidance", "1.5")
    assert told["covariate_wheel"].shape == (3, 6, 2)
    assert float(told["guidance"]) == 1.5
    np.savez(tmp_path / "own.npz", stimulus=known["covariate_stimulus"])
    own = made(tmp_path / "again.npz", *source, "--covariates", str(tmp_path / "own.npz"))
    np.testing.assert_array_equal(own["counts"], known["counts"])
    arguments = ["--model", str(tmp_path / "model"), "--session", "a_s1", "--horizon", "6"]
    capsys.readouterr()
    for words, error in (
        (["--covariates", "data"], "covariates data: the context 'none' is no data set directory"),
        (["--guidance", "-1"], "guidance is -1.0; expected 0 or a positive number"),
    ):
        assert generate.main([*arguments, *words, "--out", str(tmp_path / "no.npz")]) == 1
        assert error in capsys.readouterr().err
        assert not (tmp_path / "no.npz").exists()
