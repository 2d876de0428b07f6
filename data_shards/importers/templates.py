"""Names and facts of a session, from the name of its file and scalars in it."""

import re
from typing import Any

from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.recipe import Recipe, template_fields
from neurochorus.data_shards.recipe_keys import FromKey


def stem_parts(source: Source, pattern: str | None) -> dict[str, str]:
    """Return the named groups of `pattern` in the stem of the file; ValueError if it does not match."""
    if pattern is None:
        return {}
    match = re.fullmatch(pattern, source.path.stem)
    if match is None:
        raise ValueError(f"{source.path}: the stem {source.path.stem!r} does not match stem_pattern {pattern!r}")
    return {name: text or "" for name, text in match.groupdict().items()}


def from_template(source: Source, template: str | FromKey, parts: dict[str, str] | None = None) -> str:
    """Return the text of a key, or a template filled with `stem`, `parts` of the stem, and scalars of the file."""
    if isinstance(template, FromKey):
        return source.text(template.key)
    known: dict[str, Any] = {"stem": source.path.stem, **(parts or {})}
    values = {name: known[name] if name in known else source.scalar(name) for name in template_fields(template)}
    try:
        return template.format(**values)
    except ValueError as error:
        raise ValueError(f"{source.path}: the template {template!r} does not fit {values}: {error}") from None


def session_names(source: Source, recipe: Recipe) -> tuple[str, str]:
    """Return the session id and the subject id."""
    assert recipe.subject_id is not None
    parts = stem_parts(source, recipe.stem_pattern)
    return from_template(source, recipe.session_id, parts), from_template(source, recipe.subject_id, parts)
