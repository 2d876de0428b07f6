"""Names: what an identifier may look like, and what a mistyped one was probably meant to be."""

import difflib
import re
from collections.abc import Iterable

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+")
LONGEST = 64  # the key of a sample and its suffix must fit into the 100 bytes of a tar name


def check_identifier(kind: str, value: str) -> None:
    """Raise ValueError unless `value` is 1-64 letters, digits, `_` and `-`; `kind` names it in the error."""
    if isinstance(value, str) and IDENTIFIER.fullmatch(value) and len(value) <= LONGEST:
        return
    reason = " (a dot would split the webdataset key of its samples)" if "." in str(value) else ""
    raise ValueError(
        f"{kind} {value!r} must be 1-{LONGEST} letters, digits, '_' and '-'{reason}: rename it, "
        "in the recipe or in the source file"
    )


def nearest_hint(name: str, names: Iterable[str], plural: str = "names") -> str:
    """Return the end of an error message: the nearest of `names`, or up to eight of them."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(item) for item in near)}?"
    if not known:
        return f"there are no {plural}"
    listed = ", ".join(known[:8]) + (f", ... ({len(known)} in all)" if len(known) > 8 else "")
    return f"{plural} there: {listed}"
