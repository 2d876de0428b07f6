import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.manifest import Manifest
from neurochorus.launch import describe, shard

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "launch" / "configs" / "recipes"
SMALL = ["synthetic.trials=20", "synthetic.trial_bins=20", "synthetic.subjects=[fox, hare]"]

# runs a script as `python SCRIPT ...` does, with the installed package hidden
UNINSTALLED = """
import importlib.util, runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if path and "editable" not in path]
assert importlib.util.find_spec("neurochorus") is None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def make_demo(out: Path, *arguments: str) -> int:
    return shard.main(["--recipe", str(RECIPES / "demo.yaml"), "--out", str(out), *SMALL, *arguments])


def test_shard_then_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_demo(tmp_path / "data", "synthetic.lorenz.mean_rate=0.5") == 0
    assert "4 sessions, 80 samples, 1 shards" in capsys.readouterr().out
    manifest = Manifest.load(tmp_path / "data")
    assert manifest.provenance["recipe"]["synthetic"]["lorenz"]["mean_rate"] == 0.5
    assert describe.main([str(tmp_path / "data"), "--verify"]) == 0
    printed = capsys.readouterr().out
    for expected in ("fox_s1", "hare_s2", "spikes/s", "56 samples, 1120 bins", "verified", manifest.hash()):
        assert expected in printed


def save_session(path: Path, trials: int = 20) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (trials, 10, 4)).astype(np.uint8)
    np.savez(path, counts=counts, animal=np.array("fox"), good=np.array([1, 1, 0, 1]))


@pytest.fixture
def made(tmp_path: Path) -> list[str]:
    """Arguments that import a folder with three sessions, of which the second is damaged."""
    (tmp_path / "source").mkdir()
    for name in ("a", "b", "c"):
        save_session(tmp_path / "source" / f"{name}.npz")
    (tmp_path / "source" / "b.npz").write_bytes(b"damaged")
    (tmp_path / "recipe.yaml").write_text(
        "{name: made, importer: npz, bin_s: 0.01, sample_bins: 10, subject_id: {key: animal},"
        " signal: {layout: trials, key: counts}, units: {where: good == 1}}"
    )
    return ["--recipe", str(tmp_path / "recipe.yaml"), "--source", str(tmp_path / "source")]


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    tmp_path: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert shard.main([*made, "--dry-run"]) == 1
    printed = capsys.readouterr().out
    for expected in ("14/2/4", "28 samples", "not imported: 1", "b.npz", "nothing was written"):
        assert expected in printed
    assert "where good == 1" in printed
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_file_is_listed_and_the_rest_written_then_extended(
    tmp_path: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    assert shard.main([*made, "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "2 sessions, 40 samples" in printed
    assert "not imported: 1" in printed
    save_session(tmp_path / "source" / "b.npz", trials=30)
    assert shard.main([*made, "--out", str(out), "--extend"]) == 0
    printed = capsys.readouterr().out
    assert "2 sessions are in the data set already" in printed
    assert "3 sessions, 70 samples" in printed
    assert describe.main([str(out), "--verify"]) == 0
    printed = capsys.readouterr().out
    assert "dropped" in printed
    assert "where good == 1" in printed


def test_strict_stops_and_keeps_what_is_done(
    tmp_path: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shard.main([*made, "--out", str(tmp_path / "data"), "--strict"]) == 1
    assert "b.npz" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    save_session(tmp_path / "source" / "b.npz", trials=30)
    assert shard.main([*made, "--out", str(tmp_path / "data"), "--strict"]) == 0
    assert "1 sessions had been imported by an interrupted run" in capsys.readouterr().out


def test_describe_verify_finds_a_flipped_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_demo(tmp_path / "data")
    path = tmp_path / "data" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert describe.main([str(tmp_path / "data")]) == 0
    assert describe.main([str(tmp_path / "data"), "--verify"]) == 1
    assert "shard-000000.tar" in capsys.readouterr().err


def test_describe_reports_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main([str(tmp_path)]) == 1
    assert "not a finished data set" in capsys.readouterr().err
    make_demo(tmp_path / "data")
    path = tmp_path / "data" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    assert describe.main([str(tmp_path / "data")]) == 1
    assert "cut short" in capsys.readouterr().err
    path.unlink()
    assert describe.main([str(tmp_path / "data")]) == 1
    assert "shard-000000.tar: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: 1 problem\n  - the file does not exist"),
        (["--recipe", str(RECIPES / "demo.yaml"), "synthetic.trails=3"], "did you mean 'trials'?"),
        (["--recipe", str(RECIPES / "demo.yaml"), "--source", "x"], "leave --source out"),
        (["--recipe", str(RECIPES / "steinmetz2019.yaml")], "--source DIR"),
        (["--recipe", str(RECIPES / "steinmetz2019.yaml"), "--source", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_shard_reports_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert shard.main([*arguments, "--out", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_shard_mentions_what_an_interrupted_run_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".data.partial-0").mkdir()
    make_demo(tmp_path / "data")
    assert ".data.partial-0 is left from an interrupted run" in capsys.readouterr().out


@pytest.mark.parametrize("installed", [True, False])
def test_the_scripts_run_from_any_directory(tmp_path: Path, installed: bool) -> None:
    start = [sys.executable] if installed else [sys.executable, "-c", UNINSTALLED]
    recipe = ["--recipe", str(RECIPES / "demo.yaml")]
    for command in (
        [str(ROOT / "launch" / "shard.py"), *recipe, "--out", "data", *SMALL],
        [str(ROOT / "launch" / "describe.py"), "data", "--verify"],
    ):
        done = subprocess.run([*start, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_real_sessions_become_a_data_set(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    source = real_data("steinmetz2019")
    arguments = ["--recipe", str(RECIPES / "steinmetz2019.yaml"), "--source", str(source), "--out"]
    assert shard.main([*arguments, str(tmp_path / "data"), "files=steinmetz_s0[1-3].npz"]) == 0
    manifest = Manifest.load(tmp_path / "data")
    assert [entry.session_id for entry in manifest.sessions] == [f"steinmetz_s0{i}" for i in (1, 2, 3)]
    trials = [len(np.load(source / f"steinmetz_s0{i}.npz")["spikes"]) for i in (1, 2, 3)]
    assert sum(total["samples"] for total in manifest.splits.values()) == sum(trials)
    assert manifest.splits["train"]["samples"] == sum(int(0.7 * count) for count in trials)
    assert describe.main([str(tmp_path / "data"), "--verify"]) == 0
