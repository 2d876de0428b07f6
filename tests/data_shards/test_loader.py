"""One sequence of global batches, whatever the ranks, the worker processes and the restarts."""

import dataclasses
import itertools
import multiprocessing
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from neurochorus.data_shards.batch import Batch, Collate
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.loader import LostWorker, MicroBatches, lost_workers_named, training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.windows import WindowTable, window_starts


@pytest.fixture
def plan(corpus) -> SamplePlan:
    return SamplePlan.from_corpus(corpus, "train", seed=11, group=4)


@pytest.fixture
def cut_plan(corpus) -> SamplePlan:
    """Of windows of 5 bins: a sample of 12 is two of them."""
    return SamplePlan.from_corpus(corpus, "train", seed=11, group=4, window_bins=5)


def rows_of_group(corpus: Corpus, plan: SamplePlan, number: int) -> list[int]:
    table = WindowTable(corpus, plan.split, plan.window_bins)
    return table.find(*plan.group_windows(number))[0].tolist()


def take(batches, count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for ours, theirs in zip(left, right):
        for field in dataclasses.fields(Batch):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_worker_processes(corpus, cut_plan, registry, workers):
    options = {"micro_batch": 4, "covariates": ["speed"], "samples_seen": 8}
    alone = take(training_batches(corpus, cut_plan, registry, **options), 30)
    assert_same(take(training_batches(corpus, cut_plan, registry, workers=workers, **options), 30), alone)


def test_a_run_continues_from_any_step(corpus, cut_plan, registry, data_path):
    whole = take(training_batches(corpus, cut_plan, registry, micro_batch=4), 45)
    for step in range(0, 40, 3):
        fresh = Corpus(data_path)  # another process would open and plan everything anew
        again = SamplePlan.from_corpus(fresh, "train", seed=11, group=4, window_bins=5)
        rows = UnitRegistry.from_sessions(fresh.sessions)
        rest = training_batches(fresh, again, rows, micro_batch=4, samples_seen=4 * step)
        assert_same(take(rest, 5), whole[step : step + 5])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [4, 8])
