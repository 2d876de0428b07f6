"""Files made to harm: nothing is executed, nothing outside is read, and no memory is taken for what is only claimed."""

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neurochorus.data_shards.importers.archive import Archive
from neurochorus.data_shards.importers.hdf5 import Hdf5
from neurochorus.data_shards.importers.mat import open_mat
from neurochorus.data_shards.importers.npy import NpyArrays


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.marker), 0o700)


def npy_claiming(shape: str, data: bytes = b"", dtype: str = "<f8") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    array = np.array([Bomb(tmp_path / "executed")], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=array)
    with (
        pytest.raises(ValueError, match=r"a\.npy: 'array': holds Python objects"),
        NpyArrays(tmp_path / "a.npy") as one,
    ):
        one.array("array")
    with pytest.raises(ValueError, match=r"a\.npz: 'x': holds Python objects"), Archive(tmp_path / "a.npz") as one:
        one.array("x")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy_claiming("(10**12,)"), "damaged"),
        (npy_claiming("(1000000000000,)"), "8000000000000 bytes, and it has 0"),
        (npy_claiming("(4294967296, 4294967296)"), "damaged"),
        (npy_claiming("(3,)", bytes(16)), "24 bytes, and it has 16"),
        (npy_claiming("(3,)", bytes(32)), "24 bytes, and it has 32"),
        (npy_claiming("(-3,)"), "damaged"),
        (npy_claiming("(1,)", bytes(8), "|O"), "holds Python objects"),
        (npy_claiming("(1,)", bytes(8), "__import__"), "damaged"),
        (b"\x93NUMPY\x09\x00" + bytes(200), "version 9.0"),
        (b"garbage", "damaged"),
    ],
)
def test_headers_that_claim_too_much_or_too_little(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught, NpyArrays(tmp_path / "x.npy") as source:
        source.array("array")
    assert "x.npy" in str(caught.value)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ValueError, match=message) as caught, Archive(tmp_path / "x.npz") as source:
        source.array("x")
    assert "x.npz: 'x'" in str(caught.value)


def test_a_decompression_bomb_is_known_by_what_it_claims(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive, archive.open("x.npy", "w") as member:
        member.write(npy_claiming("(9437184,)"))
        for _ in range(72):
            member.write(bytes(2**20))
    assert (tmp_path / "x.npz").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"x\.npz: 'x': claims 75497600 bytes but the file stores"):
        Archive(tmp_path / "x.npz").array("x")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (10**12, 10), np.float32, chunks=(1000, 10))  # never written: 40 TB of zeros
    with Hdf5(tmp_path / "x.h5") as source:
        for read in (source.array, source.view):
            with pytest.raises(ValueError, match=r"x\.h5: 'x': claims 40000000000000 bytes but the file stores 0"):
                read("x")


def test_hdf5_data_of_other_files_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(5)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "x")
        file["soft"] = h5py.SoftLink("/link")
        file["whole"] = h5py.ExternalLink(str(secret), "/")
        file.create_dataset("raw", (8,), np.uint8, external=[("/etc/hostname", 0, 8)])
        layout = h5py.VirtualLayout((5,), np.int64)
        layout[:] = h5py.VirtualSource(str(secret), "x", (5,))
        file.create_virtual_dataset("virtual", layout)
        file["loop"] = h5py.SoftLink("/loop")
        file["round"] = h5py.SoftLink("/round/round/round")
        for number in range(40):
            file[f"up{number}"] = h5py.SoftLink(f"/up{number + 1}/up{number + 1}/up{number + 1}")
        file["up40"] = h5py.SoftLink("/")
        file["inner/x"] = np.arange(3)
        file["good"] = h5py.SoftLink("/inner/x")
        file["inner/self"] = file["/"]
    with Hdf5(tmp_path / "x.h5") as source:
        for key in ("link", "soft", "whole/x"):
            with pytest.raises(ValueError, match=r"x\.h5: '\w+': is a link to another file"):
                source.array(key)
        for key in ("raw", "virtual"):
            for read in (source.array, source.view):
                with pytest.raises(ValueError, match="its data lies in other files"):
                    read(key)
        for key in ("loop", "round/x", "up0/x"):
            with pytest.raises(ValueError, match=r"has no array|links lead in circles"):
                source.array(key)
        assert source.array("good").tolist() == [0, 1, 2]
        assert {"inner/x", "good"} <= set(source.keys())
        assert not {"link", "soft", "loop"} & set(source.keys())


