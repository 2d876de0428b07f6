"""An open NWB file, HDF5 or Zarr, as pynwb reads it: a tree of groups and arrays with exactly the paths of the file.

The tree is pynwb's own first step (its builders), taken with the spec that pynwb brings. The spec cached in a file
decides nothing here, so files whose cached spec is damaged or cannot be resolved read like any other. Arrays stay on
disk until they are asked for. What lies in another file is left out: only the file that was named is read.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PICKLE_REASON = "unpickling could run any code, so it is never done here"


class NwbFile:
    """The groups and arrays of a file, opened read-only. `notes` takes plain sentences on what is odd about it."""

    def __init__(self, path: Path, notes: list[str]):
        self.path = path
        self.notes = notes
        self._io = _open(path)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.root = self._io.read_builder()
        except Exception as error:  # pynwb raises many kinds for damaged files
            self.close()
            raise ValueError(f"{path}: pynwb cannot read it ({type(error).__name__}: {error}): is it whole?") from None
        if "nwb_version" not in self.root.attributes:
            self.close()
            raise ValueError(f"{path}: is no file of NWB 2, which names its nwb_version: import it as hdf5")
        self.notes += [f"pynwb warns: {item.message}" for item in caught if "roken" in str(item.message)]
        self._note_versions()

    def close(self) -> None:
        self._io.close()

    def children(self, group: Any) -> Iterator[tuple[str, Any]]:
        """Yield (name, builder) of what lies in a group, links followed; links into other files are noted and left."""
        yield from group.groups.items()
        yield from ((name, item) for name, item in group.datasets.items() if item is not None)
        for link in group.links.values():
            if self.holds(link.builder):
                yield link.name, link.builder
            else:
                self.note(
                    f"{path_of(group)}/{link.name} lies in another file ({Path(link.builder.source).name}) "
                    "and is left out: import that file itself"
                )

    def holds(self, builder: Any) -> bool:
        """Return whether an array or group lies in this file, and not in another one it links to."""
        return Path(builder.source).resolve() == self.path.resolve()

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _note_versions(self) -> None:
        import pynwb

        version = as_text(self.root.attributes["nwb_version"])
        self.note(f"written as NWB {version}; read with the spec of pynwb {pynwb.__version__}, not the one in the file")
        start = self.root.datasets.get("session_start_time")
        year = "" if start is None else as_text(start.data)[:4]
        if year.isdigit() and int(year) <= 1970:
            self.note(f"session_start_time is in {year}, a placeholder: times are used as they are, relative to it")


def as_text(value: Any) -> str:
    """Return a text that may be stored as bytes, or as an array of one."""
    while hasattr(value, "item") and not isinstance(value, (bytes, str)):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def path_of(builder: Any) -> str:
    """Return where a group or array lies in its file, without the leading slash."""
    return f"{builder.location or ''}/{builder.name}".strip("/")


def _open(path: Path) -> Any:
    reader: Any = _zarr_reader(path) if path.is_dir() else _hdf5_reader(path)
    try:
        return reader(str(path), mode="r", load_namespaces=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be opened as an NWB file ({error}): is it whole?") from None


def _hdf5_reader(path: Path) -> Any:
    try:
        from pynwb import NWBHDF5IO
    except ImportError:
        raise ValueError(f"{path}: reading NWB needs pynwb: pip install pynwb") from None
    return NWBHDF5IO


def _zarr_reader(path: Path) -> Any:
    """Return the class that reads Zarr; refuses where arrays that hold pickles would be unpickled on reading."""
    try:
        import numcodecs.pickles
        from hdmf_zarr.nwb import NWBZarrIO
    except ImportError:
        raise ValueError(f"{path}: reading NWB in Zarr needs hdmf-zarr: pip install 'neurochorus[zarr]'") from None
    if getattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True):
        raise ValueError(
            f"{path}: this numcodecs unpickles what a Zarr array holds, and {PICKLE_REASON}: "
            "install numcodecs 0.15.2 or newer and leave NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE unset"
        )
    return NWBZarrIO
