"""The order of samples as a pure function: any group of any run, without a state to save.

A sample is one window (windows.py). Group number m is `group` samples of one session. Each session has an endless
stream, its windows in a new permutation every epoch, cut into groups. Sessions take turns in rounds: after r rounds
session s has had

    groups_s(r) = floor(r * quota_s + phase_s),    quota_s proportional to N_s ** alpha * n_s / N_s * factor_s,

with n_s the windows of the session and N_s those of its source: itself, its subject or its data set (`mixture`),

so shares are exact to one group at every r, and r alone gives the place in every stream. The phase, in [0, 1) and
fixed by (seed, session), keeps small sessions from all taking their turn in the same rounds. Within a round the order
is a permutation keyed on (seed, round). Quotas are integers of 2 ** -32, so ranks on different machines agree.

Everything random is a function of (seed, what it is for, counters): Philox (Salmon et al. 2011) keyed by a hash.
Permutations sort its raw output, because numpy keeps that stable across versions, not `Generator.permutation`.
"""

import fnmatch
import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurochorus.data_shards.manifest import select_sessions
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.seeds import keyed_bits
from neurochorus.data_shards.windows import WindowTable

if TYPE_CHECKING:
    from neurochorus.data_shards.corpus import Corpus

Mixture = Literal["session", "subject", "dataset"]

PLAN_VERSION = 2
MEAN_GROUPS_A_ROUND = 4
"Groups that a session of average weight contributes to a round."

_FRACTION_BITS = 32
_ROUNDS_KEPT = 4


def keyed_permutation(count: int, *parts: int | str) -> np.ndarray:
    """Return a permutation of range(count) (int64) that depends on all the parts."""
    draws = np.random.Philox(key=keyed_bits(*parts)).random_raw(count)
    return np.argsort(draws, kind="stable")


@dataclass(frozen=True)
class _Round:
    """One round laid out: which session (its number) has each slot, and which group of its stream lies there."""

    first_group: int
    session: np.ndarray
    stream_group: np.ndarray


