"""What looks wrong in a recording, guessed from its numbers: each line is a sentence for a person to judge.

Nothing is refused for it: a bursting culture is silent for minutes, and two channels may see the same neuron.
"""

import numpy as np
from scipy import sparse

from neurochorus.data_shards.recording import Recording

HIGHEST_RATE = 200.0
"Spikes per second over a whole recording, which hardly a neuron sustains."
ALIKE = 0.9
"Correlation of the counts of two units from which they are named as nearly the same."
LEAST_SPIKES = 30
"Units with fewer spikes are too few to compare."
PAIR_WORK = 2e8
"Products of pairs of active units that comparing units may cost; bins beyond that are left out."
MOST_BINS = 20_000
"Bins of a continuous signal that comparing its channels takes."
LEAST_COVERAGE = 0.5
LISTED = 4


def suspicions(recording: Recording) -> list[str]:
    """Return a sentence for all that looks wrong in one recording."""
    found = _covariates(recording)
    if recording.modality == "spikes":
        return [*_fast(recording), *_silent(recording), *_duplicates(recording), *_quiet(recording), *found]
    return [*_constant(recording), *_same_channels(recording), *found]


def _named(recording: Recording, units: np.ndarray) -> str:
    names = [recording.units[int(unit)].unit_id for unit in units[:LISTED]]
    return ", ".join(names) + (f" and {len(units) - LISTED} more" if len(units) > LISTED else "")


def _fast(recording: Recording) -> list[str]:
    rate_C = recording.signal_TC.mean(axis=0, dtype=np.float64) / recording.bin_s
    fast = np.flatnonzero(rate_C > HIGHEST_RATE)
    if not len(fast):
        return []
    return [
        f"{len(fast)} units fire more than {HIGHEST_RATE:g} spikes/s, up to {rate_C.max():.0f}: "
        f"{_named(recording, fast)}: is bin_s right, and are these single units?"
    ]


def _silent(recording: Recording) -> list[str]:
    silent = np.flatnonzero(~recording.signal_TC.any(axis=0))
    if not len(silent):
        return []
    return [f"{len(silent)} units never fire: {_named(recording, silent)}: units.min_rate would leave them out"]


def _duplicates(recording: Recording) -> list[str]:
    """Pairs of units with the same counts, or nearly, in the bins that are compared."""
    counts_TC = _compared(recording.signal_TC)
    products_CC = (counts_TC.T @ counts_TC).toarray()
    bins = counts_TC.shape[0]
    sums_C = np.asarray(counts_TC.sum(axis=0)).ravel()
    covariance_CC = products_CC - np.outer(sums_C, sums_C) / bins
    sd_C = np.sqrt(np.maximum(np.diag(covariance_CC), 1e-12))
    alike_CC = np.triu(covariance_CC / np.outer(sd_C, sd_C), 1)
    alike_CC[sums_C < LEAST_SPIKES] = 0
    pairs = np.argwhere(alike_CC > ALIKE)
    if not len(pairs):
        return []
    shown = ", ".join(
        f"{recording.units[one].unit_id} and {recording.units[other].unit_id} (correlation {alike_CC[one, other]:.3f})"
        for one, other in pairs[:LISTED].tolist()
    )
    more = f" and {len(pairs) - LISTED} more pairs" if len(pairs) > LISTED else ""
    return [f"{len(pairs)} pairs of units have nearly the same counts: {shown}{more}: one neuron found twice?"]


def _compared(signal_TC: np.ndarray) -> sparse.csr_matrix:
    """The first bins of a recording as a sparse float matrix, as many as may be compared."""
    pieces, work, step = [], 0.0, 4096
    for start in range(0, len(signal_TC), step):
        piece = sparse.csr_matrix(signal_TC[start : start + step].astype(np.float32))
        pieces.append(piece)
        work += float((np.diff(piece.indptr).astype(np.float64) ** 2).sum())
        if work > PAIR_WORK:
            break
    return sparse.csr_matrix(sparse.vstack(pieces))


def _quiet(recording: Recording) -> list[str]:
    """The longest stretch of a segment without any spike, where it is much longer than chance would make it."""
    active_T = np.concatenate([recording.signal_TC[s.start : s.stop].any(axis=1) for s in recording.segments])
    inside = np.concatenate([np.full(s.stop - s.start, number) for number, s in enumerate(recording.segments)])
    empty = float((~active_T).mean())
    if not 0 < empty < 1:
        return []
    breaks = np.flatnonzero(active_T | _first_of(inside))
    longest = int(np.diff(np.concatenate((breaks, [len(active_T)]))).max()) - 1
    expected = np.log(max(len(active_T), 2)) / -np.log(empty)
    if longest * recording.bin_s < 1.0 or longest < 5 * expected:
        return []
    return [
        f"no unit fires for {longest * recording.bin_s:.1f} s in a row ({longest} bins; chance would make about "
        f"{expected:.0f}): was the recording interrupted? `observed` in the recipe leaves such stretches out"
    ]


def _first_of(groups: np.ndarray) -> np.ndarray:
    return np.concatenate(([True], groups[1:] != groups[:-1]))


def _constant(recording: Recording) -> list[str]:
    constant = np.flatnonzero(recording.signal_TC.min(axis=0) == recording.signal_TC.max(axis=0))
    return [f"{len(constant)} channels never change: {_named(recording, constant)}"] if len(constant) else []


def _same_channels(recording: Recording) -> list[str]:
    rows = np.linspace(0, len(recording.signal_TC) - 1, min(MOST_BINS, len(recording.signal_TC))).astype(int)
    values_TC = recording.signal_TC[rows].astype(np.float32)
    values_TC = values_TC - values_TC.mean(axis=0)
    norm_C = np.maximum(np.sqrt((values_TC**2).sum(axis=0)), 1e-12)
    pairs = np.argwhere(np.triu((values_TC.T @ values_TC) / np.outer(norm_C, norm_C), 1) > 0.9999)
    if not len(pairs):
        return []
    names = [recording.units[unit].unit_id for unit in pairs[0].tolist()]
    return [f"{len(pairs)} pairs of channels hold the same signal, the first {names[0]} and {names[1]}: stored twice?"]


def _covariates(recording: Recording) -> list[str]:
    inside_T = np.zeros(len(recording.signal_TC), dtype=bool)
    for segment in recording.segments:
        inside_T[segment.start : segment.stop] = True
    found = []
    for name, values_TK in recording.covariates.items():
        values_TK = values_TK[inside_T]
        known = ~np.isnan(values_TK).any(axis=1)
        if known.mean() < LEAST_COVERAGE:
            found.append(
                f"covariate {name!r} is missing in {100 * (1 - known.mean()):.0f} % of the bins: "
                "are its times on the clock of the signal?"
            )
        if known.sum() > 1 and (values_TK[known].min(axis=0) == values_TK[known].max(axis=0)).all():
            found.append(f"covariate {name!r} never changes (it is {values_TK[known][0].tolist()})")
    return found
