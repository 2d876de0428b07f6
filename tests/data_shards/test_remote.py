"""Data sets behind URLs: from real servers on loopback, whole or not at all, once a machine, within bounds."""

import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.describe import summarise
from neurochorus.data_shards.remote import data_place
from neurochorus.data_shards.remote.cache import Cache
from tests.data_shards.web_server import WebServer, serving

FIRST = "shard-000000.tar"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one gigabyte for each test; waits are short."""
    monkeypatch.setenv("NEUROCHORUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEUROCHORUS_CACHE_GB", "1")
    monkeypatch.setattr("neurochorus.data_shards.remote.transfer.FIRST_WAIT_S", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def folder(data_path: Path, tmp_path: Path) -> Path:
    """What is served: `data` is a data set that may be damaged."""
    shutil.copytree(data_path, tmp_path / "served" / "data")
    return tmp_path / "served"


@pytest.fixture
def web(folder: Path) -> Iterator[WebServer]:
    with serving(folder) as server:
        yield server


def assert_same(remote: ShardDataset, local: ShardDataset) -> None:
    assert len(remote) == len(local)
    for row in range(len(local)):
        ours, theirs = remote.read(row), local.read(row)
        assert (ours.key, ours.meta) == (theirs.key, theirs.meta)
        np.testing.assert_array_equal(ours.signal_TC, theirs.signal_TC)


def shards_in(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.tar"))


def test_a_data_set_behind_a_url_reads_as_on_disk(web, data_path, cache):
    local = ShardDataset(data_path)
    remote = ShardDataset(f"{web.url}/data/")
    assert web.requests == {"manifest.json": 1, "index.npz": 1}, "shards are brought when they are read"
    assert_same(remote, local)
    assert_same(ShardDataset(f"{web.url}/data"), local)
    expected = {shard.file: 1 for shard in local.manifest.shards}
    assert web.requests == {"manifest.json": 2, "index.npz": 1, **expected}, "the cache serves the second time"
    assert sum(path.stat().st_size for path in shards_in(cache)) == sum(s.bytes for s in local.manifest.shards)
    assert Corpus([f"{web.url}/data"]).hash() == Corpus(data_path).hash()


def test_a_worker_opens_it_without_asking_the_server(web, data_path, folder):
    remote = ShardDataset(f"{web.url}/data")
    remote.read(0)
    before = web.requests.copy()
    again = pickle.loads(pickle.dumps(remote))
    np.testing.assert_array_equal(again.read(0).signal_TC, ShardDataset(data_path).read(0).signal_TC)
    assert web.requests == before
    for kept in Path(os.environ["NEUROCHORUS_CACHE"]).glob("*/manifest-*.json"):
        kept.unlink()
    manifest = json.loads((folder / "data" / "manifest.json").read_text()) | {"name": "another"}
    (folder / "data" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="written anew while in use"):
        pickle.loads(pickle.dumps(remote))


def test_what_passes_is_tried_again_from_where_it_broke_off(web, data_path):
    web.faults = {"manifest.json": ["500", "cut"], "index.npz": ["reset"], FIRST: ["reset", "500", "cut", "shifted"]}
    remote = ShardDataset(f"{web.url}/data")
    assert_same(remote, ShardDataset(data_path))
    size = remote.manifest.shards[0].bytes
    starts = [first for name, first in web.first_bytes if name == FIRST]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[1] >= size // 2 - 8192
    assert web.sent[FIRST] < 2.5 * size


def test_a_server_without_ranges_begins_anew(folder, data_path):
    with serving(folder, ranges=False) as web:
        web.faults = {FIRST: ["reset", "cut"]}
        assert_same(ShardDataset(f"{web.url}/data"), ShardDataset(data_path))
        assert web.requests[FIRST] == 3


@pytest.mark.parametrize(
    ("fault", "requests", "text"),
    [
        (["403"] * 9, 1, "access is refused.*give credentials where fsspec looks"),
        (["404"] * 9, 1, "nothing is there: check the URL"),
        (["400"] * 9, 1, "cannot be read .*400"),
        (["503"] * 9, 6, "cannot be read in 6 attempts.*503"),
        (["wrong"] * 9, 2, "brought twice, and its sha256"),
    ],
)
def test_errors_that_stay_are_named(web, cache, fault, requests, text):
    remote = ShardDataset(f"{web.url}/data")
    web.faults = {FIRST: fault}
    with pytest.raises(DatasetError, match=text) as caught:
        remote.read(0)
    assert f"{web.url}/data/{FIRST}" in str(caught.value)
    assert web.requests[FIRST] == requests
    assert shards_in(cache) == []
    web.faults = {}
    remote.read(0)


def test_wrong_bytes_once_are_brought_again(web, data_path):
    web.faults = {FIRST: ["wrong"]}
    assert_same(ShardDataset(f"{web.url}/data"), ShardDataset(data_path))
    assert web.requests[FIRST] == 2


def test_another_file_under_the_name_of_a_shard_is_refused(web, folder):
    shard = folder / "data" / FIRST
    remote = ShardDataset(f"{web.url}/data")
    for change, text in (
        (lambda data: data[:-1], "bytes there, the manifest says"),
        (lambda data: data + b"x", "bytes there"),
    ):
        original = shard.read_bytes()
        shard.write_bytes(change(original))
        with pytest.raises(DatasetError, match=text):
            remote.read(0)
        shard.write_bytes(original)
    shutil.copy(folder / "data" / "shard-000001.tar", shard)
    with pytest.raises(DatasetError, match=f"{FIRST}: (has|brought twice)"):
        remote.read(0)


def test_a_url_that_holds_no_data_set(web, folder):
    with pytest.raises(DatasetError, match=r"nowhere/manifest\.json: no manifest there"):
        ShardDataset(f"{web.url}/nowhere")
    (folder / "data" / "manifest.json").write_text("<html>please log in</html>")
    with pytest.raises(DatasetError, match=rf"{web.url}/data/manifest\.json: not valid JSON"):
        ShardDataset(f"{web.url}/data")


def test_an_index_of_another_manifest_is_refused(web, folder, data_path):
    index = folder / "data" / "index.npz"
    data = index.read_bytes()
    dataclasses.replace(ShardDataset(data_path).index, manifest_hash="0" * 16).save(index)
    with pytest.raises(DatasetError, match=rf"{web.url}/data/index\.npz: belongs to another data set"):
        ShardDataset(f"{web.url}/data")
    (folder / "data" / f"index-{ShardDataset(data_path).manifest_hash}.npz").write_bytes(data)
    assert_same(ShardDataset(f"{web.url}/data"), ShardDataset(data_path))


def test_a_damaged_copy_in_the_cache_is_found(web, cache):
    remote = ShardDataset(f"{web.url}/data")
    remote.read(0)
    remote.close()
    place = int(remote.index.signal_offset[0]) + 130
    for path in (*shards_in(cache), *cache.glob("*/index-*.npz")):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    remote = ShardDataset(f"{web.url}/data")
    assert web.requests["index.npz"] == 2
    with pytest.raises(DatasetError, match=r"checksum does not fit.*remove its copy in the cache"):
        remote.read(0)
    for path in shards_in(cache):
        path.write_bytes(path.read_bytes()[:-1])
    assert_same(ShardDataset(f"{web.url}/data"), ShardDataset(f"{web.url}/data"))


def test_describe_and_verify(web, folder):
    url = f"{web.url}/data"
    assert summarise(url).name == "small"
    assert [name for name in web.requests if name.endswith(".tar")] == []
    ShardDataset(url).verify()
    shard = folder / "data" / FIRST
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(DatasetError) as caught:
        ShardDataset(url).verify()
    assert [problem.split(":")[0] for problem in caught.value.problems] == [FIRST]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ftp://host/data", "expected a directory, or a URL that starts with s3://"),
        ("simplecache::s3://host/data", "expected a directory, or a URL"),
        ("https://me:secret@host/data", "https://host/data: a URL of a data set carries no password"),
        ("https://host/data?token=secret", "https://host/data: a URL of a data set carries no"),
        (Path("https://host/data"), "give it as text"),
    ],
)
def test_urls_that_are_not_read(path, text):
    with pytest.raises(DatasetError, match=text) as caught:
        ShardDataset(path)
    assert "secret" not in str(caught.value)


def test_a_directory_stays_a_directory(tmp_path):
    assert data_place(tmp_path / "x") == data_place(str(tmp_path / "x")) == tmp_path / "x"
    assert data_place("s3://bucket/data/") == "s3://bucket/data"


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("NEUROCHORUS_CACHE_GB", text)
    with pytest.raises(DatasetError, match=r"NEUROCHORUS_CACHE_GB is .*gigabytes"):
        ShardDataset("http://127.0.0.1:1/data")


def test_the_cache_stays_within_its_limit(web, data_path, cache, monkeypatch):
    sizes = [shard.bytes for shard in ShardDataset(data_path).manifest.shards]
    monkeypatch.setenv("NEUROCHORUS_CACHE_GB", str(2.5 * max(sizes) / 1e9))
    remote = ShardDataset(f"{web.url}/data")
    generator = np.random.default_rng(0)
    for row in generator.integers(len(remote), size=60).tolist():
        remote.read(row)
        assert sum(path.stat().st_size for path in cache.glob("*/*")) <= 2.5 * max(sizes)
    assert max(web.requests[shard.file] for shard in remote.manifest.shards) > 1


def test_what_was_not_used_for_longest_goes_first_and_nothing_in_use(tmp_path):
    files = Cache(tmp_path / "cache", 25)
    opened = {}
    for name in "abc":
        opened[name] = files.open(files.place("u", name), 8, lambda file: file.write(bytes(8)))
        os.utime(files.place("u", name), ns=(0, ord(name)))
    opened.pop("b").close()
    files.open(files.place("u", "d"), 8, lambda file: file.write(bytes(8))).close()
    assert sorted(path.name for path in (tmp_path / "cache").glob("*/?")) == ["a", "c", "d"]
    opened.pop("a").close()
    files.open(files.place("u", "e"), 8, lambda file: file.write(bytes(8)), opened.pop("c").close).close()
    assert sorted(path.name for path in (tmp_path / "cache").glob("*/?")) == ["c", "d", "e"]


def read_everything(url: str, seed: int, results: "multiprocessing.Queue[int]") -> None:
    dataset = ShardDataset(url)
    rows = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    results.put(sum(int(dataset.read(row).signal_TC.sum(dtype=np.int64)) for row in rows))


def test_several_processes_bring_each_shard_once(web, data_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ShardDataset(f"{web.url}/data").read(0)  # a connection from before the fork must do no harm
    processes = [context.Process(target=read_everything, args=(f"{web.url}/data", seed, results)) for seed in range(4)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    local = ShardDataset(data_path)
    assert set(sums) == {sum(int(local.read(row).signal_TC.sum(dtype=np.int64)) for row in range(len(local)))}
    assert {web.requests[shard.file] for shard in local.manifest.shards} == {1}


def hang_half_way(folder: Path, written: "multiprocessing.Queue[int]") -> None:
    def bring(file):
        written.put(file.write(b"half"))
        time.sleep(60)

    files = Cache(folder, 1000)
    files.open(files.place("u", "a"), 8, bring)


def test_a_killed_process_leaves_no_lock_and_its_bytes(tmp_path):
    context = multiprocessing.get_context("fork")
    written = context.Queue()
    process = context.Process(target=hang_half_way, args=(tmp_path, written))
    process.start()
    assert written.get(timeout=30) == 4
    process.kill()
    process.join()
    found = []

    def bring(file):
        found.append(file.tell())
        file.write(b"more")

    files = Cache(tmp_path, 1000)
    with files.open(files.place("u", "a"), 8, bring) as file:
        assert file.read() == b"halfmore"
    assert found == [4]


def test_a_full_disk_frees_what_is_not_in_use_or_says_what_to_do(tmp_path):
    files, calls = Cache(tmp_path, 1000), []
    files.open(files.place("u", "old"), 8, lambda file: file.write(bytes(8))).close()

    def bring(file):
        calls.append(len(list(tmp_path.glob("*/old"))))
        if len(calls) < 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(bytes(8))

    files.open(files.place("u", "new"), 8, bring).close()
    assert calls == [1, 0]

    def never(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DatasetError, match="No space left on device: free space there, set NEUROCHORUS_CACHE_GB"):
        files.open(files.place("u", "third"), 8, never)


def test_a_cache_that_cannot_be_written_says_so(tmp_path, web, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROCHORUS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match=r"the cache .*/file: .*NEUROCHORUS_CACHE"):
        ShardDataset(f"{web.url}/data")
