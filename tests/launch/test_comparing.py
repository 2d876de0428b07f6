"""finetune.py --compare: what is trained, what is refused, and the whole command on a tiny data set."""

import contextlib
import json
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.settings import parse_settings, read_settings, settings_to_dict
from neurochorus.data_shards.writer import write_dataset
from neurochorus.launch import comparing, finetune
from neurochorus.launch.commands import Part
from neurochorus.launch.comparing import _arms, _choose, _keep_to_settings, _names, _train, prepare, with_stop
from neurochorus.launch.comparing_checks import refuse_too_little_data, thinned
from neurochorus.launch.comparing_parts import (
    JOINTLY,
    PER_SESSION,
    Comparison,
    Size,
    default_sizes,
    scratch_settings,
)
from neurochorus.models import AutoencoderConfig, ModelConfig, TransformerConfig, load, read_training
from neurochorus.pretrain import finetuning, pretraining
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.evaluation.transfer_measures import Decoding, Forecasts
from neurochorus.pretrain.finetuning import FinetuneConfig
from tests.pretrain.adaptation.small_runs import driven_recording, write_base
from tests.pretrain.suite_corpus import FORECAST

FINETUNE = """
autoencoder: {steps: 7, learning_rate: 4.0e-3}
dynamics: {steps: 5}
train: {global_batch: 8, micro_batch: 4}
stop: {every: 3, patience: 2, batches: 2}
checkpoint: {every: 100}
wandb: {mode: disabled}
data: {workers: 0}
"""
BASE = "{autoencoder: {steps: 8}, dynamics: {steps: 6}}"
"Of the run that the model came from."


def comparison(tmp_path: Path, **changes: object) -> Comparison:
    given = {"model": "m", "run": {"dir": str(tmp_path)}, "data": {"path": "d"}, **yaml.safe_load(FINETUNE)}
    given["data"] = {"path": "d", "workers": 0}
    finetune = parse_settings(FinetuneConfig, given, "test")
    model = {"autoencoder": {"latents": 6, "encoder": {"width": 16, "blocks": 2, "heads": 2}}}
    base = {
        "autoencoder": {"steps": 900, "learning_rate": 2e-3, "init": "x"},
        "dynamics": {"steps": 9, "weight_decay": 0.3},
        "joint": {"steps": 4}, "data": {"path": "other"},
        "train": {"global_batch": 99, "ema": 0.9, "base_width": 8, "head_learning_rate_factor": 0.5},
    }  # fmt: skip
    made = {
        "finetune": finetune, "sessions": ("a", "b"),
        "scratch": scratch_settings(finetune, model, {"context_bins": 20, "horizon_bins": 10}, base),
        "arms": ("rows", "full"), "fractions": (0.25, 1.0), "seeds": (0, 1), "sizes": (Size(8, 1, 3),), "ranks": 1,
        "out": tmp_path, "measure": Forecasts(True, FORECAST),
    }  # fmt: skip
    return Comparison(**{**made, **changes})  # type: ignore[arg-type]


def test_training_from_nothing_has_the_architecture_and_the_stages_of_the_run_of_the_model(tmp_path: Path) -> None:
    scratch = comparison(tmp_path).scratch
    assert (scratch.model.autoencoder.latents, scratch.model.autoencoder.encoder.width) == (6, 16)
    assert (scratch.autoencoder.steps, scratch.autoencoder.learning_rate, scratch.autoencoder.init) == (900, 2e-3, None)
    assert (scratch.dynamics.steps, scratch.dynamics.learning_rate, scratch.dynamics.weight_decay) == (9, 1e-3, 0.3)
    assert scratch.joint is not None
    assert scratch.joint.steps == 4
    assert (scratch.train.ema, scratch.train.base_width, scratch.train.head_learning_rate_factor) == (0.9, 8, 0.5)
    # what it sees, and when it stops, is as in the adaptation
    assert (scratch.train.global_batch, scratch.data.path, scratch.forecast.context_bins) == (8, "d", 20)
    assert scratch.stop is not None
    assert scratch.stop.every == 3


