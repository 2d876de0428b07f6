"""Two plans as one: a fixed share of the groups comes from the second, spread as evenly as can be.

Of the first m groups floor(m * share) are the second plan's. So every stretch of G groups, such as a global batch,
holds floor or ceil of G * share of them, and each plan's own order is what it would be alone.
"""

import hashlib
import math

import numpy as np

from neurochorus.data_shards.plan import SamplePlan

_FRACTION_BITS = 32


class InterleavedPlan(SamplePlan):
    """`main` with a share of the groups, in (0, 1), of `other`, whose sessions are others."""

    def __init__(self, main: SamplePlan, other: SamplePlan, share: float):
        """Raises ValueError for plans that cannot be read side by side."""
        self._main, self._other = main, other
        self._share = math.ceil(
            share * 2**_FRACTION_BITS
        )  # an integer, so that machines agree; up, so that 0.9 is 9 of 10
        if not 0 < self._share < 2**_FRACTION_BITS:
            raise ValueError(f"share is {share}; expected a number above 0 and below 1")
        for name in ("group", "split", "window_bins"):
            if getattr(main, name) != getattr(other, name):
                raise ValueError(f"the plans differ in {name}: {getattr(main, name)} and {getattr(other, name)}")
        both = set(main.session_ids) & set(other.session_ids)
        if both:
            raise ValueError(f"session {min(both)!r} is in both plans: it belongs to one")
        self.session_ids = sorted([*main.session_ids, *other.session_ids])
        self.seed, self.group, self.alpha = main.seed, main.group, main.alpha
        self.split, self.window_bins = main.split, main.window_bins
        self.windows = main.windows | other.windows
        self.shares = {name: (1 - share) * part for name, part in main.shares.items()}
        self.shares |= {name: share * part for name, part in other.shares.items()}
        self._forget()

    def group_windows(self, number: int) -> tuple[str, np.ndarray]:
        """Return the session of group `number` (from 0, endless) and numbers of its windows, int64 (group,)."""
        before = self._others_before(number)
        if self._others_before(number + 1) > before:
            return self._other.group_windows(before)
        return self._main.group_windows(number - before)

    def drawn(self, samples_seen: int) -> dict[str, int]:
        """Return how many samples of each session are among the first so many of the run (whole groups)."""
        groups = samples_seen // self.group
        others = self._others_before(groups)
        return self._main.drawn((groups - others) * self.group) | self._other.drawn(others * self.group)

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with anything that changes the order (not with what the windows hold)."""
        parts = (self._main.fingerprint(), self._other.fingerprint(), str(self._share))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    def _others_before(self, number: int) -> int:
        return (number * self._share) >> _FRACTION_BITS
