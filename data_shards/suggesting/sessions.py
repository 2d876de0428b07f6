"""What an unknown file says of the session and the animal."""

import re
from pathlib import Path

from neurochorus.data_shards.naming import IDENTIFIER, LONGEST
from neurochorus.data_shards.suggesting.arrays import Arrays
from neurochorus.data_shards.suggesting.document import Section

SUBJECT = re.compile(
    r"subject(_?(id|name))?|mouse(_?(id|name))?|animal(_?(id|name))?|monkey|rat|bird|patient|participant"
)
SESSION = re.compile(r"session(_?(id|name))?|identifier|recording_?id")
ATTRIBUTES = ("subject@id",)
"Where torch_brain keeps it."
PLAIN = "(?P<start>[A-Za-z0-9_-]+).*"


def guess_ids(arrays: Arrays, path: Path, document: Section) -> None:
    """Add session_id and subject_id, and stem_pattern where they need it."""
    whole = IDENTIFIER.fullmatch(path.stem) is not None and len(path.stem) <= LONGEST
    start = re.fullmatch(PLAIN, path.stem)
    stem = "{stem}" if whole else "{start}"
    if not whole and start is not None:
        document.add("stem_pattern", PLAIN, f"{path.stem!r} has more than letters, digits, _ and -: its start names it")
    scalars = _matching(arrays, SESSION)
    if whole or start is not None:
        document.add("session_id", stem, f"the name of the file, {path.stem!r}; it must differ between files")
    elif scalars:
        document.add("session_id", "{" + scalars[0][0] + "}", f"{scalars[0][0]} is {scalars[0][1]!r}")
        scalars = scalars[1:]
    for key, value in scalars:
        document.other("session_id", "{" + key + "}", f"it is {value!r}")
    subjects = _matching(arrays, SUBJECT)
    for key, value in subjects[:1]:
        document.add("subject_id", {"key": key}, f"{key} is {value!r}")
    for key, value in subjects[1:]:
        document.other("subject_id", {"key": key}, f"it is {value!r}")
    if not subjects:
        document.add(
            "subject_id",
            stem,
            "CHECK: the file names no animal, so each file is taken for one of its own. Files of one animal must have "
            "one subject_id: the same text for all, or a part of the file's name, such as",
            "stem_pattern: '(?P<animal>[A-Za-z0-9]+)_.*' and subject_id: '{animal}'",
        )


def _matching(arrays: Arrays, names: re.Pattern[str]) -> list[tuple[str, str]]:
    """Scalars with such a name whose value can be an id."""
    found = [(key, arrays.source.text(key)) for key in ATTRIBUTES if names is SUBJECT and arrays.source.has(key)]
    for seen in arrays.scalars:
        if seen.kind in "iU" and names.fullmatch(seen.leaf):
            value = str(arrays.scalar(seen))
            if IDENTIFIER.fullmatch(value) and len(value) <= LONGEST:
                found.append((seen.key, value))
    return found
