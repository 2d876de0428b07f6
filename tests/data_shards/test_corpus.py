"""One corpus of several data sets: sessions that are in two of them, and what another process is sent of it."""

import dataclasses
import pickle
import time

import numpy as np
import pytest

from neurochorus.data_shards.batch import Collate
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError
from neurochorus.data_shards.loader import MicroBatches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.recording import Unit
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset


@pytest.fixture
def again(tmp_path, recordings, make_recording):
    """A data set with b1 once more, and with c1."""
    write_dataset([recordings[2], make_recording("c1", "cleo", 4, 12, 8)], tmp_path / "again", name="x", sample_bins=12)
    return tmp_path / "again"


def test_a_session_that_two_data_sets_hold_is_read_once_from_the_first(data_path, again):
    corpus = Corpus([data_path, again])
    assert [entry.session_id for entry in corpus.sessions] == ["a1", "a2", "b1", "c1"]
    assert corpus.repeated == {"b1": again}
    assert corpus.dataset_of("b1").path == data_path
    assert Corpus([again, data_path]).repeated == {"b1": data_path}
    first = Corpus(data_path)
    for split in ("train", "valid", "test"):
        assert corpus.rows_of("b1", split).tolist() == first.rows_of("b1", split).tolist()
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=2)
    assert plan.windows["b1"] == len(first.rows_of("b1", "train"))
    row = int(corpus.rows_of("c1", "valid")[0])
    assert corpus.read(row).session_id == "c1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": [Unit("x"), Unit("y"), Unit("z")]}, "unit_hash"),
        ({"subject_id": "berta"}, "subject_id bert and berta"),
        ({"bin_s": 0.01}, r"bin_s 0\.02 and 0\.01"),
    ],
)
def test_another_recording_of_the_same_name_is_refused(data_path, tmp_path, recordings, change, words):
    write_dataset([dataclasses.replace(recordings[2], **change)], tmp_path / "again", name="x", sample_bins=12)
    with pytest.raises(DatasetError, match=rf"'b1' is in .*small and again in .*again, with {words}.*leave one"):
        Corpus([data_path, tmp_path / "again"])


@pytest.mark.parametrize("what", ["split", "samples"])
def test_the_same_recording_with_another_split_is_refused(data_path, tmp_path, recordings, what):
    """Read as one, test trials of the one would be trained on by the other."""
    b1, bins = recordings[2], 12
    if what == "split":
        held_out = [dataclasses.replace(segment, split="train") for segment in b1.segments]
        b1 = dataclasses.replace(b1, segments=held_out)
    else:
        bins = 6
    write_dataset([b1], tmp_path / "again", name="x", sample_bins=bins)
    with pytest.raises(DatasetError, match=r"'b1' is in .*small and again in .*again, with other samples or"):
        Corpus([data_path, tmp_path / "again"])


def test_bins_wider_than_every_sample_are_refused(data_path):
    with pytest.raises(DatasetError, match=r"no sample of session 'a1' is as long as one bin of 20 s: make data.bin_s"):
        Corpus(data_path, 20.0)


def test_a_worker_is_sent_little_and_starts_anywhere_at_once(tmp_path, make_recording):
    """What is sent grows with the sessions, and neither with their samples nor with their units."""
    recordings = [make_recording(f"s{number}", f"m{number}", 40, 150, number) for number in range(4)]
    write_dataset(recordings, tmp_path / "many", name="many", sample_bins=3)
    corpus = Corpus(tmp_path / "many")
    assert len(corpus) > 2000
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=8, window_bins=2)
    registry = UnitRegistry.from_sessions(corpus.sessions)
    source = MicroBatches(corpus, plan, Collate(corpus.sessions, registry), 8)
    source[0]
    data = pickle.dumps(source)
    assert len(data) < 4000
    begun = time.perf_counter()
    batch = pickle.loads(data)[8 * 10**11]
    assert time.perf_counter() - begun < 1.0
    np.testing.assert_array_equal(batch.signal_BTC, source[8 * 10**11].signal_BTC)
