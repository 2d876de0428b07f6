"""What a run has been given so far: the share of samples and the epochs of each source, from the plan alone."""

from collections import Counter
from collections.abc import Iterable, Mapping

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.plan import Mixture, SamplePlan, sources_of


class DrawnSamples:
    """Realised mixture of one stage, without a word between ranks: the order of samples is a pure function."""

    def __init__(self, plan: SamplePlan, corpus: Corpus, kinds: Iterable[Mixture]):
        """`kinds`: by what samples are counted, each once."""
        self._plan = plan
        self._sources = {kind: sources_of(corpus, plan.session_ids, kind) for kind in dict.fromkeys(kinds)}

    def after(self, samples_seen: int) -> dict[str, dict[str, float]]:
        """`epochs_by_KIND` and `share_by_KIND`, each a mapping from source, after so many samples of the run."""
        drawn = self._plan.drawn(samples_seen)
        found: dict[str, dict[str, float]] = {}
        for kind, sources in self._sources.items():
            found[f"epochs_by_{kind}"] = epochs_by_source(self._plan, drawn, sources)
            by_source = _summed(drawn, sources)
            found[f"share_by_{kind}"] = {name: count / max(1, samples_seen) for name, count in by_source.items()}
        return found


def epochs_by_source(plan: SamplePlan, drawn: Mapping[str, int], sources: Mapping[str, str]) -> dict[str, float]:
    """Samples drawn of each source (sessions map to sources) over the windows that it has."""
    there = _summed(plan.windows, sources)
    return {name: count / there[name] for name, count in _summed(drawn, sources).items()}


def _summed(counts: Mapping[str, int], sources: Mapping[str, str]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for session_id, count in counts.items():
        sums[sources[session_id]] += count
    return dict(sums)
