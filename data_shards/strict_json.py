"""JSON from files that anybody may have written: what is read is what stands there, or it is refused."""

import json
import math
from typing import Any, NoReturn

MOST_DIGITS = 20
"Of a whole number: enough for 64 bits."
MOST_LEVELS = 64
"Of lists and mappings inside each other."


def parse_json(data: bytes, finite: bool = True) -> Any:
    """Return what UTF-8 JSON holds; keys are unique, numbers finite, whole numbers of 20 digits at most.

    `finite=False` is faster: numbers too large for a float become infinite, and the caller looks for them. Raises
    ValueError that says what is wrong.
    """
    try:
        return json.loads(
            data,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite if finite else None,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid JSON (not UTF-8 text: {error.reason})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None


def parse_mapping(data: bytes) -> dict[str, Any]:
    """Return the mapping in UTF-8 JSON; raises ValueError as `parse_json` does, and for what is no mapping."""
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError(f"holds a JSON {type(values).__name__}; expected a mapping")
    return values


def nested_too_deeply(value: Any) -> bool:
    """Whether lists and mappings lie more than 64 deep in each other."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one mapping")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits; at most {MOST_DIGITS} are read")
    return int(text)