def test_ranks_partition_the_same_global_batches(corpus, plan, registry, world, micro_batch):
    """Global batches of 32 samples: 32 / (micro_batch * world) micro-batches of each rank accumulate."""
    reference = [corpus.read(row).key for m in range(40) for row in rows_of_group(corpus, plan, m)]
    accumulation = 32 // (micro_batch * world)
    ranks = [
        training_batches(corpus, plan, registry, micro_batch=micro_batch, rank=rank, world=world)
        for rank in range(world)
    ]
    for step in range(5):
        parts = [[ids for batch in take(rank, accumulation) for ids in batch.sample_ids] for rank in ranks]
        assert {len(part) for part in parts} == {32 // world}
        assert Counter(itertools.chain(*parts)) == Counter(reference[32 * step : 32 * (step + 1)])


def test_another_number_of_ranks_goes_on_with_the_same_samples(corpus, plan, registry):
    whole = take(training_batches(corpus, plan, registry, micro_batch=4), 16)
    first = [take(training_batches(corpus, plan, registry, micro_batch=4, rank=r, world=4), 2) for r in range(4)]
    then = [
        take(training_batches(corpus, plan, registry, micro_batch=4, rank=r, world=2, samples_seen=32), 4)
        for r in range(2)
    ]
    joined = [first[r][i] for i in range(2) for r in range(4)] + [then[r][i] for i in range(4) for r in range(2)]
    assert_same(joined, whole)


def test_a_micro_batch_is_of_one_session_or_mixed(corpus, plan, registry):
    alone = take(training_batches(corpus, plan, registry, micro_batch=4), 60)
    assert {len(batch.session_B.unique()) for batch in alone} == {1}
    assert all(batch.unit_mask_BC.all() for batch in alone)
    assert {int(batch.session_B[0]) for batch in alone} == {1, 2, 3}
    mixed = take(training_batches(corpus, plan, registry, micro_batch=12), 20)
    assert max(len(batch.session_B.unique()) for batch in mixed) > 1
    ids = [ids for batch in alone for ids in batch.sample_ids]
    assert [ids for batch in mixed for ids in batch.sample_ids] == ids


def test_windows_are_the_plans_and_stay_inside_their_sample(corpus, cut_plan, registry):
    batches = take(training_batches(corpus, cut_plan, registry, micro_batch=4), 50)
    table = WindowTable(corpus, "train", 5)
    seen = set()
    for m, batch in enumerate(batches):
        name, numbers = cut_plan.group_windows(m)
        rows, bins, slots = table.find(name, numbers)
        starts = window_starts(11, 4 * m, bins, slots, 5)
        for i, (row, start) in enumerate(zip(rows.tolist(), starts.tolist())):
            sample = corpus.read(row)
            assert len(sample.signal_TC) == bins[i]
            np.testing.assert_array_equal(batch.signal_BTC[i], sample.signal_TC[start : start + 5].astype(np.int64))
            assert batch.sample_ids[i] == f"{sample.key}+{start}"
            seen.add((int(bins[i]), int(slots[i]), start))
        assert batch.bin_mask_BT.all()
    assert seen == {(7, 0, s) for s in range(3)} | {(12, 0, s) for s in range(4)} | {(12, 1, s) for s in range(4, 8)}


def test_only_the_split_that_was_planned_is_read(corpus, plan, registry):
    train = {corpus.read(int(row)).key for name in ("a1", "a2", "b1") for row in corpus.rows_of(name, "train")}
    seen = {
        ids for batch in take(training_batches(corpus, plan, registry, micro_batch=4), 100) for ids in batch.sample_ids
    }
    assert seen == train


def test_weights_by_session_subject_and_data_set(corpus):
    sizes = {name: len(corpus.rows_of(name, "train")) for name in ("a1", "a2", "b1")}
    overrides = {"subject:anna": 2.0, "a2": 3.0, "dataset:sm*": 5.0}
    plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=2, alpha=0.5, overrides=overrides)
    weights = {"a1": sizes["a1"] ** 0.5 * 2, "a2": sizes["a2"] ** 0.5 * 6, "b1": sizes["b1"] ** 0.5}
    for name, weight in weights.items():
        assert plan.shares[name] == pytest.approx(weight / sum(weights.values()))
    some = SamplePlan.from_corpus(corpus, "train", ["b1", "a1"], seed=0, group=2)
    assert some.session_ids == ["a1", "b1"]
    for bad, text in (
        ({"subject:ann": 2.0}, "subject:ann.*'anna'"),
        ({"dataset:x": 2.0}, "no data set"),
        ({"subject:anna": -1.0}, "positive factor"),
    ):
        with pytest.raises(ValueError, match=text):
            SamplePlan.from_corpus(corpus, "train", seed=0, group=2, overrides=bad)


def test_a_session_without_samples_in_the_split_is_named(corpus, monkeypatch):
    whole = Corpus.bins_of
    monkeypatch.setattr(
        Corpus, "bins_of", lambda self, name, split: whole(self, name, split)[: 0 if name == "b1" else 9]
    )
    with pytest.raises(ValueError, match=r"no valid samples \(b1\).*data\.exclude"):
        SamplePlan.from_corpus(corpus, "valid", seed=0, group=2)


