"""Is pretraining worth it for an animal that was never seen? Each in turn is left out, and the model adapted to it.

python launch/leave_one_out.py --config launch/configs/steinmetz2019.yaml --data data/steinmetz2019 --out runs/left \\
    --finetune launch/configs/finetune/steinmetz2019.yaml --fractions 0.1 0.25 0.5 1 --seeds 0 --jobs 2

For every subject: pretraining on the others, then finetune.py --compare scratch on its sessions. Tests, picture and the
table of who gains are over the sessions of all subjects. Finished parts are kept, so the same command goes on where it
was stopped, and fractions, seeds and arms can be added.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jsonargparse import ArgumentParser

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.manifest import SessionEntry, select_sessions
from neurochorus.data_shards.naming import check_identifier, nearest_hint
from neurochorus.data_shards.settings import apply_overrides, parse_settings, read_values, settings_to_dict
from neurochorus.launch import finetune
from neurochorus.launch.commands import CommandFailed, Part, free_ports, on_ranks, python, run, run_all
from neurochorus.launch.comparing import adaptation_of, planned
from neurochorus.launch.comparing_checks import keep_to
from neurochorus.launch.comparing_parts import scratch_settings, that_move_results
from neurochorus.launch.options import add_comparing_arms, command_parser
from neurochorus.pretrain.config import ForecastSection, RunConfig
from neurochorus.pretrain.covariates import with_widths
from neurochorus.pretrain.evaluation.transfer_file import write_transfer
from neurochorus.pretrain.evaluation.transfer_gains import gains_markdown, session_facts, transfer_gains
from neurochorus.pretrain.evaluation.transfer_measures import file_stem, measure_called
from neurochorus.pretrain.evaluation.transfer_pooling import pooled_transfer
from neurochorus.pretrain.evaluation.transfer_text import transfer_markdown

FIRST_PORT = 29551


@dataclass(frozen=True)
class Target:
    """A subject that is left out, and where what belongs to it goes."""

    subject: str
    sessions: tuple[str, ...]
    sources: tuple[str, ...]
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "pretrain" / "export"

    def results(self, name: str) -> Path:
        return self.folder / "compare" / f"{name}.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        values = apply_overrides(read_values(options.config), [f"data.path={json.dumps(options.data)}", *options.set])
        corpus, targets = find_targets(values, options.subjects, Path(options.out), options.config)
        name = file_stem("transfer", measure_called(options.measure, corpus, ForecastSection()))
        for target in targets:
            _refuse_what_cannot_be_compared(options, values, corpus, target)
        for target in targets:
            target.folder.mkdir(parents=True, exist_ok=True)
            keep_to(target.folder / "pretrain.json", _pretrained_with(values, corpus, target))
        ports = free_ports(len(targets), FIRST_PORT)
        pretrainings = [_pretraining(options, target, port) for target, port in zip(targets, ports, strict=True)]
        run_all([part for part in pretrainings if not part.product.exists()], options.jobs)
        bin_s = values["data"].get("bin_s")
        for target in targets:
            adapted = python("finetune.py", *_comparison(options, target, bin_s))
            run(adapted, f"{target.subject}: adapted, and from nothing")
        text = report(corpus, targets, Path(options.out), name)
    except (CommandFailed, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{text}\ntransfer: {options.out}/{name}.json, {name}.md, {name}.png")
    return 0


def find_targets(
    values: dict[str, Any], subjects: Sequence[str] | None, out: Path, where: str
) -> tuple[Corpus, list[Target]]:
    """The data, and who is left out in turn; `values`: settings of the pretraining, read from `where`.

    Raises ValueError for a subject that has no session there, and where none is left to pretrain on.
    """
    config = _run_config(values, where)
    corpus = Corpus(config.data.paths, config.data.bin_s)
    chosen = select_sessions(corpus.sessions, config.data.sessions, config.data.exclude)
    subject_of = {session: corpus.session(session).subject_id for session in chosen}
    known = list(dict.fromkeys(subject_of.values()))
    for subject in subjects or []:
        if subject not in known:
            raise ValueError(
                f"--subjects {subject}: has no session among those chosen; {nearest_hint(subject, known, 'subjects')}"
            )
    if len(known) < 2:
        raise ValueError(f"{where}: the sessions are of {known[0]} alone: with it left out none is left to pretrain on")
    targets = []
    for subject in dict.fromkeys(subjects or known):
        check_identifier("subject", subject)  # it becomes the name of a folder
        own = tuple(session for session in chosen if subject_of[session] == subject)
        others = tuple(session for session in chosen if subject_of[session] != subject)
        targets.append(Target(subject, own, others, out / subject))
    return corpus, targets


def report(corpus: Corpus, targets: Sequence[Target], out: Path, name: str) -> str:
    """Pool the comparisons, write NAME.json, NAME.md and NAME.png; returns the text."""
    results = {target.subject: json.loads(target.results(name).read_text()) for target in targets}
    entries: dict[str, SessionEntry] = {session.session_id: session for session in corpus.sessions}
    facts = {
        session: session_facts(entries[session], [entries[source] for source in target.sources])
        for target in targets
        for session in target.sessions
    }
    pooled = pooled_transfer(results, command=sys.argv)
    pooled["gains"] = transfer_gains(pooled["arms"], pooled["fractions"], facts)
    subjects = {session: target.subject for target in targets for session in target.sessions}
    text = f"{transfer_markdown(pooled)}\n{gains_markdown(pooled['gains'], subjects)}"
    write_transfer(out, name, pooled, text)
    return text


def _run_config(values: Mapping[str, Any], where: str) -> RunConfig:
    """Settings of a pretraining, wherever it goes."""
    return parse_settings(RunConfig, {**values, "run": {**values.get("run", {}), "dir": "."}}, where)


def _pretrained_with(values: Mapping[str, Any], corpus: Corpus, target: Target) -> dict[str, Any]:
    """All that the pretraining without a target depends on."""
    config = _run_config(values, "settings")
    settings = settings_to_dict(replace(config, data=replace(config.data, sessions=list(target.sources), exclude=[])))
    return {
        **that_move_results(settings),
        "model": settings["model"],
        "run.seed": config.run.seed,
        "contents of the data": corpus.hash(),
    }


def _pretraining(options: Any, target: Target, port: int) -> Part:
    words = ["--config", options.config, *options.set, f"data.path={json.dumps(options.data)}"]
    words += [f"data.sessions={json.dumps(target.sources)}", "data.exclude=[]", f"run.dir={target.folder / 'pretrain'}"]
    command = on_ranks(options.ranks, port, "pretrain.py", *words)
    title = f"pretraining without {target.subject}"
    return Part(title, command, target.model, target.folder / "pretrain.txt")


def _refuse_what_cannot_be_compared(options: Any, values: Mapping[str, Any], corpus: Corpus, target: Target) -> None:
    """Raise ValueError for all that the comparison would refuse, had the model been trained already."""
    config = _run_config(values, options.config)
    config = replace(config, model=with_widths(config.model, [corpus.session(source) for source in target.sources]))
    chosen = finetune.options_of(_comparison(options, target, config.data.bin_s))
    adaptation = adaptation_of(chosen, finetune.values_of(chosen))
    if adaptation.data.window_bins is None:
        adaptation = replace(adaptation, data=replace(adaptation.data, window_bins=config.data.window_bins))
    own = settings_to_dict(config)
    planned(chosen, adaptation, scratch_settings(adaptation, own["model"], own["forecast"], own, options.config))


def _comparison(options: Any, target: Target, bin_s: float | None) -> list[str]:
    """The words behind finetune.py."""
    words = ["--model", str(target.model), "--data", *options.data, "--sessions", *target.sessions]
    words += ["--out", str(target.folder / "compare"), "--compare", "scratch", "--arms", *options.arms]
    words += ["--fractions", *map(str, options.fractions), "--seeds", *map(str, options.seeds)]
    words += ["--measure", options.measure, "--jobs", str(options.jobs), "--ranks", str(options.ranks)]
    words += ["--config", options.finetune] if options.finetune else []
    words += [] if bin_s is None else [f"data.bin_s={bin_s}"]
    words += ["--tuned", *options.tuned] if options.tuned else []
    words += ["--set", *options.set_finetune] if options.set_finetune else []
    return words


def _parser() -> ArgumentParser:
    parser = command_parser("leave_one_out.py", __doc__)
    parser.add_argument("--config", required=True, help="YAML of the pretraining, as of pretrain.py")
    parser.add_argument("--data", nargs="+", required=True, help="data set directories or URLs")
    parser.add_argument("--out", required=True, help="a folder a subject, and the tables of all of them")
    parser.add_argument("--subjects", nargs="+", default=None, help="who is left out in turn; default: every one")
    parser.add_argument("--finetune", default=None, help="YAML of the adaptation, as of finetune.py")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the pretraining")
    parser.add_argument("--set-finetune", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the adaptation")
    add_comparing_arms(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
