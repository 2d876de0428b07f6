"""Batches for training: endless, and resumable by one integer.

The samples of a run are numbered; the plan says which sample a number stands for. From `samples_seen` on, micro-batch
number i holds the next `micro_batch` numbers after the first i micro-batches, and rank r of W takes the micro-batches
r, r + W, r + 2 W, ... So each global batch is the same whatever the number of ranks, of worker processes and of
micro-batches accumulated, and a run continues from the number of samples it has seen.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from neurochorus.data_shards.augment import AugmentStep, augmented, generator_for, shifts
from neurochorus.data_shards.batch import Batch, Collate, covariate_widths
from neurochorus.data_shards.blocks import Block
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError
from neurochorus.data_shards.earlier import EarlierActivity
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.windows import WindowTable, window_starts

Covariates = Mapping[str, int] | Sequence[str]


def training_batches(
    corpus: Corpus,
    plan: SamplePlan,
    registry: UnitRegistry,
    *,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    samples_seen: int = 0,
    covariates: Covariates = (),
    augment: Sequence[AugmentStep] = (),
    earlier_memory: float | None = None,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = True,
) -> Generator[Batch, None, None]:
    """Return the endless micro-batches of one rank, after the run (all ranks together) has seen `samples_seen` samples.

    With micro_batch == plan.group a micro-batch is of one session; a multiple of it mixes sessions and pads their
    units. Where a window is cut depends on (plan.seed, sample number), and what `augment` does to it on (plan.seed,
    number of the micro-batch's first sample). `earlier_memory`: batches also tell what came before their windows, with
    this time constant in bins (`EarlierActivity`). `covariates` are names, in the order of their columns, or names with
    widths where the sessions at hand may lack some. `samples_seen` must be a multiple of plan.group: any number of
    whole micro-batches is. Worker processes start at the first batch and end with `.close()`, with an error, or when
    nobody holds the generator any longer.

    Raises ValueError for numbers that do not fit together and for sessions the registry refuses, before reading
    anything; while iterating, DatasetError for a sample that cannot be read.
    """
    _check(plan, micro_batch, rank, world, samples_seen)
    entries = [corpus.session(session_id) for session_id in plan.session_ids]
    collate = Collate(entries, registry, _widths(corpus, covariates))
    earlier = None if earlier_memory is None else corpus.earlier(earlier_memory)
    batches = MicroBatches(corpus, plan, collate, micro_batch, augment, earlier)
    numbers = range(samples_seen + rank * micro_batch, sys.maxsize, world * micro_batch)
    pinned = pin_memory and torch.accelerator.is_available()
    if workers:
        return _from_workers(batches, numbers, workers, prefetch, pinned, plan.seed)
    return (batches[number].pin_memory() if pinned else batches[number] for number in numbers)


WHAT_TO_DO = (
    "If nobody ended it on purpose, memory ran out: lower data.workers or data.prefetch. The same command continues "
    "from the newest checkpoint."
)


class LostWorker(OSError):
    """A reader process of this rank ended, so that the batches it was to bring never come."""


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Raise LostWorker, which says what to do, where a reader process ends while inside.

    PyTorch notices by a signal, and raises a plain RuntimeError wherever the trainer happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error))
        if found is None:
            raise
        raise LostWorker(f"reader process {found[1]} of this rank {found[2].strip()} {WHAT_TO_DO}") from None


class MicroBatches(Dataset[Batch]):
    """Micro-batches by the number of their first sample in the run."""

    def __init__(
        self,
        corpus: Corpus,
        plan: SamplePlan,
        collate: Collate,
        micro_batch: int,
        augment: Sequence[AugmentStep] = (),
        earlier: EarlierActivity | None = None,
    ):
        self._corpus, self._plan, self._collate = corpus, plan, collate
        self._micro_batch, self._augment, self._earlier = micro_batch, list(augment), earlier
        self._windows = WindowTable(corpus, plan.split, plan.window_bins)

    def __getitem__(self, first_sample: int) -> Batch:
        generator = generator_for(self._plan.seed, first_sample) if self._augment else None
        group = self._plan.group
        firsts = range(first_sample, first_sample + self._micro_batch, group)
        blocks = [self._block(first, generator) for first in firsts]
        batch = self._collate.join(blocks)
        return batch if generator is None else augmented(batch, self._augment, generator)

    def _block(self, first_sample: int, generator: np.random.Generator | None) -> Block:
        plan, window_bins = self._plan, self._plan.window_bins
        session_id, numbers_N = plan.group_windows(first_sample // plan.group)
        rows_N, bins_N, slots_N = self._windows.find(session_id, numbers_N)
        starts_N = window_starts(plan.seed, first_sample, bins_N, slots_N, window_bins)
        lengths_N = bins_N - starts_N if window_bins is None else np.minimum(bins_N - starts_N, window_bins)
        shifts_N: np.ndarray | int = 0
        if generator is not None:
            slack_N = self._corpus.stored_bins_after(session_id, rows_N, starts_N + lengths_N)
            shifts_N = shifts(self._augment, generator, slack_N, self._corpus.factor_of(session_id))
        wanted = self._collate.wants_covariates(session_id)
        block = self._corpus.read_block(session_id, rows_N, starts_N, lengths_N, shifts_N, wanted, self._earlier)
        return block if window_bins is None else block.named(starts_N, bins_N > window_bins)


class _Carried(Dataset["Batch | DatasetError"]):
    """Hands an error over as an item: raised in a worker, torch would wrap its message into two tracebacks."""

    def __init__(self, batches: MicroBatches):
        self._batches = batches

    def __getitem__(self, first_sample: int) -> Batch | DatasetError:
        try:
            return self._batches[first_sample]
        except DatasetError as error:
            return error


def _from_workers(
    source: MicroBatches, numbers: Sequence[int], workers: int, prefetch: int, pin_memory: bool, seed: int
) -> Generator[Batch, None, None]:
    loader = DataLoader(
        _Carried(source),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin_memory,
        worker_init_fn=_heed_only_the_trainer,
        generator=torch.Generator().manual_seed(seed % 2**63),  # a loader without one draws from the global one
    )
    batches = iter(loader)
    try:
        for batch in _named_when_lost(batches):
            if isinstance(batch, DatasetError):
                raise batch
            yield batch
    finally:
        # an error's traceback keeps `batches` alive, and torch ends workers late when the garbage collector finds them
        shut_down = getattr(batches, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


def _named_when_lost(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; one that cannot be fetched since its worker ended in the meantime is a LostWorker."""
    while True:
        try:
            yield next(batches)
        except StopIteration:
            return
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            raise LostWorker(f"a reader process of this rank ended ({error!r}). {WHAT_TO_DO}") from error


def _heed_only_the_trainer(_worker: int) -> None:
    """Let a worker outlive signals to stop, unless they come from the trainer itself.

    A launcher or scheduler signals every process of a run, and the trainer needs batches until it has saved. But torch
    and multiprocessing end workers by SIGTERM too and then wait for them: ignoring that would hang a failed run.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    if trainer is not None and hasattr(signal, "sigwaitinfo"):  # not on macOS: there, workers end at any SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_on_sigterm_from, args=(trainer.pid,), daemon=True).start()


def _end_on_sigterm_from(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)


def _widths(corpus: Corpus, covariates: Covariates) -> Mapping[str, int]:
    return covariates if isinstance(covariates, Mapping) else covariate_widths(corpus.sessions, covariates)


def _check(plan: SamplePlan, micro_batch: int, rank: int, world: int, samples_seen: int) -> None:
    if micro_batch < 1 or micro_batch % plan.group:
        raise ValueError(
            f"micro_batch is {micro_batch}; expected a multiple of {plan.group}, the plan's group of samples of one "
            "session: change train.micro_batch, or the group"
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}: ranks count from 0 to world - 1")
    if samples_seen < 0 or samples_seen % plan.group:
        raise ValueError(
            f"samples_seen is {samples_seen}; expected a multiple of the plan's group of {plan.group}: the run that "
            "saved it had another micro_batch; resume with that one"
        )