def test_the_global_generators_are_left_alone(corpus, plan, registry):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002  # type: ignore[index]
    take(training_batches(corpus, plan, registry, micro_batch=4), 3)
    take(training_batches(corpus, plan, registry, micro_batch=4, workers=1), 1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002  # type: ignore[index]


def test_workers_outlive_signals_and_end_with_the_stream(corpus, plan, registry):
    batches = training_batches(corpus, plan, registry, micro_batch=4, workers=2)
    expected = take(training_batches(corpus, plan, registry, micro_batch=4), 30)
    got = take(batches, 2)  # one of each worker: both have begun
    processes = multiprocessing.active_children()
    assert len(processes) == 2
    for process, number in itertools.product(processes, ("TERM", "INT", "USR1")):
        subprocess.run(["kill", f"-{number}", str(process.pid)], check=True)
    assert_same(got + take(batches, 28), expected)
    batches.close()
    assert not any(process.is_alive() for process in processes)


def test_the_trainer_itself_can_end_its_workers(corpus, plan, registry):
    batches = training_batches(corpus, plan, registry, micro_batch=4, workers=1)
    take(batches, 1)
    (process,) = multiprocessing.active_children()
    process.terminate()
    process.join(5)
    assert process.exitcode == 0


def test_a_run_that_fails_ends_though_its_loader_is_alive(data_path):
    """Held by a global, the loader is still there when the interpreter ends, which must not wait for workers."""
    script = f"""
from neurochorus.data_shards import Corpus, SamplePlan, UnitRegistry, training_batches
corpus = Corpus({str(data_path)!r})
plan = SamplePlan.from_corpus(corpus, "train", seed=0, group=4)
batches = training_batches(
    corpus, plan, UnitRegistry.from_sessions(corpus.sessions), micro_batch=4, workers=2
)
next(batches)
raise RuntimeError("the run failed")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "the run failed" in result.stderr.splitlines()[-1]


def test_pinning_without_a_device_is_no_problem(corpus, plan, registry, recwarn):
    take(training_batches(corpus, plan, registry, micro_batch=4, pin_memory=True, workers=1), 2)
    assert not [warning for warning in recwarn if "pin" in str(warning.message)]


def test_a_damaged_sample_stops_the_run_by_name_also_from_a_worker(corpus, plan, registry, monkeypatch):
    offsets, sizes, checksums = corpus.datasets[0]._places["signal"]
    checksums = checksums.copy()
    checksums[rows_of_group(corpus, plan, 0)[1]] ^= 1
    corpus.datasets[0]._places["signal"] = offsets, sizes, checksums
    for workers in (0, 1):
        with pytest.raises(DatasetError, match=r"shard-\d+\.tar: .*signal\.npy: the checksum does not fit") as caught:
            take(training_batches(corpus, plan, registry, micro_batch=4, workers=workers), 1)
        assert "Traceback" not in str(caught.value), "torch puts a worker's traceback into the message"
        assert not multiprocessing.active_children(), "an error must not leave workers behind"


def test_a_shard_that_vanishes_is_named(corpus, plan, registry, data_path):
    batches = training_batches(corpus, plan, registry, micro_batch=4)
    next(batches)
    corpus.datasets[0].close()  # an open file would outlive its name
    for shard in data_path.glob("*.tar"):
        shard.rename(shard.with_suffix(".away"))
    with pytest.raises(DatasetError, match=r"shard-\d+\.tar: .* No such file .*copy the shard again"):
        take(batches, 1)
    for shard in data_path.glob("*.away"):
        shard.rename(shard.with_suffix(".tar"))


def test_a_killed_worker_is_named_with_what_to_do(corpus, plan, registry):
    batches = training_batches(corpus, plan, registry, micro_batch=4, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(LostWorker, match=r"reader process .*lower data.workers"), lost_workers_named():
        take(batches, 100)
    assert multiprocessing.active_children() == []


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="something else"), lost_workers_named():
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"micro_batch": 6}, "multiple of 4"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"micro_batch": 4, "samples_seen": 6}, "multiple of the plan's group of 4"),
        ({"micro_batch": 4, "rank": 2, "world": 2}, "rank 2 of 2"),
        ({"micro_batch": 4, "covariates": ["sped"]}, "'sped'.*'speed'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_at_once(corpus, plan, registry, options, text):
    with pytest.raises(ValueError, match=text):
        training_batches(corpus, plan, registry, **options)


def test_a_model_that_lacks_a_session_is_refused_at_once(corpus, plan):
    known = UnitRegistry.from_sessions(corpus.sessions[:2])
    with pytest.raises(ValueError, match=r"'b1': run launch/finetune\.py"):
        training_batches(corpus, plan, known, micro_batch=4)
    with pytest.raises(ValueError, match=r"'b1': run launch/finetune\.py"):
        evaluation_batches(corpus, known, "test")
    with pytest.raises(ValueError, match="batch_size"):
        evaluation_batches(corpus, known, "test", ["a1"], batch_size=0)
    assert list(evaluation_batches(corpus, known, "test", ["a1"]))


def test_what_a_worker_gets_may_be_pickled(corpus, cut_plan, registry):
    """As it must be where processes are spawned, not forked."""
    source = MicroBatches(corpus, cut_plan, Collate(corpus.sessions, registry), 4)
    again = pickle.loads(pickle.dumps(source))
    assert_same([again[number] for number in (0, 4, 40)], [source[number] for number in (0, 4, 40)])