def test_without_a_run_that_trained_the_model_from_nothing_it_is_asked_for(tmp_path: Path) -> None:
    write_base(tmp_path)
    options = SimpleNamespace(fractions=[1.0], arms=["rows"], seeds=[0], config=None, scratch_config=None, tuned=None)
    values = {"model": f"{tmp_path}/base", "run": {"dir": "x"}, "data": {"path": f"{tmp_path}/data"}}
    with pytest.raises(ValueError, match=r"config\.yaml: not there.*--scratch-config"):
        prepare(options, values)
    (tmp_path / "config.yaml").write_text("{autoencoder: {steps: 4}, dynamics: {init: x}}")
    with pytest.raises(ValueError, match=r"config\.yaml: has no dynamics\.steps.*--scratch-config"):
        prepare(options, values)
    (tmp_path / "config.yaml").write_text("{run: {dir: x, init: y}, autoencoder: {steps: 4}, dynamics: {steps: 4}}")
    with pytest.raises(ValueError, match=r"config\.yaml: run\.init: it went on.*--scratch-config"):
        prepare(options, values)
    described = json.loads((tmp_path / "base" / "config.json").read_text())
    described["training"]["adapted"] = "lora"
    (tmp_path / "base" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"is of an adaptation \(lora\).*--scratch-config"):
        prepare(options, values)


def test_every_arm_stops_early() -> None:
    assert with_stop({})["stop"] == {"every": 50, "patience": 20, "batches": 16}
    assert with_stop({"stop": {"every": 7}})["stop"] == {"every": 7, "patience": 20, "batches": 16}
    with pytest.raises(ValueError, match="stop: null with --compare"):
        with_stop({"stop": None})


def test_all_arms_of_a_fraction_and_seed_see_the_same_samples(tmp_path: Path) -> None:
    made = comparison(tmp_path)
    parts = [made.adaptation(0.25, 1, "full"), made.scratch_model(0.25, 1, "scratch-a", ["a"]),
             made.scratch_model(0.25, 1, "tuned", ["a", "b"], Size(8, 1, 3, 0.125))]  # fmt: skip
    files = [tmp_path / "fraction0.25" / "seed1" / f"{name}.yaml" for name in ("full", "scratch-a", "tuned")]
    for part, file in zip(parts, files, strict=True):
        assert str(file) in part.command
        assert part.product == file.with_suffix("") / "export" / "config.json"
    adapted = read_settings(FinetuneConfig, files[0])
    alone, tuned = (read_settings(RunConfig, file) for file in files[1:])
    assert adapted.adapt == "full"
    assert [(one.data.fraction, one.data.fraction_seed, one.run.seed) for one in (adapted, alone, tuned)] == [
        (0.25, 1, 1)
    ] * 3
    assert (adapted.data.sessions, alone.data.sessions, tuned.data.sessions) == (["a", "b"], ["a"], ["a", "b"])
    assert (alone.model.autoencoder.encoder.width, tuned.model.autoencoder.encoder.width) == (16, 8)
    assert (tuned.model.autoencoder.latents, tuned.model.dynamics.transformer.blocks) == (3, 1)
    # an eighth of 900 and 9 steps, so that its learning rate falls within them
    assert [(one.autoencoder.steps, one.dynamics.steps) for one in (alone, tuned)] == [(900, 9), (112, 1)]
    assert "deepspeed" in comparison(tmp_path, ranks=2).scratch_model(1.0, 0, "x", ["a"]).command[0]


def test_trainings_side_by_side_meet_at_ports_of_their_own(tmp_path: Path) -> None:
    """Hashes of 60 names into 250 ports collide; a port that is taken on this machine is passed over."""
    made = comparison(tmp_path, ranks=2)

    def port(name: str) -> int:
        words = made.scratch_model(1.0, 0, name, ["a"]).command
        return int(words[words.index("--master_port") + 1])

    first = port("0")
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken by somebody else, which is as good
            taken.bind(("", first + 1))
        ports = [first, *(port(str(number)) for number in range(1, 60))]
    assert len(set(ports)) == 60
    assert first + 1 not in ports
    assert port("0") == first


def test_a_covariate_that_a_session_lacks_is_not_read_by_a_model_of_that_session(tmp_path: Path) -> None:
    given = comparison(tmp_path)
    model = settings_to_dict(given.scratch.model)
    model["dynamics"]["covariates"] = {"wheel": {"known": "past", "columns": 1}}
    made = comparison(
        tmp_path,
        scratch=parse_settings(RunConfig, {**settings_to_dict(given.scratch), "model": model}, "test"),
        covariates={"a": frozenset(["wheel"]), "b": frozenset(["pupil"])},
    )
    read = {}
    for name, sessions in (("both", ["a", "b"]), ("a", ["a"]), ("b", ["b"])):
        made.scratch_model(1.0, 0, name, sessions)
        config = read_settings(RunConfig, tmp_path / "fraction1" / "seed0" / f"{name}.yaml")
        read[name] = list(config.model.dynamics.covariates)
    assert read == {"both": ["wheel"], "a": ["wheel"], "b": []}


