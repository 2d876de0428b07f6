"""finetune.py --compare scratch: what pretraining is worth to new sessions, by how much of their data is used.

Each arm is trained for every fraction and seed and forecasts the test split: adaptations of the pretrained model, the
same architecture from nothing on all target sessions, one whose size is chosen for little data, and one a session.
Every training stops early, and is said to have. Parts that are finished are kept, so that the same command goes on
where it was stopped.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.manifest import select_sessions
from neurochorus.data_shards.settings import parse_settings, read_values, settings_to_dict
from neurochorus.launch.commands import CommandFailed, Part, run_all
from neurochorus.launch.comparing_checks import keep_to, refuse_too_little_data, thinned
from neurochorus.launch.comparing_parts import (
    JOINTLY,
    PER_SESSION,
    TUNED,
    Comparison,
    Size,
    default_sizes,
    scratch_settings,
)
from neurochorus.models import load, read_training
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.evaluation.output_file import write_whole
from neurochorus.pretrain.evaluation.transfer import fraction_text, over_seeds, transfer_results
from neurochorus.pretrain.evaluation.transfer_file import write_transfer
from neurochorus.pretrain.evaluation.transfer_measures import file_stem, measure_called
from neurochorus.pretrain.evaluation.transfer_text import transfer_markdown
from neurochorus.pretrain.finetuning import FinetuneConfig, with_windows_of_the_model
from neurochorus.pretrain.fingerprint import weights_hash
from neurochorus.pretrain.stop_section import StopSection

ADAPTED = "pretrained, "
STOP = StopSection(every=50, patience=20, batches=16)
"""When a training ends unless the settings say otherwise. The best weights are kept anyhow: to wait for long costs
time alone, to stop on a plateau would leave a training from nothing unfinished."""


def compare(options: Any, values: Callable[[], Mapping[str, Any]]) -> int:
    """Run the comparison; `values` reads the settings of the adaptation. Returns the exit status."""
    try:
        comparison, corpus = prepare(options, values())
        stop = comparison.finetune.stop
        assert stop is not None
        print(f"stop: every arm is scored every {stop.every} steps, and ends after {stop.patience} without a new best")
        _keep_to_settings(comparison)
        results = run(comparison, corpus, options.jobs)
        text, name = transfer_markdown(results), file_stem("transfer", comparison.measure)
        write_transfer(comparison.out, name, results, text)
    except (CommandFailed, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{text}\ntransfer: {comparison.out / name}.json, {name}.md, {name}.png")
    return 0


def prepare(options: Any, values: Mapping[str, Any]) -> tuple[Comparison, Corpus]:
    """What is to be compared, and the target data. Raises ValueError for settings and data that do not fit."""
    finetune = with_windows_of_the_model(adaptation_of(options, values))
    training = read_training(finetune.model)
    base, source = _base(options, finetune, training)
    model = json.loads((Path(finetune.model) / "config.json").read_text())["model"]
    scratch = scratch_settings(finetune, model, training.get("forecast", {}), base, source)
    return planned(options, finetune, scratch, weights_hash(load(finetune.model)))


def adaptation_of(options: Any, values: Mapping[str, Any]) -> FinetuneConfig:
    """The settings of the adaptation. Raises ValueError for them, and for fractions and arms that there are not."""
    for fraction in options.fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"--fractions {fraction:g}: expected shares above 0, at most 1")
    wrong = [arm for arm in options.arms if arm not in ("rows", "lora", "unfreeze", "full")]
    if wrong:
        raise ValueError(f"--arms {wrong[0]}: expected rows, lora, unfreeze or full")
    return parse_settings(FinetuneConfig, with_stop(values), options.config or "command line")


def planned(options: Any, finetune: FinetuneConfig, scratch: RunConfig, weights: str = "") -> tuple[Comparison, Corpus]:
    """The comparison and its data; of the model nothing is read, `weights` is their hash.

    Raises ValueError for sizes and measures that there are not, and for sessions with too little data.
    """
    corpus = Corpus(finetune.data.paths, finetune.data.bin_s)
    sessions = select_sessions(corpus.sessions, finetune.data.sessions, finetune.data.exclude)
    sizes = [Size.parse(text) for text in options.tuned] if options.tuned else default_sizes(scratch.model)
    for size in sizes:
        size.of(scratch.model)
    comparison = Comparison(
        finetune=finetune,
        scratch=scratch,
        sessions=tuple(sessions),
        arms=tuple(dict.fromkeys(options.arms)),
        fractions=tuple(sorted(set(options.fractions))),
        seeds=tuple(dict.fromkeys(options.seeds)),
        sizes=tuple(sizes),
        ranks=options.ranks,
        out=Path(options.out),
        measure=measure_called(
            options.measure,
            corpus,
            scratch.forecast,
            scratch.model.autoencoder.earlier_memory_bins,
            scratch.model.autoencoder.causal,
        ),
        weights=weights,
        data=corpus.hash(),
        covariates={session: frozenset(corpus.session(session).covariates) for session in sessions},
    )
    refuse_too_little_data(comparison, corpus)
    return comparison, corpus


def with_stop(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the adaptation in which `stop` is complete: without it arms would differ in how finished they are.

    Raises ValueError where it is null.
    """
    if "stop" in values and values["stop"] is None:
        raise ValueError(
            "stop: null with --compare: arms that train for a fixed number of steps differ in how finished they are: "
            "leave it out, or set stop.every, stop.patience and stop.batches"
        )
    given = values.get("stop", {})
    return {**values, "stop": {**settings_to_dict(STOP), **given} if isinstance(given, Mapping) else given}


