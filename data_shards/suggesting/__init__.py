"""A recipe to start from, for files of which nothing is known: guesses, each with its reason, and other choices.

Nothing here is about one lab's files: importers, layouts, units, trials and covariates are guessed from content, names,
shapes and kinds of values, over the same Source that importing reads.
"""

import math
from pathlib import Path
from typing import Any

from neurochorus.data_shards.importers.openers import OPENERS
from neurochorus.data_shards.recipe import FILE_PATTERNS, Recipe
from neurochorus.data_shards.suggesting.arrays import Arrays
from neurochorus.data_shards.suggesting.covariates import guess_covariates
from neurochorus.data_shards.suggesting.document import Section
from neurochorus.data_shards.suggesting.formats import first_session, guess_format
from neurochorus.data_shards.suggesting.sessions import guess_ids
from neurochorus.data_shards.suggesting.signals import SignalGuess, guess_signal
from neurochorus.data_shards.suggesting.stretches import find_tables, guess_labels, guess_observed, guess_trials
from neurochorus.data_shards.suggesting.units import guess_units

__all__ = ["suggest_recipe"]

LONGEST_SAMPLE = 200
BLOCKS = 20
"A long recording is cut into this many blocks at least, if it is long enough."


def suggest_recipe(path: Path) -> str:
    """Return the YAML of a recipe for a file, or for the folder that is a session or holds files of sessions.

    Raises ValueError for what no importer reads, or what holds nothing like a signal.
    """
    path = first_session(path) if path.is_dir() else path
    importer, why = guess_format(path)
    blank = Recipe(name="blank", importer=importer, bin_s=1.0, sample_bins=1)  # type: ignore[arg-type]
    with OPENERS[importer](path, blank) as source:
        arrays = Arrays(source)
        document = _document(arrays, path, importer, why)
    title = Section()
    title.comment(
        f"A recipe to start from, guessed from {path.name}. Read the reasons, settle what says CHECK, then see what it "
        "gives: python launch/shard.py --recipe THIS --source FOLDER --dry-run"
    )
    return "\n".join([*title.render(), *document.render()]) + "\n"


def _document(arrays: Arrays, path: Path, importer: str, why: str) -> Section:
    guess = guess_signal(arrays)
    tables = find_tables(arrays) if guess.layout != "trials" else []
    trials, labels, table = guess_trials(arrays, tables)
    observed = guess_observed(tables)
    taken = {key for one in tables for key in one.keys}
    document = Section()
    document.add("name", _name(path), "the name of the data set")
    document.add("importer", importer, why)
    document.add("files", _pattern(path, importer), "files (or folders) of sessions inside --source")
    guess_ids(arrays, path, document)
    document.add("modality", guess.modality, _modality_reason(guess))
    document.add("bin_s", guess.bin_s, guess.bin_why)
    document.add("signal", guess.section, guess.why)
    units = guess_units(arrays, guess, taken)
    _add_or_comment(document, "units", units)
    if trials is not None:
        document.add("trials", trials, "without this section the recording is cut into blocks (split.method: blocks)")
    if observed is not None:
        document.add("observed", observed, "outside of these stretches nothing was recorded")
    if guess.layout == "trials":
        labels = guess_labels(arrays, guess)
    _add_or_comment(document, "labels", labels)
    _add_or_comment(document, "covariates", guess_covariates(arrays, guess, taken))
    _add_cuts(document, guess, None if table is None else table.seconds)
    return document


def _add_or_comment(document: Section, name: str, section: Section) -> None:
    """Add a section; one that holds only other choices becomes a comment as a whole."""
    if section.settings:
        document.add(name, section)
    elif section:
        document.other_section(name, section)


def _add_cuts(document: Section, guess: SignalGuess, trial_s: float | None) -> None:
    """Add split and sample_bins."""
    bin_s = guess.bin_s if isinstance(guess.bin_s, float) else 0.01
    fractions: dict[str, Any] = {"fractions": [0.7, 0.1, 0.2], "seed": 0}
    if guess.given_splits:
        document.add("split", {"method": "given"})
        document.add("sample_bins", guess.bins or LONGEST_SAMPLE)
    elif guess.layout == "trials" or trial_s is not None:
        bins = guess.bins if guess.layout == "trials" else max(math.ceil((trial_s or 0) / bin_s - 1e-6), 1)
        document.add("split", {"method": "random", **fractions}, "trials at random")
        document.add("sample_bins", min(bins or LONGEST_SAMPLE, LONGEST_SAMPLE), "bins of a trial; a longer one is cut")
    else:
        total = guess.bins if guess.bins is not None else int((guess.span_s or 0.0) / bin_s)
        block = max(min(total // BLOCKS, 1000), 2) if total else 1000
        document.add(
            "split",
            {"method": "blocks", "block_bins": block, "gap_bins": block // 20, **fractions},
            f"blocks of {block * bin_s:.3g} s at random; the start of each is left out because signals are slow",
        )
        inside = block - block // 20
        document.add("sample_bins", -(-inside // -(-inside // LONGEST_SAMPLE)), "blocks are cut into samples of this")


def _modality_reason(guess: SignalGuess) -> str:
    if guess.layout == "spike_times":
        return "times of spikes are counted in bins"
    return "whole numbers from 0" if guess.modality == "spikes" else "values that are no counts"


def _pattern(path: Path, importer: str) -> str:
    if path.is_dir():
        return "*"
    return f"*{path.suffix}" if path.suffix else FILE_PATTERNS[importer]


def _name(path: Path) -> str:
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in path.stem)
    return letters.strip("_") or "dataset"
