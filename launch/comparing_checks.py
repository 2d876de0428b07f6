"""What a comparison needs of the target data, looked at before anything is trained."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.thinning import ThinnedCorpus
from neurochorus.launch.comparing_parts import Comparison
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.output_file import write_whole
from neurochorus.pretrain.evaluation.suite.session_data import SessionData

LISTED = 8
"Problems that are written out."


def refuse_too_little_data(comparison: Comparison, corpus: Corpus) -> None:
    """Raise ValueError for sessions that could not be trained on or measured with some fraction and seed.

    Of every split there must be a window of context and horizon, and of counts a spike; what the measure asks for; of
    covariates that a session has and the model reads, a bin in which they are known. Also for those of another width
    than the model reads.
    """
    entries = [corpus.session(session) for session in comparison.sessions]
    refuse_other_widths(entries, comparison.scratch.model.dynamics.covariate_columns)
    problems = [
        f"{session}: {why}" for session in comparison.sessions for why in _of_split(comparison, corpus, session, "test")
    ]
    for fraction, seed in comparison.cells():
        if fraction == 1 and seed != comparison.seeds[0]:
            continue  # the same samples
        thin = thinned(comparison, corpus, fraction, seed, counted=False)
        problems += [
            f"{session} with {100 * fraction:g} % of the data, seed {seed}: {why}"
            for session in comparison.sessions
            for split in ("train", "valid")
            for why in _of_split(comparison, thin, session, split)
        ]
    if problems:
        more = f"\n  - ... ({len(problems)} in all)" if len(problems) > LISTED else ""
        raise ValueError(
            "sessions that cannot be compared:\n  - " + "\n  - ".join(problems[:LISTED]) + more + "\nLeave them out "
            "(data.exclude), give larger --fractions, or write the data set with another split."
        )


def keep_to(file: Path, settings: Mapping[str, Any]) -> None:
    """Write what the parts in the folder of `file` are made with, or raise ValueError where that was something else."""
    wanted = json.loads(json.dumps(settings))
    if not file.exists():
        write_whole(file, lambda handle: handle.write(json.dumps(wanted, indent=1).encode()))
        return
    found = json.loads(file.read_text())
    differing = [name for name in wanted if wanted[name] != found.get(name)]
    if differing:
        raise ValueError(
            f"{file}: the parts there were made with other settings ({', '.join(differing)}): give another --out, "
            "or the settings of that comparison"
        )


def thinned(comparison: Comparison, corpus: Corpus, fraction: float, seed: int, counted: bool = True) -> Corpus:
    """What an arm saw of the train and valid splits; the test split is whole.

    Without `counted`, statistics of units are still those of all samples, and nothing is read.
    """
    if fraction == 1:
        return corpus
    names, bin_s = list(comparison.sessions), comparison.finetune.data.bin_s
    known = None if counted else {name: corpus.session(name) for name in names}
    return ThinnedCorpus(corpus.datasets, bin_s, names, fraction, seed, known)


def _of_split(comparison: Comparison, corpus: Corpus, session: str, split: str) -> Iterator[str]:
    """What is missing in a split of a session."""
    forecast = comparison.scratch.forecast
    bins = forecast.context_bins + forecast.horizon_bins
    lengths = corpus.bins_of(session, split)
    if not int(lengths.sum()):
        yield f"no {split} samples"
    elif not (lengths >= bins).any():
        yield f"none of its {np.count_nonzero(lengths)} {split} samples has the {bins} bins of context and horizon"
    else:
        names = comparison.scratch.model.dynamics.covariates
        data = SessionData(corpus, session, split, forecast)
        windows = data.windows(split)
        if corpus.modality == "spikes" and not windows.signal_NTC.any():
            yield f"no spike in its {split} windows"
        elif split != "train" and (problem := comparison.measure.problem(data)) is not None:
            yield problem
        for name, values_NTK in windows.covariates.items():
            if split == "train" and name in names and np.isnan(values_NTK).all(axis=(0, 1)).any():
                yield f"covariate {name!r}, which it has, is missing in every bin of its train windows"
