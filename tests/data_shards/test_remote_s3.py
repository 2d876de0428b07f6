"""Data sets in a bucket of a local S3 server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.launch import describe

URL = "s3://recordings/deep/data"
FIRST = "deep/data/shard-000000.tar"


@pytest.fixture(scope="module")
def store(data_path: Path) -> Iterator[Any]:
    """A client of a server whose one bucket holds the small data set; credentials come from the environment."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="recordings")
        for file in data_path.iterdir():
            client.upload_file(str(file), "recordings", f"deep/data/{file.name}")
        yield client
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(store: Any, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client, for a test that may change `FIRST`; and an empty cache."""
    monkeypatch.setenv("NEUROCHORUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("neurochorus.data_shards.remote.transfer.FIRST_WAIT_S", 0.001)
    yield store
    store.put_object(Bucket="recordings", Key=FIRST, Body=(data_path / "shard-000000.tar").read_bytes())


def test_a_bucket_reads_as_a_directory(bucket, data_path, monkeypatch):
    monkeypatch.setattr("neurochorus.data_shards.remote.transfer.CHUNK_BYTES", 10_000)
    local, remote = ShardDataset(data_path), ShardDataset(URL)
    for row in range(len(local)):
        np.testing.assert_array_equal(remote.read(row).signal_TC, local.read(row).signal_TC)
    remote.verify()


def test_a_transfer_goes_on_where_it_stopped(bucket, tmp_path, data_path):
    remote = ShardDataset(URL)
    shard = remote.manifest.shards[0]
    data = (data_path / shard.file).read_bytes()
    folder = next((tmp_path / "cache").glob("*/manifest-*")).parent
    (folder / f"{shard.sha256}.tar.partial").write_bytes(data[:5000])
    remote.read(0)
    assert (folder / f"{shard.sha256}.tar").read_bytes() == data
    (folder / f"{remote.manifest.shards[1].sha256}.tar.partial").write_bytes(b"x" * 5000)  # of something else
    remote.read(len(remote) - 1)
    for number in range(len(remote)):
        remote.read(number)


@pytest.mark.parametrize("change", ["missing", "short", "longer", "exchanged"])
def test_what_is_wrong_in_a_bucket_is_named(bucket, data_path, change):
    data = (data_path / "shard-000000.tar").read_bytes()
    if change == "missing":
        bucket.delete_object(Bucket="recordings", Key=FIRST)
    else:
        bodies = {"short": data[:-1], "longer": data + b"x", "exchanged": data[::-1]}
        bucket.put_object(Bucket="recordings", Key=FIRST, Body=bodies[change])
    remote = ShardDataset(URL)
    if change != "longer":
        with pytest.raises(DatasetError, match=rf"{URL}/shard-000000\.tar: (nothing is there|cannot be|brought twice)"):
            remote.read(0)
    with pytest.raises(DatasetError) as caught:
        remote.verify()
    assert {problem.split(": ")[0] for problem in caught.value.problems} == {"shard-000000.tar"}


def test_a_stray_object_is_found_by_verify(bucket):
    bucket.put_object(Bucket="recordings", Key="deep/data/notes.txt", Body=b"x")
    with pytest.raises(DatasetError, match=r"notes\.txt: not part of the data set"):
        ShardDataset(URL).verify()
    bucket.delete_object(Bucket="recordings", Key="deep/data/notes.txt")


def test_no_bucket_and_no_credentials(bucket, monkeypatch, tmp_path):
    with pytest.raises(DatasetError, match=r"s3://nowhere/data/manifest\.json: no manifest there"):
        ShardDataset("s3://nowhere/data")
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DatasetError, match=r"access is refused.*NoCredentials"):
        ShardDataset(URL)
    s3fs.S3FileSystem.clear_instance_cache()


def test_describe_takes_a_url(bucket, capsys):
    assert describe.main([URL, "--verify"]) == 0
    assert "verified" in capsys.readouterr().out
    assert describe.main([URL + "x"]) == 1
    assert f"error: {URL}x/manifest.json: no manifest there" in capsys.readouterr().err
