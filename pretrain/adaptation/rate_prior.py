"""Rates of units from few trials: a gamma prior learned from the units that a model was pretrained on.

A unit of session s and region r has a mean count per bin that is gamma with mean m_s f_rs and shape a. m_s is the
session's mean; f_rs, how much more a region's units fire than the session's, varies around f_r between sessions, and
f_r around mu between regions; log m_s varies between sessions of a subject and between subjects. All are estimated
from those units (empirical Bayes): a from how far the mean log rate lies below the log mean rate within a region of a
session, which few units of very high rate do not sway as they do the variance (Minka, Estimating a gamma distribution,
2002); the variance of f_rs by analysis of variance; that of f_r as DerSimonian and Laird (1986) do for studies of
unequal precision. The posterior mean of a unit's rate is then

    (spikes + a phi) / (bins + a phi / (m_s f_rs)).

phi >= 1 is the dispersion of the new session's counts between its trials (Pearson's chi^2 over its degrees of freedom,
McCullagh and Nelder 1989, section 4.5): units drift, and a spike then says less of the rate of trials to come.

C units of a session.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.registry import SessionRows, UnitRegistry, regions_of
from neurochorus.pretrain.adaptation.random_effects import RandomEffects

SHAPES = (0.2, 20.0)
"Shapes that are believed: outside of them a group of few units has misled."
LEAST_LOG_VARIANCE = 0.25
"Of a session's log mean rate, which a model of few sessions cannot know."
LEAST_RATE = 1e-6
LEAST_RELATIVE = 1e-3
"Rate of a unit over its session's below which it counts as silent, whose log means nothing."


@dataclass(frozen=True)
class Factor:
    """How much more units of a region fire than those of their session on average."""

    mean: float
    variance: float
    "Of one session's factor around the mean."


@dataclass(frozen=True)
class ShrunkRates:
    """Mean counts per bin of one session's units."""

    rate_C: np.ndarray
    "Posterior means."
    prior_C: np.ndarray
    "Prior means, those of a unit's region in its session."
    worth: float
    "a phi: what the prior is worth in this session, in spikes."


@dataclass(frozen=True)
class RatePrior:
    shape: float
    "a: what the prior is worth, in spikes."
    factors: dict[str, Factor]
    'Region -> its factor; "" is a region that is not known.'
    sessions: RandomEffects
    "Log mean rates of sessions, by subject."

    @classmethod
    def learned(cls, registry: UnitRegistry, unit_mean: Sequence[float] | np.ndarray) -> "RatePrior":
        """From the sessions of a model; `unit_mean` (1 + units,): mean counts per bin by row of the unit table."""
        means = np.maximum(np.asarray(unit_mean, dtype=np.float64), LEAST_RATE)
        own = [means[session.first_row : session.first_row + len(session.unit_ids)] for session in registry.sessions]
        scales = np.array([rates.mean() for rates in own])
        relative, groups = _grouped(registry.sessions, own, scales)
        sessions = RandomEffects.of(np.log(scales)[:, None], [session.subject_id for session in registry.sessions])
        return cls(_shape(relative), _factors(relative, groups), sessions)

    def rates(self, entry: SessionEntry, dispersion: float = 1.0) -> ShrunkRates:
        """Rates of a new session's units from its train counts; `dispersion`: phi."""
        regions, bins = regions_of(entry) or [""] * len(entry.units), max(1, entry.train_bins)
        raw_C = np.maximum(entry.unit_mean, 0.0)
        scale = self._scale(entry.subject_id, raw_C, bins)
        prior_C = np.empty_like(raw_C)
        for region in dict.fromkeys(regions):
            chosen_C = np.array([own == region for own in regions])
            prior_C[chosen_C] = scale * self._factor_here(region, raw_C[chosen_C] / scale, scale * bins)
        worth = self.shape * dispersion
        rate_C = (raw_C * bins + worth) / (bins + worth / prior_C)
        return ShrunkRates(rate_C, prior_C, worth)

    def _scale(self, subject: str, raw_C: np.ndarray, bins: int) -> float:
        """The session's mean rate: its own, as far as its spikes tell it, else what others of its subject have."""
        spikes, units = float(raw_C.sum()) * bins, len(raw_C)
        own, noise = np.log((spikes + 0.5) / (bins * units)), 1 / (self.shape * units) + 1 / (spikes + 0.5)
        mean_K, variance_K = self.sessions.expected(subject)
        variance = max(float(variance_K[0]), LEAST_LOG_VARIANCE)
        return float(np.exp(mean_K[0] + variance / (variance + noise) * (own - mean_K[0])))

    def _factor_here(self, region: str, relative_C: np.ndarray, spikes_a_unit: float) -> float:
        """The region's factor in a session: what its units there say, shrunk to the region's own."""
        prior = self.factors.get(region, self.factors[""])
        # relative variance of the mean of so many units, each seen through Poisson counts
        noise = (1 / self.shape + 1 / max(spikes_a_unit * prior.mean, 1e-9)) / len(relative_C)
        trust = prior.variance / (prior.variance + prior.mean**2 * noise)
        return max(prior.mean + trust * (float(relative_C.mean()) - prior.mean), 1e-3 * prior.mean)