def run(comparison: Comparison, corpus: Corpus, jobs: int) -> dict[str, Any]:
    """Train and measure whatever is not there yet; returns the content of transfer.json."""
    for fraction, seed in comparison.cells():
        _train([part for _, _, part in _arms(comparison, fraction, seed)], jobs)
        _train(_candidates(comparison, fraction, seed), jobs)
    chosen = {fraction_text(fraction): _choose(comparison, corpus, fraction, jobs) for fraction in comparison.fractions}
    arms: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    baselines: dict[str, dict[str, dict[str, list[float]]]] = {}
    trials: dict[str, dict[str, int]] = {}
    endings: list[dict[str, Any]] = []
    for fraction, seed in comparison.cells():
        text, thin = fraction_text(fraction), thinned(comparison, corpus, fraction, seed)
        trials[text] = {session: len(thin.rows_of(session, "train")) for session in comparison.sessions}
        tuned = _tuned(comparison, fraction, seed, Size.parse(chosen[text]["chosen"]))
        for arm, sessions, part in [*_arms(comparison, fraction, seed), (TUNED, comparison.sessions, tuned)]:
            measured = _measured(comparison, thin, part, sessions, "test")
            endings += _endings(part, arm=arm, fraction=fraction, seed=seed)
            for session in sessions:
                arms.setdefault(arm, {}).setdefault(text, {}).setdefault(session, []).append(measured[session])
        for session in comparison.sessions:
            found = _baselines(comparison, thin, fraction, seed, session)
            for name, value in found.items():
                baselines.setdefault(name, {}).setdefault(text, {}).setdefault(session, []).append(value)
    averaged = {
        name: {text: over_seeds(by_session) for text, by_session in by_fraction.items()}
        for name, by_fraction in baselines.items()
    }
    facts: dict[str, Any] = {
        "model": comparison.finetune.model,
        "data": comparison.finetune.data.paths,
        "tuned": chosen,
        "stop": settings_to_dict(comparison.finetune)["stop"],
        "endings": endings,
    }
    ordered = {arm: arms[arm] for arm in sorted(arms, key=[*_names(comparison)].index)}
    measure = {key: getattr(comparison.measure, key) for key in ("metric", "title", "definition")}
    return transfer_results(
        measure, comparison.fractions, comparison.seeds, ordered, trials, averaged, command=sys.argv, **facts
    )