def test_of_one_session_alone_what_is_trained_per_session_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Part] = []
    monkeypatch.setattr(comparing, "run_all", lambda parts, jobs: trained.extend(parts))
    for sessions in (("a",), ("a", "b")):
        trained.clear()
        arms = _arms(comparison(tmp_path, sessions=sessions), 0.5, 0)
        assert {arm for arm, _, _ in arms} == {"pretrained, rows", "pretrained, full", JOINTLY, PER_SESSION}
        _train([part for _, _, part in arms], 1)
        assert len(trained) == len({part.product for part in trained}) == (3 if len(sessions) == 1 else 5)


def test_sizes_are_trained_side_by_side_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(comparing, "run_all", lambda parts, jobs: asked.append((len(parts), jobs)))
    monkeypatch.setattr(comparing, "thinned", lambda *_: None)
    monkeypatch.setattr(comparing, "_measured", lambda *_: {"a": 0.1, "b": 0.3})
    chosen = _choose(comparison(tmp_path, seeds=(0, 1, 2)), None, 1.0, 4)  # type: ignore[arg-type]
    assert chosen == {"chosen": "8:1:3", "valid": {"8:1:3": 0.2}}
    assert asked == [(2, 4)]


def test_too_little_data_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """A tenth of a1's valid split is one sample, short with some seeds; b1 no spike in horizons, c1 no valid split."""
    a1, b1, c1 = (driven_recording(name, trials=40) for name in ("a1", "b1", "c1"))
    first_TC = np.zeros_like(b1.signal_TC)
    first_TC[[start for one in b1.segments for start in range(one.start, one.stop, 12)]] = 1
    b1 = replace(b1, signal_TC=first_TC)
    c1 = replace(c1, segments=[replace(one, split=one.split.replace("valid", "train")) for one in c1.segments])
    write_dataset([a1, b1, c1], tmp_path / "data", name="small", sample_bins=12)
    corpus = Corpus(tmp_path / "data")
    scratch = comparison(tmp_path).scratch
    forecast = replace(scratch.forecast, context_bins=8, horizon_bins=4)
    made = comparison(
        tmp_path,
        sessions=("a1",),
        fractions=(0.1, 1.0),
        seeds=tuple(range(20)),
        scratch=replace(scratch, forecast=forecast),
        measure=Forecasts(True, forecast),
    )
    short = [
        seed for seed in made.seeds if thinned(made, corpus, 0.1, seed, counted=False).bins_of("a1", "valid").max() < 12
    ]
    assert 0 < len(short) < 20
    with pytest.raises(ValueError, match="sessions that cannot be compared") as raised:
        refuse_too_little_data(made, corpus)
    assert [line.strip(" -") for line in str(raised.value).splitlines()[1:-1]] == [
        f"a1 with 10 % of the data, seed {seed}: none of its 1 valid samples has the 12 bins of context and horizon"
        for seed in short
    ]
    refuse_too_little_data(replace(made, fractions=(1.0,)), corpus)
    with pytest.raises(ValueError, match="a1: it has no covariate 'wheel'"):
        refuse_too_little_data(replace(made, fractions=(1.0,), measure=Decoding("wheel", forecast)), corpus)
    with pytest.raises(ValueError, match="b1: no spike in the horizons of its test windows"):
        refuse_too_little_data(replace(made, sessions=("a1", "b1"), fractions=(1.0,)), corpus)
    silent = replace(b1, session_id="d1", signal_TC=np.zeros_like(b1.signal_TC))
    write_dataset([silent], tmp_path / "silent", name="silent", sample_bins=12)
    with pytest.raises(ValueError, match="d1 with 100 % of the data, seed 0: no spike in its train windows"):
        refuse_too_little_data(replace(made, sessions=("d1",), fractions=(1.0,)), Corpus(tmp_path / "silent"))
    with pytest.raises(ValueError, match="c1 with 100 % of the data, seed 0: no valid samples"):
        refuse_too_little_data(replace(made, sessions=("a1", "c1"), fractions=(1.0,)), corpus)
    # of three sessions with a wheel one never saw it turn, and of one it is wider
    turned = {"a1": np.ones((len(a1.signal_TC), 1)), "b1": np.full((len(b1.signal_TC), 1), np.nan)}
    turned["c1"] = np.ones((len(c1.signal_TC), 2))
    b1 = driven_recording("b1", trials=40)
    with_wheel = [replace(one, covariates={"wheel": turned[one.session_id].astype(np.float32)}) for one in (a1, b1, c1)]
    write_dataset(with_wheel, tmp_path / "wheel", name="small", sample_bins=12)
    model = settings_to_dict(made.scratch.model)
    model["dynamics"]["covariates"] = {"wheel": {"known": "past", "columns": 1}}
    reading = replace(
        made,
        fractions=(1.0,),
        scratch=parse_settings(RunConfig, {**settings_to_dict(made.scratch), "model": model}, "test"),
    )
    refuse_too_little_data(reading, Corpus(tmp_path / "wheel"))
    with pytest.raises(ValueError, match=r"b1 with 100 % .*covariate 'wheel', which it has, is missing in every bin"):
        refuse_too_little_data(replace(reading, sessions=("a1", "b1")), Corpus(tmp_path / "wheel"))
    with pytest.raises(ValueError, match="'c1': covariate 'wheel' has 2 columns; the model reads 1"):
        refuse_too_little_data(replace(reading, sessions=("a1", "c1")), Corpus(tmp_path / "wheel"))


