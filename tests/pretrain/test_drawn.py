"""What metrics.jsonl says of the mixture is what the loader has given."""

from collections import Counter
from pathlib import Path

import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset
from neurochorus.pretrain.watching.drawn import DrawnSamples
from tests.data_shards.conftest import small_recordings


def test_shares_and_epochs_are_those_of_the_samples_given(tmp_path: Path) -> None:
    write_dataset(small_recordings(), tmp_path / "data", name="small", sample_bins=12)
    corpus = Corpus(tmp_path / "data")
    plan = SamplePlan.from_corpus(corpus, "train", seed=1, group=4, window_bins=5, alpha=0.5, mixture="subject")
    drawn = DrawnSamples(plan, corpus, ["subject", "session", "subject", "dataset"])
    registry = UnitRegistry.from_sessions(corpus.sessions)
    batches, seen, subjects = training_batches(corpus, plan, registry, micro_batch=4), 0, Counter()
    for _ in range(37):
        batch = next(batches)
        seen += len(batch)
        subjects.update(registry.subjects[number - 1] for number in batch.subject_B.tolist())
    found = drawn.after(seen)
    assert found["share_by_subject"] == pytest.approx({name: count / seen for name, count in subjects.items()})
    windows = {"anna": plan.windows["a1"] + plan.windows["a2"], "bert": plan.windows["b1"]}
    assert found["epochs_by_subject"] == pytest.approx({name: subjects[name] / windows[name] for name in windows})
    assert set(found["epochs_by_session"]) == {"a1", "a2", "b1"}
    assert found["share_by_dataset"] == {"small": 1.0}
    assert drawn.after(0)["share_by_subject"] == {"anna": 0.0, "bert": 0.0}
