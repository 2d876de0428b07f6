"""What a run would cost, said before it starts: presets on the meta device, and a run whose data are there."""

import resource
from pathlib import Path

import pytest
import torch.distributed as dist

from neurochorus.data_shards.settings import read_settings
from neurochorus.data_shards.writer import write_dataset
from neurochorus.launch import pretrain
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.costs.dry_run import Hardware, RunCosts, dry_run
from neurochorus.pretrain.costs.workload import Assumed
from neurochorus.pretrain.training_data import TrainingData
from tests.data_shards.conftest import small_recording

CONFIGS = Path(pretrain.__file__).parent / "configs"
EIGHT = Hardware(world=8, peak_tflops=100.0, mfu=0.25)
IMPORTS = 2 * 10**8
"""Bytes that torch's simulation of tensors may take when it is first imported."""
FEW = Assumed(sessions=3, units=50, bins=40)
SHORT = ["forecast.context_bins=8", "forecast.horizon_bins=4"]


def costs_of(preset: str) -> RunCosts:
    config = read_settings(RunConfig, CONFIGS / f"presets/{preset}.yaml", ["data.path=nowhere", "run.dir=nowhere"])
    return dry_run(config, EIGHT, FEW)


@pytest.mark.parametrize(("preset", "millions"), [("small", 30), ("base", 150), ("large", 1000)])
def test_presets_have_the_size_they_state(preset: str, millions: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stages = costs_of(preset).stages
    parameters = sum(sum(stage.parameters.values()) for stage in stages)
    assert parameters / 1e6 == pytest.approx(millions, rel=0.15)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < max(4 * parameters, IMPORTS), "weights alone would take four bytes each"
    assert not dist.is_initialized()
    for stage in stages:
        activations = stage.activations
        assert activations["full"] < activations["selective"] < activations["none"]
        zero = {memory.zero_stage: memory for memory in stage.memory if not memory.host}
        assert zero[3].weights < zero[2].weights == zero[0].weights == 4 * sum(stage.parameters.values())
        assert zero[1].optimizer == pytest.approx(3 / 8 * zero[0].weights, rel=1e-3)
        for memory in stage.memory:
            if memory.host:
                assert memory.around < zero[memory.zero_stage].around, "what is offloaded is not on the device"


def test_hours_are_work_over_speed() -> None:
    costs = costs_of("small")
    stage = costs.stages[0]
    assert stage.samples == 20_000 * 256
    flops = stage.samples * 40 * sum(stage.flops_per_bin.values())
    assert stage.hours == pytest.approx(flops / (8 * 100e12 * 0.25) / 3600)


def test_settings_may_stand_around_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Those after an option used to be "unrecognized arguments"."""
    words = ["data.path=nowhere", "--config", str(CONFIGS / "presets/small.yaml"), "zero.stag=3", "--dry-run"]
    assert pretrain.main([*words, "run.dir=nowhere", "train.globl_batch=1"]) == 1
    said = capsys.readouterr().err
    assert "zero.stag: unknown key" in said
    assert "train.globl_batch: unknown key" in said
    assert "2 problems" in said


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dry") / "data"
    sizes = (("a1", "ann", 5, 30), ("b1", "bob", 8, 20), ("b2", "bob", 11, 10))
    sessions = [small_recording(name, subject, units, trials, units) for name, subject, units, trials in sizes]
    write_dataset(sessions, path, name="small", sample_bins=12)
    return path


def test_epochs_and_sizes_are_those_of_the_data(data: Path) -> None:
    overrides = [f"data.path={data}", "train.global_batch=4", "train.micro_batch=2", "dynamics.steps=50"]
    config = read_settings(
        RunConfig, CONFIGS / "demo.yaml", [*overrides, *SHORT, "data.exclude=[]", "data.window_bins=8"]
    )
    costs = dry_run(config, Hardware(world=2, peak_tflops=1.0, mfu=0.5, device="cpu"), FEW)
    opened = TrainingData.open(config)
    plan = opened.plan(config, "dynamics")
    assert costs.workload.longest_bins == 8
    assert costs.workload.mean_units == pytest.approx((5 + 8 + 11) / 3), "demo.yaml draws sessions alike"
    windows, epochs = plan.windows, plan.epochs(200)
    expected = (epochs["b1"] * windows["b1"] + epochs["b2"] * windows["b2"]) / (windows["b1"] + windows["b2"])
    assert costs.stages[1].epochs == {"ann": pytest.approx(epochs["a1"]), "bob": pytest.approx(expected)}


def test_the_command_prints_and_starts_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"data.path={data}", f"run.dir={tmp_path / 'run'}", "data.exclude=[]", *SHORT]
    assert pretrain.main([*overrides, "--dry-run", "--world", "2", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for words in (
        "3 sessions, 24 units",
        "epochs by subject",
        "2 ranks x 16",
        "GiB a device",
        "hours in all on 2 x",
        "ms a step",
    ):
        assert words in text
    assert "steps of less than 20 ms: kernel launches and collectives will dominate" in text
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_there_are_assumed_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt data.path used to give the costs of made-up data."""
    words = ["--config", str(CONFIGS / "presets/small.yaml"), "--dry-run", "data.path=nowhere"]
    assert pretrain.main(words) == 1
    assert "data.path: nowhere does not exist" in capsys.readouterr().err
    assert pretrain.main([*words, "--assume", "3x50x40"]) == 0
    assert "assumed (--assume; no data at data.path): 3 sessions, 150 units" in capsys.readouterr().out


def test_a_forecast_longer_than_any_sample_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run would be, at its start."""
    assert pretrain.main(["--dry-run", f"data.path={data}", "data.exclude=[]", "forecast.context_bins=12"]) == 1
    assert "bins of context and horizon (12 + 60); the longest sample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--world", "3"], "global_batch 32 is not a multiple of 48"),
        (["--mfu", "0"], "--mfu a share above 0"),
        (["--assume", "10x20"], "--assume '10x20': expected SESSIONSxUNITSxBINS"),
        (["dynamics.steps=-1"], "dynamics.steps: expected 1 or more"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(["--dry-run", *arguments, "data.path=nowhere"]) == 1
    assert words in capsys.readouterr().err


def test_covariates_and_the_joint_phase_are_simulated_too() -> None:
    covariates = "model.dynamics.covariates={wheel: {known: past, lag_bins: 3, columns: 2}}"
    config = read_settings(RunConfig, CONFIGS / "demo.yaml", ["data.path=nowhere", "joint.steps=5", covariates])
    stages = {stage.stage: stage for stage in dry_run(config, Hardware(1, 1.0, 0.5, "cpu"), FEW).stages}
    assert stages["joint"].activations["none"] > stages["dynamics"].activations["none"]
    assert stages["joint"].flops_per_bin["rollouts"] > 0
    assert stages["joint"].parameters == stages["dynamics"].parameters