def test_sizes_for_little_data() -> None:
    model = ModelConfig(autoencoder=AutoencoderConfig(latents=16, encoder=TransformerConfig(width=96, heads=4)))
    assert [size.text for size in default_sizes(model)] == ["96:2:16:0.125", "48:1:8:0.125", "48:1:8"]
    assert Size(20, 1, 8).of(model).autoencoder.encoder.heads == 2
    assert Size.parse("48:1:8") == Size(48, 1, 8, 1.0)
    assert Size.parse("48:1:8:0.125") == Size(48, 1, 8, 0.125)
    with pytest.raises(ValueError, match="2 of the steps; expected a share above 0, at most 1"):
        Size.parse("48:1:8:2")
    for text in ("48:1", "48:x:8", "48:0:8", "48:1:8:x", "48:1:8:1:1"):
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
    assert [*_names(made)] == ["pretrained, rows", "pretrained, full", "scratch, jointly", "scratch, jointly, tuned",
                               "scratch, per session"]  # fmt: skip
    _keep_to_settings(made)
    _keep_to_settings(comparison(tmp_path, fractions=(0.1,), seeds=(5,)))  # more of the same
    moved = replace(made.finetune, model="moved", data=replace(made.finetune.data, path="moved", workers=3, prefetch=9))
    _keep_to_settings(replace(made, finetune=moved))  # what moves no result
    with pytest.raises(ValueError, match=r"made with other settings \(sessions\): give another --out"):
        _keep_to_settings(comparison(tmp_path, sessions=("a",)))
    for changes, named in (({"weights": "1"}, "weights of the model"), ({"data": "1"}, "contents of the data")):
        with pytest.raises(ValueError, match=rf"made with other settings \({named}\)"):
            _keep_to_settings(comparison(tmp_path, **changes))


def in_this_process(ranks: Ranks, trained: list[str]) -> Callable[[Sequence[Part], int], None]:
    """Stands for run_all: starting Python for each training would take most of the time."""

    def run_all(parts: Sequence[Part], _jobs: int) -> None:
        for part in parts:
            trained.append(part.title)
            file = part.command[part.command.index("--config") + 1]
            if part.command[1].endswith("finetune.py"):
                finetuning.finetune(read_settings(FinetuneConfig, file), ranks)
            else:
                pretraining.pretrain(read_settings(RunConfig, file), ranks)
            assert part.product.exists()

    return run_all


def test_how_every_arm_ended_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path)
    (tmp_path / "config.yaml").write_text(BASE)
    (tmp_path / "finetune.yaml").write_text(FINETUNE)
    words = ["--model", f"{tmp_path}/base", "--data", f"{tmp_path}/data", "--sessions", "c1", "--seeds", "0"]
    words += ["--config", str(tmp_path / "finetune.yaml"), "--compare", "scratch", "--tuned", "8:1:2"]
    words += ["--out", str(tmp_path / "out"), "--arms", "rows", "--fractions", "1"]
    with process_group() as ranks:
        monkeypatch.setattr(comparing, "run_all", in_this_process(ranks, []))
        assert finetune.main(words) == 0
        # one that was interrupted between its stages still says how the first one ended
        scratch = tmp_path / "out" / "fraction1" / "seed0" / "scratch-jointly"
        before = read_training(scratch / "export")["early_stop"]
        for made in ("export", "checkpoints"):
            shutil.rmtree(scratch / made)
        pretraining.pretrain(read_settings(RunConfig, scratch.with_suffix(".yaml")), ranks)
    results = json.loads((tmp_path / "out" / "transfer.json").read_text())
    steps = {(one["arm"], one["stage"]): one["steps"] for one in results["endings"]}
    assert steps == {
        (arm, stage): of[stage]
        for arm, of in {
            **{arm: {"autoencoder": 8, "dynamics": 6} for arm in results["arms"]},
            "pretrained, rows": {"autoencoder": 7, "dynamics": 5},
        }.items()
        for stage in of
    }
    for one in results["endings"]:
        assert one["best_step"] <= (one["stopped_at"] or one["steps"])
        assert one["sessions"][-1] == "c1"
    text = (tmp_path / "out" / "transfer.md").read_text()
    assert "scored on its valid split every 3 steps" in text
    for arm in results["arms"]:
        assert f"- {arm}: autoencoder kept step" in text
    assert read_training(scratch / "export")["early_stop"]["autoencoder"] == before["autoencoder"]