def test_hdf5_types_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(3)
        file.create_dataset("ref", (1,), h5py.ref_dtype)[0] = file["x"].ref
        file["compound"] = np.zeros(3, dtype=[("a", "f8"), ("b", "i4")])
        file["empty"] = h5py.Empty("f8")
        file.create_dataset("opaque", data=np.zeros(2, dtype="V7"))
    with Hdf5(tmp_path / "x.h5") as source:
        for key in ("ref", "compound", "opaque", "empty"):
            with pytest.raises(ValueError, match=r"x\.h5: '\w+': is"):
                source.array(key)


@pytest.mark.parametrize("name", ["x.h5", "x.npz", "x.npy", "x.mat"])
def test_cut_and_flipped_files_end_in_a_value_error(tmp_path: Path, name: str) -> None:
    from scipy.io import savemat

    path, values = tmp_path / name, np.arange(500.0).reshape(50, 10)
    if name == "x.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=values, compression="gzip", fletcher32=True)
    elif name == "x.mat":
        savemat(path, {"x": values}, do_compression=True)
    elif name == "x.npz":
        np.savez_compressed(path, x=values)
    else:
        np.save(path, values)
    opened: Any = {".h5": Hdf5, ".npz": Archive, ".npy": NpyArrays, ".mat": open_mat}[path.suffix]
    key = "array" if name == "x.npy" else "x"
    whole = path.read_bytes()
    generator, named = np.random.default_rng(5), []
    for at in generator.integers(0, len(whole), 60).tolist():
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                with opened(path) as source:
                    source.array(key)
            except ValueError as error:
                named.append(name in str(error))
    assert len(named) > 60
    assert all(named)


def test_a_signal_far_larger_than_memory_is_read_in_pieces(tmp_path: Path) -> None:
    """600 MB of samples come in through blocks: the process never holds more than a fraction of them."""
    path = tmp_path / "s01.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("lfp", (2_400_000, 128), np.int16, chunks=(8000, 128), compression=1)
        block = np.tile(np.random.default_rng(6).integers(-1000, 1000, (64, 128)).astype(np.int16), (125, 1))
        made[:8000] = block
        for start in range(8000, len(made), 8000):
            made.id.write_direct_chunk((start, 0), made.id.read_direct_chunk((0, 0))[1])
        assert made.nbytes > 600e6
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "{name: big, importer: hdf5, bin_s: 0.1, sample_bins: 100, subject_id: a, modality: continuous, "
        "signal: {layout: continuous, key: lfp, sampling: {rate: 10000}}, split: {method: blocks, block_bins: 100}}"
    )
    code = (
        "import resource, sys\n"
        "import neurochorus.data_shards.importers.hdf5\n"
        "from neurochorus.data_shards.importers import import_recordings\n"
        "from neurochorus.data_shards.recipe import read_recipe\n"
        "recipe = read_recipe(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(recording,) = import_recordings(recipe, sys.argv[2])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(recording.signal_TC.shape, recording.signal_TC[5, 7], (after - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recipe), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shape, value, grown = done.stdout.rsplit(maxsplit=2)
    assert shape == "(2400, 128)"
    assert float(value) == pytest.approx(block[5000:6000, 7].astype(float).mean(), rel=1e-6)
    assert int(grown) < 250, f"memory grew by {grown} MB"
