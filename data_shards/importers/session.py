"""One file or folder, read as a recipe says, becomes one Recording."""

from collections.abc import Iterator
from pathlib import Path

from neurochorus.data_shards.importers.covariates import read_covariate
from neurochorus.data_shards.importers.layouts import read_layout
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.openers import fits, open_source
from neurochorus.data_shards.importers.segments import make_segments
from neurochorus.data_shards.importers.source import Source, number_or_key
from neurochorus.data_shards.importers.templates import session_names
from neurochorus.data_shards.importers.units import UnitTable
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import Recording


def session_paths(recipe: Recipe, source: str | Path | None) -> list[Path]:
    """Return the files (or folders) of sessions in the directory `source`, sorted by name; none is a ValueError."""
    if source is None:
        raise ValueError(f"recipe {recipe.name!r} reads files: name their directory (--source DIR)")
    source = Path(source)
    if not source.is_dir():
        if source.is_file():
            raise ValueError(f"{source}: is a file: name its directory (--source), and set `files: {source.name}`")
        raise ValueError(f"{source}: no such directory: check the source")
    matching = [source] if recipe.pattern == "." else source.glob(recipe.pattern)
    found = sorted(path for path in matching if fits(path, recipe.importer))
    if not found:
        raise ValueError(f"{source}: no file matches {recipe.pattern!r}: check the source and the recipe's `files`")
    return found


def import_files(recipe: Recipe, source: str | Path | None) -> Iterator[Recording]:
    """Yield one Recording a file; ValueErrors name the file and the key."""
    for path in session_paths(recipe, source):
        yield import_session(path, recipe)


def import_session(path: Path, recipe: Recipe) -> Recording:
    """Return the recording in one file or folder; every problem is a ValueError that names it."""
    with open_source(path, recipe) as source:
        try:
            return _recording(source, recipe)
        except ValueError as error:
            # the checks of Recording know the session but not the file
            raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None


def _recording(source: Source, recipe: Recipe) -> Recording:
    assert recipe.signal is not None
    session_id, subject_id = session_names(source, recipe)
    bin_s = number_or_key(source, recipe.bin_s, 0.0)
    if bin_s <= 0:
        raise ValueError(f"{source.path}: bin_s is {bin_s}; expected a positive number of seconds")
    notes = Notes(sentences=source.notes)  # what the source finds odd, now and as it is read
    facts = {name: source.scalar(item.key) for name, item in recipe.facts.items()}
    table = UnitTable.read(source, recipe.units, notes)
    layout = read_layout(source, recipe, bin_s, table, notes)
    segments = make_segments(source, recipe, layout, bin_s, notes)
    if not segments:
        raise ValueError(f"{source.path}: no bin is left to write: {notes.dropped}")
    return Recording(
        session_id=session_id,
        subject_id=subject_id,
        modality=recipe.modality,
        bin_s=bin_s,
        signal_TC=layout.signal_TC,
        units=table.units(layout.kept_C),
        segments=segments,
        covariates={name: read_covariate(source, name, recipe, layout, bin_s) for name in recipe.covariates},
        provenance={
            "file": source.path.name,
            "sha256": source.sha256(),
            "importer": recipe.importer,
            "licence": recipe.licence,
            "source": recipe.source_name,
            **({"facts": facts} if facts else {}),
            **notes.provenance(),
        },
    )