@pytest.mark.slow
def test_the_whole_command_and_going_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trainings are run in this process: starting Python for each would take most of the time."""
    trained: list[str] = []
    write_base(tmp_path)
    (tmp_path / "config.yaml").write_text(BASE)
    (tmp_path / "finetune.yaml").write_text(FINETUNE)
    data, out = str(tmp_path / "data"), tmp_path / "out"
    words = ["--model", f"{tmp_path}/base", "--data", data, "--sessions", "c1", "b2", "--out", str(out)]
    words += ["--config", str(tmp_path / "finetune.yaml"), "--compare", "scratch", "--tuned", "8:1:2", "8:1:4:0.5"]
    with process_group() as ranks:
        monkeypatch.setattr(comparing, "run_all", in_this_process(ranks, trained))
        assert finetune.main([*words, "--arms", "rows", "--fractions", "0.5", "--seeds", "0"]) == 0
        assert trained == [f"50 % of the data, seed 0: {name}" for name in (
            "rows", "scratch-jointly", "scratch-c1", "scratch-b2", "scratch-tuned-8-1-2", "scratch-tuned-8-1-4-0.5"
        )]  # fmt: skip
        trained.clear()
        assert finetune.main([*words, "--arms", "rows", "full", "--fractions", "0.5", "1", "--seeds", "0", "1"]) == 0
    # what was there is kept; of the sizes only the best one is trained with further seeds
    assert [title for title in trained if title.startswith("50 % of the data, seed 0")] == [
        "50 % of the data, seed 0: full"
    ]
    assert len([title for title in trained if "tuned" in title]) == 1 + 2 + 1
    results = json.loads((out / "transfer.json").read_text())
    assert (results["fractions"], results["seeds"]) == ([0.5, 1.0], [0, 1])
    sessions = ["c1", "b2"]
    assert list(results["arms"]) == ["pretrained, rows", "pretrained, full", "scratch, jointly",
                                     "scratch, jointly, tuned", "scratch, per session"]  # fmt: skip
    for by_fraction in results["arms"].values():
        assert {text: {s: len(v) for s, v in values.items()} for text, values in by_fraction.items()} == {
            text: dict.fromkeys(sessions, 2) for text in ("0.5", "1")
        }
    for session in sessions:
        assert results["trials"]["0.5"][session] == round(results["trials"]["1"][session] / 2)
    assert set(results["baselines"]) == {"train mean", "psth", "trailing mean", "ridge", "ridge mix"}
    assert len(results["comparisons"]) == 2 * (2 * 3 + 1 + 3)
    assert set(results["tuned"]["1"]["valid"]) == {"8:1:2", "8:1:4:0.5"}
    assert (out / "transfer.png").read_bytes()[:4] == b"\x89PNG"
    text = (out / "transfer.md").read_text()
    assert "| pretrained, rows |" in text
    assert len(results["endings"]) == 2 * 2 * 2 * (2 + 2 + 2)  # stages, fractions, seeds, models
    assert "- scratch, per session: autoencoder kept step" in text
    full = load(out / "fraction1" / "seed0" / "full" / "export")
    assert {session.session_id for session in full.registry.sessions} == {"a1", "b1", *sessions}
    scratch = read_training(out / "fraction0.5" / "seed1" / "scratch-c1" / "export")
    assert (scratch["sessions"], scratch["fraction"], scratch["autoencoder"]["steps"]) == (["c1"], 0.5, 8)
    capsys.readouterr()
    assert finetune.main([*words, "--fractions", "1", "--set", "autoencoder.steps=8"]) == 1
    assert "made with other settings (finetune)" in capsys.readouterr().err
