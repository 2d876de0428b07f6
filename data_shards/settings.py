"""Settings: dataclasses read from YAML or JSON with every problem found at once.

A misspelt key, a wrong type and a missing value are all collected and raised together, each with its
path (`dynamics.width`) and, for an unknown key, the nearest valid one. A settings class is a plain
dataclass decorated with `@settings`; the string under a field is its explanation.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")


class SettingsError(ValueError):
    """All problems of one settings source; `problems` has a line for each."""

    def __init__(self, where: str, problems: list[str]):
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{where}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass whose unknown keys are errors."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def at_least(made: Any, least: float, *names: str) -> list[str]:
    """A line for each of the named settings that is below `least`, or NaN; for use in `problems`."""
    return [
        f"{name}: expected {least:g} or more, found {getattr(made, name)}"
        for name in names
        if not getattr(made, name) >= least
    ]


def parse_settings(cls: type[T], values: Any, where: str) -> T:
    """Build `cls` from nested plain values; `where` names the source in errors.

    Raises SettingsError with all problems. A class may define `problems(self) -> list[str]` for
    combinations of values that cannot work; the lists of all nested classes are raised together.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(where, [f"expected a mapping of settings, found {type(values).__name__}"])
    try:
        made = TypeAdapter(cls).validate_python(_over_defaults(cls, values))
    except ValidationError as error:
        raise SettingsError(where, [_explain(cls, item) for item in error.errors()]) from None
    problems = list(_combination_problems(made, ""))
    if problems:
        raise SettingsError(where, problems)
    return made


def read_settings(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Read a YAML file into `cls`, with `section.key=value` overrides applied on top."""
    return parse_settings(cls, apply_overrides(read_values(path), overrides), str(path))


def read_values(path: str | Path) -> dict[str, Any]:
    """The plain values in a YAML file of settings. Raises SettingsError when it is missing or holds something else."""
    path = Path(path)
    if not path.is_file():
        raise SettingsError(str(path), ["the file does not exist: check the path"])
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), [f"not valid YAML: {error}"]) from None
    if not isinstance(values, dict):
        raise SettingsError(str(path), [f"expected a mapping of settings, found {type(values).__name__}"])
    return values


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `values` with `a.b=value` assignments made; values are read as YAML."""
    result: dict[str, Any] = _copy(values)
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path:
            raise SettingsError("command line", [f"'{override}' is not of the form section.key=value"])
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SettingsError(
                "command line", [f"'{override}': the value is not valid YAML: are brackets and quotes closed?"]
            ) from None
    return result


def settings_to_dict(made: Any) -> dict[str, Any]:
    """Turn a settings object into plain values that YAML and JSON can hold."""
    return TypeAdapter(type(made)).dump_python(made, mode="json")


def _over_defaults(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section given in part keeps the rest of that section's own default, not of its class's defaults."""
    filled = dict(values)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        given, default = filled.get(field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if isinstance(given, Mapping) and dataclasses.is_dataclass(default) and not isinstance(default, type):
            filled[field.name] = {**settings_to_dict(default), **_over_defaults(type(default), given)}
    return filled


def _copy(values: Any) -> Any:
    return {key: _copy(value) for key, value in values.items()} if isinstance(values, dict) else values


def _explain(cls: type, item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "unexpected_keyword_argument":
        valid = _fields_at(cls, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(sorted(valid))}"
        return f"{path}: unknown key; {hint}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: missing; this setting has no default"
    return f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}; found {item['input']!r}"


def _fields_at(cls: Any, loc: Iterable[Any]) -> list[str]:
    """Names of the fields of the dataclass that sits at a path below `cls`."""
    for part in loc:
        kinds = _dataclasses_in(cls)
        hints = [typing.get_type_hints(kind) for kind in kinds]
        matches = [hint[part] for hint in hints if part in hint]
        if matches:
            cls = matches[0]
    return [field.name for kind in _dataclasses_in(cls) for field in dataclasses.fields(kind)]


def _dataclasses_in(annotation: Any) -> list[Any]:
    if dataclasses.is_dataclass(annotation):
        return [annotation]
    return [kind for argument in typing.get_args(annotation) for kind in _dataclasses_in(argument)]


def _combination_problems(made: Any, path: str) -> Iterable[str]:
    if isinstance(made, Mapping):
        for key, member in made.items():
            yield from _combination_problems(member, f"{path}{key}.")
    elif isinstance(made, (list, tuple)):
        for place, member in enumerate(made):
            yield from _combination_problems(member, f"{path.removesuffix('.')}[{place}].")
    elif dataclasses.is_dataclass(made):
        for field in dataclasses.fields(made):
            yield from _combination_problems(getattr(made, field.name), f"{path}{field.name}.")
        own = getattr(made, "problems", None)
        if callable(own):
            yield from (f"{path}{problem}" for problem in own())  # type: ignore[union-attr]
