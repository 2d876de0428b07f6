"""The npz importer: one file a session, its arrays named by the recipe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.archive import Archive
from neurochorus.data_shards.importers.covariates import read_covariate
from neurochorus.data_shards.importers.layouts import Layout, read_layout
from neurochorus.data_shards.recipe import Recipe, template_fields
from neurochorus.data_shards.recipe_keys import ColumnKey, FromKey
from neurochorus.data_shards.recording import SPLITS, Recording, Segment, Unit
from neurochorus.data_shards.splits import block_bounds, random_splits


def source_files(recipe: Recipe, source: Path | None) -> list[Path]:
    """Return the session files in `source`, sorted by name; none is a ValueError."""
    if source is None:
        raise ValueError(f"recipe {recipe.name!r} reads files: name their directory (--source DIR)")
    if not source.is_dir():
        raise ValueError(f"{source}: no such directory: check the source")
    found = sorted(path for path in source.glob(recipe.pattern) if path.is_file())
    if not found:
        raise ValueError(f"{source}: no file matches {recipe.pattern!r}: check the source and the recipe's `files`")
    return found


def import_npz(recipe: Recipe, source: Path | None) -> Iterator[Recording]:
    """Yield one Recording a file; ValueErrors name the file and the key."""
    for path in source_files(recipe, source):
        with Archive(path) as archive:
            session_id = _from_template(archive, recipe.session_id)
            try:
                recording = _recording(archive, recipe, session_id)
            except ValueError as error:
                # the checks of Recording know the session but not the file
                raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
        yield recording


def _recording(archive: Archive, recipe: Recipe, session_id: str) -> Recording:
    assert recipe.signal is not None
    assert recipe.subject_id is not None
    bin_s = archive.number(recipe.bin_s.key) if isinstance(recipe.bin_s, FromKey) else float(recipe.bin_s)
    if bin_s <= 0:
        raise ValueError(f"{archive.path}: bin_s is {bin_s}; expected a positive number of seconds")
    columns = _unit_columns(archive, recipe)
    described = next((len(values) for values in columns.values()), None)
    layout = read_layout(archive, recipe.signal, recipe.modality, bin_s, described)
    subject_id = _from_template(archive, recipe.subject_id)
    return Recording(
        session_id=session_id,
        subject_id=subject_id,
        modality=recipe.modality,
        bin_s=bin_s,
        signal_TC=layout.signal_TC,
        units=_units(archive, recipe, columns, layout.signal_TC.shape[1]),
        segments=_trials(archive, recipe, layout) if layout.trial_bins else _blocks(recipe, layout),
        covariates={name: read_covariate(archive, name, item, layout) for name, item in recipe.covariates.items()},
        provenance={
            "file": archive.path.name,
            "sha256": archive.sha256(),
            "importer": recipe.importer,
            "licence": recipe.licence,
            "source": recipe.source_name,
            **layout.notes,
        },
    )


def _from_template(archive: Archive, template: str | FromKey) -> str:
    if isinstance(template, FromKey):
        return archive.text(template.key)
    values = {name: archive.path.stem if name == "stem" else archive.scalar(name) for name in template_fields(template)}
    try:
        return template.format(**values)
    except ValueError as error:
        raise ValueError(f"{archive.path}: the template {template!r} does not fit {values}: {error}") from None


def _unit_columns(archive: Archive, recipe: Recipe) -> dict[str, np.ndarray]:
    """Return the arrays that describe units, by their name of ours; all must be equally long."""
    keys = {name: item.key for name, item in recipe.units.columns.items()}
    for name in ("id", "region"):
        item = getattr(recipe.units, name)
        if isinstance(item, ColumnKey):
            keys[name] = item.key
    columns = {name: archive.array(key, ndim=1) for name, key in keys.items()}
    lengths = {keys[name]: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{archive.path}: the arrays that describe units differ in length: {lengths}")
    for name, values in columns.items():
        if values.dtype.kind not in "Uiufb":
            raise ValueError(f"{archive.where(keys[name])}: is of type {values.dtype}; expected text or numbers")
    return columns


def _units(archive: Archive, recipe: Recipe, columns: dict[str, np.ndarray], count: int) -> list[Unit]:
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(
                f"{archive.path}: {len(values)} values of {name!r} describe units but the signal has {count}"
            )
    ids = columns.get("id", np.array([f"u{number:04d}" for number in range(count)]))
    if ids.dtype.kind == "f":
        raise ValueError(f"{archive.path}: unit ids are of type {ids.dtype}; expected text or whole numbers")
    if "region" in columns:
        regions = columns["region"]
    else:
        regions = np.full(count, recipe.units.region)
    free = {name: values for name, values in columns.items() if name not in ("id", "region")}
    return [
        Unit(
            unit_id=str(ids[number]),
            region=str(regions[number]),
            columns={name: values[number] for name, values in free.items() if values[number] == values[number]},
        )
        for number in range(count)
    ]


def _trials(archive: Archive, recipe: Recipe, layout: Layout) -> list[Segment]:
    assert layout.trial_bins is not None
    labels = {name: _by_trial(archive, item.key, layout.trials) for name, item in recipe.labels.items()}
    if recipe.split.key is None:
        splits = random_splits(layout.trials, recipe.split)
    else:
        splits = [str(value) for value in _by_trial(archive, recipe.split.key, layout.trials)]
        odd = sorted(set(splits) - set(SPLITS))
        if odd:
            raise ValueError(f"{archive.where(recipe.split.key)}: holds {odd}; expected {', '.join(SPLITS)}")
    segments = []
    for trial, split in enumerate(splits):
        start = trial * layout.trial_bins
        # a NaN stands for missing: the label is left out (NaN differs from itself)
        values: dict[str, Any] = {
            name: column[trial] for name, column in labels.items() if column[trial] == column[trial]
        }
        if layout.centers_T is not None:
            values.setdefault("first_bin_s", float(layout.centers_T[start]))
        segments.append(Segment(start=start, stop=start + layout.trial_bins, split=split, labels=values))
    return segments


def _by_trial(archive: Archive, key: str, trials: int) -> np.ndarray:
    values = archive.array(key, ndim=1)
    if len(values) != trials or values.dtype.kind not in "Uiufb":
        raise ValueError(
            f"{archive.where(key)}: is {values.dtype} of length {len(values)}; "
            f"expected text or numbers for {trials} trials"
        )
    return values


def _blocks(recipe: Recipe, layout: Layout) -> list[Segment]:
    bounds = block_bounds(len(layout.signal_TC), recipe.split)
    splits = random_splits(len(bounds), recipe.split)
    return [Segment(start=start, stop=stop, split=split) for (start, stop), split in zip(bounds, splits)]
