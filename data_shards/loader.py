"""Batches for training (endless, resumable by one integer) and for evaluation (every sample once, in order).

The samples of a run are numbered; the plan says which sample a number stands for. From `samples_seen` on, micro-batch
number i holds the next `micro_batch` numbers after the first i micro-batches, and rank r of W takes the micro-batches
r, r + W, r + 2 W, ... So each global batch is the same whatever the number of ranks, of worker processes and of
micro-batches accumulated, and a run continues from the number of samples it has seen.
"""

import itertools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from neurochorus.data_shards.batch import Batch, Collate, covariate_widths
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import DatasetError
from neurochorus.data_shards.plan import SamplePlan, window_start
from neurochorus.data_shards.registry import UnitRegistry

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
    window_bins: int | None = None,
    covariates: Covariates = (),
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = True,
) -> Generator[Batch, None, None]:
    """Return the endless micro-batches of one rank, after the run (all ranks together) has seen `samples_seen` samples.

    With micro_batch == plan.group a micro-batch is of one session; a multiple of it mixes sessions and pads their
    units. Samples longer than `window_bins` are cut to it at a place that depends on (plan.seed, sample number).
    `covariates` are names, in the order of their columns, or names with widths where the sessions at hand may lack
    some. `samples_seen` must be a multiple of plan.group: any number of whole micro-batches is. Worker processes start
    at the first batch and end with `.close()`, with an error, or when nobody holds the generator any longer.

    Raises ValueError for numbers that do not fit together and for sessions the registry refuses, before reading
    anything; while iterating, DatasetError for a sample that cannot be read.
    """
    _check(plan, micro_batch, rank, world, samples_seen, window_bins)
    entries = [corpus.session(session_id) for session_id in plan.session_ids]
    collate = Collate(entries, registry, _widths(corpus, covariates))
    loader = DataLoader(
        _Carried(MicroBatches(corpus, plan, collate, micro_batch, window_bins)),
        batch_size=None,
        sampler=_FirstSamples(samples_seen + rank * micro_batch, world * micro_batch),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory and torch.accelerator.is_available(),
        worker_init_fn=_heed_only_the_trainer,
        generator=torch.Generator().manual_seed(plan.seed % 2**63),  # a loader without one draws from the global one
    )
    return _batches(loader)


def evaluation_batches(
    corpus: Corpus,
    registry: UnitRegistry,
    split: str,
    sessions: Sequence[str] | None = None,
    batch_size: int = 64,
    window_bins: int | None = None,
    covariates: Covariates = (),
) -> Iterator[Batch]:
    """Return every sample of a split once, session by session (None: all sessions) and in order of time.

    A batch is of one session and has at most `batch_size` samples; samples longer than `window_bins` are cut to their
    first bins. Raises ValueError, before reading anything, for sessions that corpus or registry refuse.
    """
    if batch_size < 1 or (window_bins is not None and window_bins < 1):
        raise ValueError(f"batch_size ({batch_size}) and window_bins ({window_bins}) must be at least 1")
    chosen = [entry.session_id for entry in corpus.sessions] if sessions is None else list(sessions)
    collate = Collate([corpus.session(name) for name in chosen], registry, _widths(corpus, covariates))
    rows = [corpus.rows_of(name, split) for name in chosen]
    parts = (part[i : i + batch_size].tolist() for part in rows for i in range(0, len(part), batch_size))
    return (collate([corpus.read(row, with_meta=False) for row in part], window_bins=window_bins) for part in parts)


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
        self, corpus: Corpus, plan: SamplePlan, collate: Collate, micro_batch: int, window_bins: int | None = None
    ):
        self._corpus, self._plan, self._collate = corpus, plan, collate
        self._micro_batch, self._window_bins = micro_batch, window_bins

    def __getitem__(self, first_sample: int) -> Batch:
        plan = self._plan
        first_group = first_sample // plan.group
        groups = range(first_group, first_group + self._micro_batch // plan.group)
        rows = [row for group in groups for row in plan.group_rows(group)[1].tolist()]
        samples = [self._corpus.read(row, with_meta=False) for row in rows]
        starts = [
            window_start(plan.seed, first_sample + i, len(sample.signal_TC), self._window_bins)
            for i, sample in enumerate(samples)
        ]
        return self._collate(samples, starts, self._window_bins)


class _Carried(Dataset["Batch | DatasetError"]):
    """Hands an error over as an item: raised in a worker, torch would wrap its message into two tracebacks."""

    def __init__(self, batches: MicroBatches):
        self._batches = batches

    def __getitem__(self, first_sample: int) -> Batch | DatasetError:
        try:
            return self._batches[first_sample]
        except DatasetError as error:
            return error


class _FirstSamples:
    """The numbers of the first samples of one rank's micro-batches, endless."""

    def __init__(self, first: int, step: int):
        self._first, self._step = first, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first, self._step)


def _batches(loader: DataLoader[Any]) -> Generator[Batch, None, None]:
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


def _check(
    plan: SamplePlan, micro_batch: int, rank: int, world: int, samples_seen: int, window_bins: int | None
) -> None:
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
    if window_bins is not None and window_bins < 1:
        raise ValueError(f"window_bins is {window_bins}; expected at least 1 bin, or nothing for whole samples")