class SamplePlan:
    """The order of all samples of a run, by random access. Small, whatever the data: it holds a number a session.

    `windows` maps session ids to how many windows they have. The share of session s among the samples is
    N_s ** alpha * n_s / N_s times the factors of all the `overrides` (id pattern -> factor) that match it, over the
    sum: alpha 1 visits every window equally often, 0 every source. `sources` maps sessions to their sources (None: each
    is its own). Raises ValueError naming what is at fault.
    """

    def __init__(
        self,
        windows: Mapping[str, int],
        seed: int,
        group: int,
        alpha: float = 1.0,
        overrides: Mapping[str, float] | None = None,
        sources: Mapping[str, str] | None = None,
    ):
        if group < 1:
            raise ValueError(f"group is {group}; expected at least 1 sample a group")
        if not math.isfinite(alpha):
            raise ValueError(f"alpha is {alpha}; expected a finite number (1: by size, 0: every source alike)")
        self.session_ids = sorted(windows)
        "Sorted: the order in which sessions were given does not change the plan."
        self.seed, self.group, self.alpha = seed, group, alpha
        self.windows = {name: int(windows[name]) for name in self.session_ids}
        "Session id -> windows of an epoch."
        self.split, self.window_bins = "train", None
        self._refuse_empty()
        self.shares = self._shares(overrides or {}, sources or {})
        "Session id -> its share of all samples; they sum to 1."
        scale = MEAN_GROUPS_A_ROUND * len(self.session_ids) * 2**_FRACTION_BITS
        self._quotas = np.array([round(self.shares[name] * scale) for name in self.session_ids], dtype=object)
        # python integers: r * quota passes 2 ** 63 in a long run
        self._phases = np.array(
            [keyed_bits(seed, "phase", name) >> (128 - _FRACTION_BITS) for name in self.session_ids], dtype=object
        )
        for name, quota in zip(self.session_ids, self._quotas):
            if quota == 0:
                raise ValueError(
                    f"session {name!r}: its share of the samples, {self.shares[name]:g}, is too small to be planned: "
                    "raise its factor, or leave it out"
                )
        self._forget()

    split: str
    "Which split the windows are of, and below how long they are at most (None: whole samples)."
    window_bins: int | None

    @classmethod
    def from_corpus(
        cls,
        corpus: "Corpus",
        split: str,
        sessions: Iterable[str] | None = None,
        *,
        seed: int,
        group: int,
        window_bins: int | None = None,
        alpha: float = 1.0,
        mixture: Mixture = "session",
        overrides: Mapping[str, float] | None = None,
    ) -> "SamplePlan":
        """Plan over windows of one split of some sessions of a corpus (None: all).

        alpha acts on the windows of each session, subject or data set (`mixture`). A key of `overrides` is a pattern of
        session ids, of subjects (`subject:PATTERN`) or of data set names (`dataset:PATTERN`); one that matches nothing
        is a ValueError, and so is a session without samples in the split.
        """
        table = WindowTable(corpus, split, window_bins)
        chosen = [entry.session_id for entry in corpus.sessions] if sessions is None else list(sessions)
        factors = dict.fromkeys(chosen, 1.0)
        for pattern, factor in (overrides or {}).items():
            _check_factor(pattern, factor)
            for session_id in _matching_sessions(corpus, chosen, pattern):
                factors[session_id] *= factor
        windows = {session_id: table.count(session_id) for session_id in chosen}
        empty = [session_id for session_id, count in windows.items() if not count]
        if empty:
            raise ValueError(
                f"{len(empty)} sessions have no {split} samples ({', '.join(empty[:5])}): exclude them (data.exclude), "
                "or write the data set with another split"
            )
        changed = {name: factor for name, factor in factors.items() if factor != 1.0}
        plan = cls(windows, seed, group, alpha, changed, sources_of(corpus, chosen, mixture))
        plan.split, plan.window_bins = split, window_bins
        return plan

    def group_windows(self, number: int) -> tuple[str, np.ndarray]:
        """Return the session of group `number` (from 0, endless) and numbers of its windows, int64 (group,)."""
        if number < 0:
            raise ValueError(f"group number {number}: groups count from 0")
        layout = self._round_holding(number)
        slot = number - layout.first_group
        session_id = self.session_ids[layout.session[slot]]
        return session_id, self._stream(session_id, int(layout.stream_group[slot]) * self.group)

    def sample_window(self, sample_number: int) -> tuple[str, int]:
        """Return the session and the number of the window that is sample `sample_number` of the run."""
        session_id, windows = self.group_windows(sample_number // self.group)
        return session_id, int(windows[sample_number % self.group])

    def drawn(self, samples_seen: int) -> dict[str, int]:
        """Return how many samples of each session are among the first so many of the run (whole groups)."""
        groups = samples_seen // self.group
        layout = self._round_holding(groups)
        had = self._groups_after(self._round_number(groups))
        had = had + np.bincount(layout.session[: groups - layout.first_group], minlength=len(had))
        return {name: int(count) * self.group for name, count in zip(self.session_ids, had)}

    def epochs(self, samples_seen: int) -> dict[str, float]:
        """Return how often each session has been gone through after so many samples of the run (whole groups)."""
        return {name: count / self.windows[name] for name, count in self.drawn(samples_seen).items()}

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with anything that changes the order (not with what the windows hold)."""
        settings = (PLAN_VERSION, MEAN_GROUPS_A_ROUND, self.seed, self.group, self.split, self.window_bins)
        digest = hashlib.sha256(" ".join(map(str, settings)).encode())
        for name, quota in zip(self.session_ids, self._quotas):
            digest.update(f"\n{name} {quota} {self.windows[name]}".encode())
        return digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rounds", "_epochs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._rounds: OrderedDict[int, _Round] = OrderedDict()
        self._epochs: dict[str, tuple[int, np.ndarray]] = {}

    def _refuse_empty(self) -> None:
        if not self.session_ids:
            raise ValueError("a plan needs at least one session: none was given")
        for name, count in self.windows.items():
            if count < 1:
                raise ValueError(f"session {name!r}: expected windows, found {count}: exclude it")

    def _shares(self, overrides: Mapping[str, float], sources: Mapping[str, str]) -> dict[str, float]:
        sizes: Counter[str] = Counter()
        for name, count in self.windows.items():
            sizes[sources.get(name, name)] += count
        weights = {}
        for name, count in self.windows.items():
            size = sizes[sources.get(name, name)]
            weights[name] = float(size) ** self.alpha * (count / size)
        for pattern, factor in overrides.items():
            matches = [pattern] if pattern in self.windows else fnmatch.filter(self.session_ids, pattern)
            if not matches:
                raise ValueError(
                    f"the weight override {pattern!r} matches no session; "
                    f"{nearest_hint(pattern, self.session_ids, 'sessions')}"
                )
            _check_factor(pattern, factor)
            for name in matches:
                weights[name] *= factor
        total = math.fsum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def _groups_after(self, rounds: int) -> np.ndarray:
        """How many groups each session has had after that many rounds (object array of integers)."""
        return (rounds * self._quotas + self._phases) >> _FRACTION_BITS

    def _round_number(self, group_number: int) -> int:
        """The round that holds a group: the last one that begins at or before it and is not empty."""
        # the total after r rounds lies within one group a session of r * sum(quotas)
        total_quota, slack = int(self._quotas.sum()), len(self.session_ids)
        low = max(0, ((group_number - slack) << _FRACTION_BITS) // total_quota - 1)
        high = ((group_number + 1 + slack) << _FRACTION_BITS) // total_quota + 1
        while high - low > 1:
            middle = (low + high) // 2
            if int(self._groups_after(middle).sum()) <= group_number:
                low = middle
            else:
                high = middle
        return low

    def _round_holding(self, group_number: int) -> _Round:
        for layout in self._rounds.values():
            if 0 <= group_number - layout.first_group < len(layout.session):
                return layout
        number = self._round_number(group_number)
        before, after = self._groups_after(number), self._groups_after(number + 1)
        counts = (after - before).astype(np.int64)
        in_order = np.repeat(np.arange(len(counts)), counts)
        place_in_session = np.arange(len(in_order)) - np.repeat(np.cumsum(counts) - counts, counts)
        session = in_order[keyed_permutation(len(in_order), self.seed, "round", number)]
        # the slots of a session, from left to right, hold its groups in the order of its stream
        stream_group = np.empty(len(session), dtype=np.int64)
        stream_group[np.argsort(session, kind="stable")] = np.repeat(before.astype(np.int64), counts) + place_in_session
        layout = _Round(int(before.sum()), session, stream_group)
        self._rounds[number] = layout
        if len(self._rounds) > _ROUNDS_KEPT:
            self._rounds.popitem(last=False)
        return layout

    def _stream(self, session_id: str, position: int) -> np.ndarray:
        """Windows at [position, position + group) of a session's endless stream; may reach into later epochs."""
        pieces, missing = [], self.group
        while missing:
            epoch, offset = divmod(position, self.windows[session_id])
            piece = self._epoch_order(session_id, epoch)[offset : offset + missing]
            pieces.append(piece)
            position, missing = position + len(piece), missing - len(piece)
        return np.concatenate(pieces).astype(np.int64)

    def _epoch_order(self, session_id: str, epoch: int) -> np.ndarray:
        kept = self._epochs.get(session_id)
        if kept is None or kept[0] != epoch:
            count = self.windows[session_id]
            order = keyed_permutation(count, self.seed, "epoch", session_id, epoch).astype(np.int32)
            kept = self._epochs[session_id] = (epoch, order)
        return kept[1]


def sources_of(corpus: "Corpus", sessions: Iterable[str], kind: Mixture) -> dict[str, str]:
    """Return which source each session belongs to: itself, its subject, or the name of its data set."""
    if kind == "session":
        return {name: name for name in sessions}
    if kind == "subject":
        return {name: corpus.session(name).subject_id for name in sessions}
    return {name: corpus.dataset_of(name).manifest.name for name in sessions}


def _check_factor(pattern: str, factor: float) -> None:
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(
            f"the weight override {pattern!r} is {factor}; expected a positive factor "
            "(to leave sessions out, use data.exclude)"
        )


def _matching_sessions(corpus: "Corpus", chosen: list[str], pattern: str) -> list[str]:
    if not pattern.startswith("dataset:"):
        return select_sessions([corpus.session(session_id) for session_id in chosen], [pattern])
    names = {session_id: corpus.dataset_of(session_id).manifest.name for session_id in chosen}
    wanted = pattern.removeprefix("dataset:")
    matches = [session_id for session_id, name in names.items() if fnmatch.fnmatchcase(name, wanted)]
    if not matches:
        raise ValueError(
            f"the pattern {pattern!r} matches no data set; {nearest_hint(wanted, set(names.values()), 'data sets')}"
        )
    return matches
