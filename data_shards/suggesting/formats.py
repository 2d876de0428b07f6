"""Which importer a file or folder is for, from what is in it rather than from its name."""

import zipfile
from pathlib import Path

HDF5 = b"\x89HDF\r\n\x1a\n"
SUITE2P = ("F.npy", "iscell.npy")
TEXT = (".csv", ".tsv", ".txt")
SINGLE = (".npz", ".h5", ".hdf5", ".hdf", ".mat", ".nwb")
"Endings of files that are sessions by themselves."


def guess_format(path: Path) -> tuple[str, str]:
    """Return an importer and why it was chosen. ValueError for what none of them reads."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder: check the path")
    importer, why = _of_folder(path) if path.is_dir() else _of_file(path)
    if importer == "":
        raise ValueError(
            f"{path}: {why}; expected .npz, .npy, HDF5, NWB, MATLAB or a table of text, or a folder of phy, suite2p, "
            ".npy files or tables: convert it to one of these"
        )
    return importer, why


def first_session(folder: Path) -> Path:
    """Return the first file or folder in `folder` that is a session, or `folder` itself where that is one."""
    importer = _of_folder(folder)[0]
    if importer not in ("", "npy", "csv"):
        return folder
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in inside if path.is_file() and path.suffix.lower() in SINGLE]
    folders = [path for path in inside if path.is_dir() and _of_folder(path)[0] != ""]
    if files:
        return files[0]
    return folders[0] if importer == "" and folders else folder


def _of_folder(path: Path) -> tuple[str, str]:
    names = {below.name for below in path.iterdir()}
    if {"spike_times.npy"} <= names and names & {"spike_clusters.npy", "spike_templates.npy"}:
        return "phy", "the folder holds spike_times.npy and a cluster of each spike, as Kilosort and phy write them"
    if set(SUITE2P) <= names or (path / "plane0" / "F.npy").is_file():
        return "suite2p", "the folder holds F.npy and iscell.npy, as suite2p writes them"
    if names & {".zgroup", "zarr.json", ".zmetadata"}:
        return "nwb", "the folder is a Zarr store, as NWB files may be"
    if any(name.endswith(".npy") for name in names):
        return "npy", "the folder holds .npy files"
    if any(Path(name).suffix.lower() in TEXT for name in names):
        return "csv", "the folder holds tables of text"
    return "", "the folder holds nothing that is known"


def _of_file(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"MATLAB 7.3"):
        return "mat", "it begins as a MATLAB file of version 7.3 does"
    if head.startswith(b"MATLAB 5.0"):
        return "mat", "it begins as a MATLAB file does"
    if head.startswith(HDF5) or head[512:].startswith(HDF5) or head[2048:].startswith(HDF5):
        return _of_hdf5(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy", "it begins as a .npy file does"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return "npz", "it is a zip file of .npy arrays"
        return "", "it is a zip file without .npy arrays"
    try:
        lines = head.decode().splitlines()
    except UnicodeDecodeError:
        return "", "what it begins with belongs to no known format"
    if lines and "\0" not in lines[0] and any(mark in lines[0] for mark in (",", "\t", ";")):
        return "csv", "it is text with separators in its first line"
    return "", "it is no table of text with separators in its first line"


def _of_hdf5(path: Path) -> tuple[str, str]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            is_nwb = "nwb_version" in file.attrs or "specifications" in file
    except OSError as error:
        raise ValueError(f"{path}: begins as an HDF5 file but cannot be read ({error}): is it whole?") from None
    if is_nwb:
        return "nwb", "it is an HDF5 file that says that it is NWB"
    return "hdf5", "it begins as an HDF5 file does, and is no NWB"