def _base(options: Any, finetune: FinetuneConfig, training: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Settings of the run that training from nothing takes its stages from, and where they stand.

    `training`: what the model says of its training. Raises ValueError when no such run is known.
    """
    if options.scratch_config is not None:
        return read_values(options.scratch_config), str(options.scratch_config)
    beside = Path(finetune.model).parent / "config.yaml"
    wanted = "give with --scratch-config the config.yaml of a run that trained such a model from nothing"
    if not beside.is_file():
        raise ValueError(f"{beside}: not there, so that nothing tells how to train from scratch: {wanted}")
    if training.get("adapted"):
        raise ValueError(f"{beside}: is of an adaptation ({training['adapted']}), no training from nothing: {wanted}")
    return read_values(beside), str(beside)


def _keep_to_settings(comparison: Comparison) -> None:
    """Refuse to go on with parts that were made with other settings."""
    (comparison.out / "logs").mkdir(parents=True, exist_ok=True)
    keep_to(comparison.out / "comparison.json", comparison.describe())


def _names(comparison: Comparison) -> Iterator[str]:
    yield from (f"{ADAPTED}{arm}" for arm in comparison.arms)
    yield from (JOINTLY, TUNED, PER_SESSION)


def _arms(comparison: Comparison, fraction: float, seed: int) -> list[tuple[str, Sequence[str], Part]]:
    """(arm, sessions that its model is for, how it is trained); the tuned one is chosen first and comes later."""
    sessions = comparison.sessions
    made: list[tuple[str, Sequence[str], Part]] = [
        (f"{ADAPTED}{arm}", sessions, comparison.adaptation(fraction, seed, arm)) for arm in comparison.arms
    ]
    jointly = comparison.scratch_model(fraction, seed, "scratch-jointly", sessions)
    made.append((JOINTLY, sessions, jointly))
    if len(sessions) == 1:
        return [*made, (PER_SESSION, sessions, jointly)]
    made += [
        (PER_SESSION, [session], comparison.scratch_model(fraction, seed, f"scratch-{session}", [session]))
        for session in sessions
    ]
    return made


def _tuned(comparison: Comparison, fraction: float, seed: int, size: Size) -> Part:
    name = f"scratch-tuned-{size.text.replace(':', '-')}"
    return comparison.scratch_model(fraction, seed, name, comparison.sessions, size)


def _candidates(comparison: Comparison, fraction: float, seed: int) -> list[Part]:
    """All sizes and steps, with the first seed alone."""
    if seed != comparison.seeds[0]:
        return []
    return [_tuned(comparison, fraction, seed, size) for size in comparison.sizes]


def _choose(comparison: Comparison, corpus: Corpus, fraction: float, jobs: int) -> dict[str, Any]:
    """The size that does best on the valid split with the first seed; it is then trained with the others."""
    first = comparison.seeds[0]
    thin = thinned(comparison, corpus, fraction, first)
    valid = {}
    for size in comparison.sizes:
        part = _tuned(comparison, fraction, first, size)
        values = _measured(comparison, thin, part, comparison.sessions, "valid").values()
        valid[size.text] = sum(values) / len(values)  # all are numbers: no spike in a valid horizon is refused
    chosen = max(valid, key=lambda text: valid[text])
    _train([_tuned(comparison, fraction, seed, Size.parse(chosen)) for seed in comparison.seeds[1:]], jobs)
    return {"chosen": chosen, "valid": valid}


def _train(parts: Sequence[Part], jobs: int) -> None:
    run_all(list({part.product: part for part in parts if not part.product.exists()}.values()), jobs)


def _measured(
    comparison: Comparison, corpus: Corpus, part: Part, sessions: Sequence[str], split: str
) -> dict[str, float]:
    """The measure of each session by the model of a part, kept beside it."""
    measure = comparison.measure
    file = part.product.parent.parent / f"{measure.name}-{split}.json"
    if file.exists():
        return json.loads(file.read_text())
    model = load(part.product.parent)
    made = {session: float(measure.value(model, corpus, session, split)) for session in sessions}
    write_whole(file, lambda handle: handle.write(json.dumps(made).encode()))
    return made


def _endings(part: Part, **where: Any) -> Iterator[dict[str, Any]]:
    """How each stage of a training ended: the best step, the one that was kept, and where it stopped if early."""
    training = read_training(part.product.parent)
    for stage, ending in (training.get("early_stop") or {}).items():
        steps = {key: ending[key] for key in ("best_step", "kept_step", "stopped_at")}
        yield {**where, "sessions": training["sessions"], "stage": stage, "steps": training[stage]["steps"], **steps}


def _baselines(comparison: Comparison, corpus: Corpus, fraction: float, seed: int, session: str) -> dict[str, float]:
    measure, memory = comparison.measure, comparison.scratch.model.autoencoder.earlier_memory_bins
    name = f"{file_stem('baselines', measure)}-{session}" + ("" if memory is None else f"-memory-{memory:g}")
    file = comparison.folder(fraction, seed, f"{name}.json")
    if file.exists():
        return json.loads(file.read_text())
    made = measure.baselines(corpus, session, "test")
    write_whole(file, lambda handle: handle.write(json.dumps(made).encode()))
    return made
