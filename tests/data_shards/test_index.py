from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.index import COLUMN_DTYPES, Index


def make_index(rows: int = 3) -> Index:
    return Index.from_rows([dict.fromkeys(COLUMN_DTYPES, 10 * row + 1) for row in range(rows)], "abc")


def test_an_index_comes_back_as_it_was(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "index.npz")
    for path in (tmp_path, tmp_path / "index.npz"):
        loaded = Index.load(path, "abc")
        assert len(loaded) == 3
        for name, dtype in COLUMN_DTYPES.items():
            assert getattr(loaded, name).dtype == dtype
            assert getattr(loaded, name).tolist() == [1, 11, 21]


def test_an_index_of_another_data_set_is_refused(tmp_path: Path) -> None:
    make_index().save(tmp_path / "index.npz")
    with pytest.raises(ValueError, match="belongs to another data set"):
        Index.load(tmp_path, "abd")


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no index there"):
        Index.load(tmp_path)
    path = tmp_path / "index.npz"
    make_index().save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        Index.load(path)
    columns = {name: getattr(make_index(), name) for name in COLUMN_DTYPES}
    np.savez(path, manifest_hash=np.array("abc"), **{name: columns[name] for name in columns if name != "start"})
    with pytest.raises(ValueError, match="columns missing or unknown: start"):
        Index.load(path)
    np.savez(path, manifest_hash=np.array("abc"), **(columns | {"bins": columns["bins"].astype(np.int64)}))
    with pytest.raises(ValueError, match="column bins is int64"):
        Index.load(path)
    np.savez(path, manifest_hash=np.array("abc"), **(columns | {"bins": columns["bins"][:2]}))
    with pytest.raises(ValueError, match="column bins is"):
        Index.load(path)