def dispersion_of(corpus: Corpus, session_id: str) -> float:
    """phi of the train samples of a session of counts, each unit counting alike; 1 where there are fewer than two."""
    rows, lengths = corpus.rows_of(session_id, "train"), corpus.bins_of(session_id, "train")
    if len(rows) < 2:
        return 1.0
    counts_SC = np.stack([corpus.read(row, with_meta=False).signal_TC.sum(axis=0) for row in rows.tolist()])
    counts_SC = counts_SC[:, counts_SC.any(axis=0)].astype(np.float64)
    if not counts_SC.size:
        return 1.0
    expected_SC = np.outer(lengths / lengths.sum(), counts_SC.sum(axis=0))
    squared_SC = np.square(counts_SC - expected_SC) / np.maximum(expected_SC, 1e-12)
    return max(1.0, float(squared_SC.sum() / (counts_SC.shape[1] * (len(rows) - 1))))


def _grouped(
    sessions: Iterable[SessionRows], own: Sequence[np.ndarray], scales: np.ndarray
) -> tuple[list[np.ndarray], list[str]]:
    """Rates relative to their session's mean, of every region of every session, and which region each is."""
    relative, groups = [], []
    for session, rates, scale in zip(sessions, own, scales, strict=True):
        regions = np.array(session.regions or [""] * len(rates), dtype=object).astype(str)
        for region in np.unique(regions):
            relative.append(rates[regions == region] / scale)
            groups.append(str(region))
    return relative, groups


def _shape(relative: Sequence[np.ndarray]) -> float:
    several = [np.maximum(values, LEAST_RELATIVE) for values in relative if len(values) > 1]
    if not several:
        return 1.0
    # of n values the log of the mean is too small by var / (2 n mean^2) on average, as is the sum of n for n - 1
    gaps = sum(len(values) * float(np.log(values.mean()) - np.log(values).mean()) for values in several)
    gap = gaps / sum(len(values) - 1 for values in several)
    if gap < 1e-9:
        return SHAPES[1]
    return float(np.clip((3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap), *SHAPES))


def _factors(relative: Sequence[np.ndarray], groups: Sequence[str]) -> dict[str, Factor]:
    """Region -> factor, shrunk to the mean over regions; "" for one that no session had."""
    named = [(values, region) for values, region in zip(relative, groups, strict=True) if region]
    if not named:
        return {"": Factor(1.0, 0.0)}
    sizes_G = np.array([len(values) for values, _ in named], dtype=np.float64)
    means_G = np.array([values.mean() for values, _ in named])
    squares = sum(float(np.square(values - values.mean()).sum()) for values, _ in named)
    unit_variance = squares / max(1.0, sizes_G.sum() - len(named))
    regions, number_G = np.unique([region for _, region in named], return_inverse=True)
    within = _between_sessions(sizes_G, means_G, number_G, unit_variance)
    weight_G = 1 / np.maximum(within + unit_variance / sizes_G, 1e-9)
    weight_R = np.bincount(number_G, weight_G)
    means_R = np.bincount(number_G, weight_G * means_G) / weight_R
    between = _of_unequal_precision(means_R, weight_R)
    total_R = 1 / (1 / weight_R + between)
    overall = float((total_R * means_R).sum() / total_R.sum())
    trust_R = between / (between + 1 / weight_R)
    shrunk_R, left_R = overall + trust_R * (means_R - overall), between * (1 - trust_R)
    found = {str(name): Factor(float(m), within + float(v)) for name, m, v in zip(regions, shrunk_R, left_R)}
    return found | {"": Factor(overall, within + between)}


def _between_sessions(sizes_G: np.ndarray, means_G: np.ndarray, number_G: np.ndarray, unit_variance: float) -> float:
    """Variance of a region's factor between sessions, by analysis of variance."""
    sizes_R = np.bincount(number_G, sizes_G)
    means_R = np.bincount(number_G, sizes_G * means_G) / sizes_R
    balance = float((sizes_R - np.bincount(number_G, sizes_G**2) / sizes_R).sum())
    if balance <= 0:
        return 0.0
    spread = float((sizes_G * np.square(means_G - means_R[number_G])).sum())
    return max(0.0, (spread - (len(sizes_G) - len(sizes_R)) * unit_variance) / balance)


def _of_unequal_precision(means_R: np.ndarray, weight_R: np.ndarray) -> float:
    """Variance between means whose precisions are known (DerSimonian and Laird 1986, equation 8)."""
    total = float(weight_R.sum())
    balance = total - float(np.square(weight_R).sum()) / total
    if len(means_R) < 2 or balance <= 0:
        return 0.0
    spread = float((weight_R * np.square(means_R - (weight_R * means_R).sum() / total)).sum())
    return max(0.0, (spread - (len(means_R) - 1)) / balance)
