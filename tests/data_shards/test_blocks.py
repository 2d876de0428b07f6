"""Blocks hold what single reads give, whatever was read before, and are as careful."""

import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurochorus.data_shards import blocks
from neurochorus.data_shards.blocks import read_block
from neurochorus.data_shards.buffers import Buffers
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError, ShardDataset


def expected_block(corpus: Corpus, rows, starts, lengths):
    samples = [corpus.read(int(row)) for row in rows]
    slices = [slice(a, a + n) for a, n in zip(starts, lengths)]
    signal = [sample.signal_TC[own] for sample, own in zip(samples, slices)]
    values = [s.covariates_TK[own] if s.covariates_TK is not None else None for s, own in zip(samples, slices)]
    return [sample.key for sample in samples], signal, values


@given(name=st.sampled_from(["a1", "a2", "b1"]), fresh=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_block_is_its_samples_side_by_side(data_path, whole_corpus, name, fresh, data):
    corpus = Corpus(data_path) if fresh else whole_corpus  # fresh: no checksum has been compared yet
    rows = np.array(
        data.draw(st.lists(st.sampled_from(corpus.rows_of(name, "train").tolist()), min_size=1, max_size=9))
    )
    bins = corpus.datasets[0].index.bins[rows]
    starts = np.array([data.draw(st.integers(0, int(n) - 1)) for n in bins])
    lengths = np.array([data.draw(st.integers(1, int(n) - a)) for n, a in zip(bins, starts.tolist())])
    block = corpus.read_block(name, rows, starts, lengths)
    keys, signals, values = expected_block(corpus, rows, starts.tolist(), lengths.tolist())
    assert block.keys == keys
    assert block.signal_NTC.shape[1] == max(lengths)
    for i, (signal, own) in enumerate(zip(signals, values)):
        np.testing.assert_array_equal(block.signal_NTC[i, : lengths[i]], signal)
        assert not block.signal_NTC[i, lengths[i] :].any()
        if own is None:
            assert block.covariates_NTK is None
        else:
            assert block.covariates_NTK is not None
            np.testing.assert_array_equal(block.covariates_NTK[i, : lengths[i]], own)
            assert np.isnan(block.covariates_NTK[i, lengths[i] :]).all()


def test_the_fast_way_is_taken_and_compares_checksums_once(data_path, monkeypatch):
    dataset = ShardDataset(data_path)
    rows = dataset.rows_of("a1", "train")
    starts, lengths = np.zeros(len(rows), dtype=int), dataset.index.bins[rows].astype(int)
    compared = []
    crc32 = blocks.crc32
    monkeypatch.setattr(blocks, "crc32", lambda data, start: compared.append(len(data)) or crc32(data, start))
    monkeypatch.setattr(ShardDataset, "read", lambda *_: pytest.fail("read one by one"))
    for _ in range(3):
        read_block(dataset, rows, starts, lengths)
    assert len(compared) == 2 * len(rows), "signal and covariates, in the first round only"


@pytest.mark.parametrize("member", ["signal", "covariates"])
@pytest.mark.parametrize("place", [0, 130, -1])
def test_a_flipped_byte_is_found_before_a_block_is_made(data_path, tmp_path, member, place):
    shutil.copytree(data_path, tmp_path / "data")
    dataset = ShardDataset(tmp_path / "data")
    rows = dataset.rows_of("a1", "train")
    row = int(rows[3])
    shard = tmp_path / "data" / dataset.manifest.shards[dataset.index.shard[row]].file
    offset, size, _ = (column[row] for column in dataset._places[member])
    content = bytearray(shard.read_bytes())
    content[int(offset + (place if place >= 0 else size + place))] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{shard.name}: {dataset.key(row)}\.{member}\.npy"):
        read_block(dataset, rows, np.zeros(len(rows), dtype=int), np.full(len(rows), 4))


def test_a_header_that_is_changed_later_is_found_at_the_next_read(data_path, tmp_path):
    shutil.copytree(data_path, tmp_path / "data")
    dataset = ShardDataset(tmp_path / "data")
    rows = dataset.rows_of("b1", "train")[:3]
    starts, lengths = np.full(3, 1), np.full(3, 4)
    read_block(dataset, rows, starts, lengths)
    shard = tmp_path / "data" / dataset.manifest.shards[dataset.index.shard[rows[1]]].file
    with shard.open("r+b") as file:
        file.seek(int(dataset.index.signal_offset[rows[1]]))
        file.write(b"\x00")
    with pytest.raises(DatasetError, match=r"signal\.npy: not an \.npy array"):
        read_block(dataset, rows, starts, lengths)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_shard_that_is_cut_while_it_is_mapped_is_named_and_ends_nothing(data_path, tmp_path, share):
    """To read behind the end of a mapped file would end the process."""
    shutil.copytree(data_path, tmp_path / "data")
    dataset = ShardDataset(tmp_path / "data")
    rows = dataset.rows_of("a1", "train")
    starts, lengths = np.zeros(len(rows), dtype=int), np.full(len(rows), 4)
    read_block(dataset, rows, starts, lengths)
    shard = tmp_path / "data" / dataset.manifest.shards[dataset.index.shard[rows[-1]]].file
    with shard.open("r+b") as file:
        file.truncate(int(share * (dataset.index.signal_offset[rows[-1]] + 100)))
    with pytest.raises(DatasetError, match=rf"{shard.name}: .*signal\.npy: only \d+ of \d+ bytes.*cut short"):
        read_block(dataset, rows, starts, lengths)


def test_what_is_unusual_but_right_is_taken(data_path, monkeypatch):
    """As if another program had written the headers with other spaces."""
    dataset = ShardDataset(data_path)
    rows = dataset.rows_of("a1", "train")
    lengths = dataset.index.bins[rows].astype(int)
    usual = read_block(dataset, rows, np.zeros(len(rows), dtype=int), lengths)

    def spaced(dtype, bins, columns):
        stream = io.BytesIO()
        np.save(stream, np.zeros((bins, columns), dtype=dtype))
        return stream.getvalue()[:127] + b"!", 0

    monkeypatch.setattr(blocks, "_expected_header", spaced)
    unusual = read_block(dataset, rows, np.zeros(len(rows), dtype=int), lengths)
    np.testing.assert_array_equal(unusual.signal_NTC, usual.signal_NTC)
    np.testing.assert_array_equal(unusual.covariates_NTK, usual.covariates_NTK)
    assert unusual.keys == usual.keys


def test_memory_is_used_again_only_when_nobody_holds_it():
    buffers = Buffers()
    first = buffers.empty((3, 4), "uint8")
    place = first.ctypes.data
    part = first[1:]
    del first
    held = buffers.empty((3, 4), "uint8")
    assert held.ctypes.data != place, "a view of it is still there"
    del part
    assert buffers.empty((2, 6), "uint8").ctypes.data == place
    assert buffers.empty((3, 4), "float32").nbytes == 48


def test_batches_that_are_kept_do_not_change(corpus):
    rows = corpus.rows_of("a1", "train")
    lengths = np.full(len(rows), 4)
    kept = [corpus.read_block("a1", rows, np.full(len(rows), start), lengths).signal_NTC for start in range(4)]
    copies = [signal.copy() for signal in kept]
    for start in range(4):
        corpus.read_block("a1", rows, np.full(len(rows), 3 - start), lengths)
    for signal, copy in zip(kept, copies):
        np.testing.assert_array_equal(signal, copy)
