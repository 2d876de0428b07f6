"""finetune.py --compare: what is trained, what is refused, and the whole command on a tiny data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from neurochorus.data_shards.settings import parse_settings, read_settings
from neurochorus.launch import comparing, finetune
from neurochorus.launch.commands import Part
from neurochorus.launch.comparing import _keep_to_settings, _names, prepare
from neurochorus.launch.comparing_parts import Comparison, Size, default_sizes, scratch_settings
from neurochorus.models import AutoencoderConfig, ModelConfig, TransformerConfig, load, read_training
from neurochorus.pretrain import finetuning, pretraining
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import process_group
from neurochorus.pretrain.evaluation.evaluate import evaluate
from neurochorus.pretrain.evaluation.transfer import baseline_values, forecast_value
from neurochorus.pretrain.finetuning import FinetuneConfig
from tests.models.conftest import small_model
from tests.pretrain.adaptation.small_runs import write_base
from tests.pretrain.suite_corpus import FORECAST, write_suite_corpus

FINETUNE = """
autoencoder: {steps: 7, learning_rate: 4.0e-3}
dynamics: {steps: 5}
train: {global_batch: 8, micro_batch: 4}
stop: {every: 3, patience: 2, batches: 2}
checkpoint: {every: 100}
wandb: {mode: disabled}
data: {workers: 0}
"""


def comparison(tmp_path: Path, **changes: object) -> Comparison:
    given = {"model": "m", "run": {"dir": str(tmp_path)}, "data": {"path": "d"}, **yaml.safe_load(FINETUNE)}
    given["data"] = {"path": "d", "workers": 0}
    finetune = parse_settings(FinetuneConfig, given, "test")
    model = {"autoencoder": {"latents": 6, "encoder": {"width": 16, "blocks": 2, "heads": 2}}}
    base = {
        "autoencoder": {"steps": 900, "learning_rate": 2e-3, "init": "x"},
        "dynamics": {"steps": 9, "weight_decay": 0.3},
        "data": {"path": "other"}, "train": {"global_batch": 99},
    }  # fmt: skip
    made = {
        "finetune": finetune, "sessions": ("a", "b"),
        "scratch": scratch_settings(finetune, model, {"context_bins": 20, "horizon_bins": 10}, base),
        "arms": ("rows", "full"), "fractions": (0.25, 1.0), "seeds": (0, 1), "sizes": (Size(8, 1, 3),), "ranks": 1,
        "out": tmp_path,
    }  # fmt: skip
    return Comparison(**{**made, **changes})  # type: ignore[arg-type]


def test_training_from_nothing_has_the_architecture_of_the_model_and_the_budget_of_the_adaptation(tmp_path) -> None:
    scratch = comparison(tmp_path).scratch
    assert (scratch.model.autoencoder.latents, scratch.model.autoencoder.encoder.width) == (6, 16)
    assert (scratch.autoencoder.steps, scratch.autoencoder.learning_rate, scratch.autoencoder.init) == (7, 2e-3, None)
    assert (scratch.dynamics.steps, scratch.dynamics.learning_rate, scratch.dynamics.weight_decay) == (5, 5e-3, 0.3)
    assert (scratch.train.global_batch, scratch.data.path, scratch.forecast.context_bins) == (8, "d", 20)
    assert scratch.stop is not None
    assert scratch.stop.every == 3


def test_all_arms_of_a_fraction_and_seed_see_the_same_samples(tmp_path: Path) -> None:
    made = comparison(tmp_path)
    parts = [made.adaptation(0.25, 1, "full"), made.scratch_model(0.25, 1, "scratch-a", ["a"]),
             made.scratch_model(0.25, 1, "small", ["a", "b"], Size(8, 1, 3))]  # fmt: skip
    files = [tmp_path / "fraction0.25" / "seed1" / f"{name}.yaml" for name in ("full", "scratch-a", "small")]
    for part, file in zip(parts, files, strict=True):
        assert str(file) in part.command
        assert part.product == file.with_suffix("") / "export" / "config.json"
    adapted = read_settings(FinetuneConfig, files[0])
    alone, small = (read_settings(RunConfig, file) for file in files[1:])
    assert adapted.adapt == "full"
    assert [(one.data.fraction, one.data.fraction_seed, one.run.seed) for one in (adapted, alone, small)] == [
        (0.25, 1, 1)
    ] * 3
    assert (adapted.data.sessions, alone.data.sessions, small.data.sessions) == (["a", "b"], ["a"], ["a", "b"])
    assert (alone.model.autoencoder.encoder.width, small.model.autoencoder.encoder.width) == (16, 8)
    assert (small.model.autoencoder.latents, small.model.dynamics.transformer.blocks) == (3, 1)
    assert "deepspeed" in comparison(tmp_path, ranks=2).scratch_model(1.0, 0, "x", ["a"]).command[0]


def test_sizes_for_little_data() -> None:
    model = ModelConfig(autoencoder=AutoencoderConfig(latents=16, encoder=TransformerConfig(width=96, heads=4)))
    assert [size.text for size in default_sizes(model)] == ["48:1:16", "48:1:8", "24:1:8"]
    assert Size(20, 1, 8).of(model).autoencoder.encoder.heads == 2
    assert Size.parse("48:1:8") == Size(48, 1, 8)
    for text in ("48:1", "48:x:8", "48:0:8"):
        with pytest.raises(ValueError, match="expected WIDTH:BLOCKS:LATENTS"):
            Size.parse(text)
    with pytest.raises(ValueError, match="expected an even number"):
        Size(15, 1, 8).of(model)


def test_wrong_use_is_refused_and_other_settings_do_not_continue(tmp_path: Path) -> None:
    options = {"fractions": [0.5], "arms": ["rows"], "seeds": [0], "config": None, "scratch_config": None}
    with pytest.raises(ValueError, match=r"--fractions 1\.5: expected shares"):
        prepare(SimpleNamespace(**{**options, "fractions": [1.5]}), {})
    with pytest.raises(ValueError, match="--arms rowz: expected rows"):
        prepare(SimpleNamespace(**{**options, "arms": ["rowz"]}), {})
    made = comparison(tmp_path)
    assert [*_names(made)] == ["pretrained, rows", "pretrained, full", "scratch, jointly", "scratch, jointly, small",
                               "scratch, per session"]  # fmt: skip
    _keep_to_settings(made)
    _keep_to_settings(comparison(tmp_path, fractions=(0.1,), seeds=(5,)))  # more of the same
    with pytest.raises(ValueError, match=r"made with other settings \(sessions\): give another --out"):
        _keep_to_settings(comparison(tmp_path, sessions=("a",)))


def test_the_forecast_is_that_of_evaluate(tmp_path: Path) -> None:
    corpus = write_suite_corpus(tmp_path / "data")
    model = small_model()
    values = evaluate(model, corpus, ["a_s1"], "test", FORECAST)["forecast"]["rows"]
    assert forecast_value(model, corpus, "a_s1", "test", FORECAST) == values["energy"]["sessions"]["a_s1"]
    for name, value in baseline_values(corpus, "a_s1", "test", FORECAST).items():
        assert value == values[name]["sessions"]["a_s1"]


@pytest.mark.slow
def test_the_whole_command_and_going_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trainings are run in this process: starting Python for each would take most of the time."""
    trained: list[str] = []
    write_base(tmp_path)
    (tmp_path / "finetune.yaml").write_text(FINETUNE)
    data, out = str(tmp_path / "data"), tmp_path / "out"
    words = ["--model", f"{tmp_path}/base", "--data", data, "--sessions", "c1", "b2", "--out", str(out)]
    words += ["--config", str(tmp_path / "finetune.yaml"), "--compare", "scratch", "--small", "8:1:2", "8:1:4"]
    with process_group() as ranks:

        def in_this_process(parts: Sequence[Part], jobs: int) -> None:
            for part in parts:
                trained.append(part.title)
                file = part.command[part.command.index("--config") + 1]
                if part.command[1].endswith("finetune.py"):
                    finetuning.finetune(read_settings(FinetuneConfig, file), ranks)
                else:
                    pretraining.pretrain(read_settings(RunConfig, file), ranks)
                assert part.product.exists()

        monkeypatch.setattr(comparing, "run_all", in_this_process)
        assert finetune.main([*words, "--arms", "rows", "--fractions", "0.5", "--seeds", "0"]) == 0
        assert trained == [f"50 % of the data, seed 0: {name}" for name in (
            "rows", "scratch-jointly", "scratch-c1", "scratch-b2", "scratch-small-8-1-2", "scratch-small-8-1-4"
        )]  # fmt: skip
        trained.clear()
        assert finetune.main([*words, "--arms", "rows", "full", "--fractions", "0.5", "1", "--seeds", "0", "1"]) == 0
    # what was there is kept; of the sizes only the best one is trained with further seeds
    assert [title for title in trained if title.startswith("50 % of the data, seed 0")] == [
        "50 % of the data, seed 0: full"
    ]
    assert len([title for title in trained if "small" in title]) == 1 + 2 + 1
    results = json.loads((out / "transfer.json").read_text())
    assert (results["fractions"], results["seeds"]) == ([0.5, 1.0], [0, 1])
    sessions = ["c1", "b2"]
    assert list(results["arms"]) == ["pretrained, rows", "pretrained, full", "scratch, jointly",
                                     "scratch, jointly, small", "scratch, per session"]  # fmt: skip
    for by_fraction in results["arms"].values():
        assert {text: {s: len(v) for s, v in values.items()} for text, values in by_fraction.items()} == {
            text: dict.fromkeys(sessions, 2) for text in ("0.5", "1")
        }
    for session in sessions:
        assert results["trials"]["0.5"][session] == round(results["trials"]["1"][session] / 2)
    assert set(results["baselines"]) == {"train mean", "trailing mean", "ridge", "ridge mix"}
    assert len(results["comparisons"]) == 2 * 2 * 3
    assert set(results["small"]["1"]["valid"]) == {"8:1:2", "8:1:4"}
    assert (out / "transfer.png").read_bytes()[:4] == b"\x89PNG"
    assert "| pretrained, rows |" in (out / "transfer.md").read_text()
    full = load(out / "fraction1" / "seed0" / "full" / "export")
    assert {session.session_id for session in full.registry.sessions} == {"a1", "b1", *sessions}
    scratch = read_training(out / "fraction0.5" / "seed1" / "scratch-c1" / "export")
    assert (scratch["sessions"], scratch["fraction"], scratch["autoencoder"]["steps"]) == (["c1"], 0.5, 7)
    capsys.readouterr()
    assert finetune.main([*words, "--set", "autoencoder.steps=8"]) == 1
    assert "made with other settings (finetune, scratch)" in capsys.readouterr().err
