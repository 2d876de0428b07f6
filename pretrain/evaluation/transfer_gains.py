"""Which sessions gain from pretraining, and what sets them apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.registry import regions_of
from neurochorus.pretrain.evaluation.transfer import ByArm, best_arm, fraction_text, over_seeds

FACTS = {
    "units": "units",
    "rate": "mean count a unit and second",
    "train bins": "bins of the whole train split",
    "known regions": "share of units in regions that the sources recorded",
}
"""What is known of a session, and what it means."""


def session_facts(entry: SessionEntry, sources: Sequence[SessionEntry]) -> dict[str, float | None]:
    """Facts of a target session; `sources`: the sessions that the model was pretrained on.

    The share of known regions is None where units have no region.
    """
    known = {region for source in sources for region in regions_of(source) or [] if region}
    own = [region for region in regions_of(entry) or [] if region]
    return {
        "units": float(len(entry.units)),
        "rate": float(np.mean(entry.unit_mean)) / entry.bin_s,
        "train bins": float(entry.train_bins),
        "known regions": sum(region in known for region in own) / len(own) if own else None,
    }


def transfer_gains(
    arms: ByArm, fractions: Sequence[float], facts: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any]:
    """What the best adaptation gains over the best training from scratch, session by session.

    The best of each are those with the best mean over sessions at a fraction. `rank_correlations` are Spearman's over
    sessions, between a fact and the gain; None with fewer than three sessions or where either is constant. They are
    found after the fact, one for each fact and fraction: hints at what to look into, no tests.
    """
    by_fraction: dict[str, Any] = {}
    for fraction in fractions:
        text = fraction_text(fraction)
        rows = {arm: over_seeds(scores.get(text, {})) for arm, scores in arms.items()}
        best = [best_arm(arms, fraction, from_scratch) for from_scratch in (False, True)]
        if best[0] is None or best[1] is None:
            continue
        adapted, scratch = best[0][0], best[1][0]
        gain = {
            session: one - other
            for session, one in rows[adapted].items()
            if one is not None and (other := rows[scratch].get(session)) is not None
        }
        by_fraction[text] = {
            "adapted": adapted,
            "scratch": scratch,
            "gain": gain,
            "rank_correlations": {name: _correlation(gain, facts, name) for name in FACTS},
        }
    return {"facts": {session: dict(known) for session, known in facts.items()}, "by_fraction": by_fraction}


def _correlation(gain: Mapping[str, float], facts: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    pairs = [(value, found) for session, value in gain.items() if (found := facts[session][name]) is not None]
    columns = np.array(pairs, dtype=float).reshape(-1, 2).T
    if columns.shape[1] < 3 or (np.ptp(columns, axis=1) == 0).any():
        return None
    return float(np.asarray(spearmanr(columns[0], columns[1]))[0])


def gains_markdown(gains: Mapping[str, Any], subjects: Mapping[str, str]) -> str:
    """A row a session, the greatest gains first; `subjects`: session -> subject."""
    texts = list(gains["by_fraction"])
    if not texts:
        return ""
    heads = [
        f"gain at {100 * float(text):g} %: {one['adapted']}, over {one['scratch']}"
        for text, one in gains["by_fraction"].items()
    ]
    lines = ["| session | subject | " + " | ".join([*FACTS.values(), *heads]) + " |"]
    lines.append("|---" * (2 + len(FACTS) + len(texts)) + "|")
    mean = {
        session: float(
            np.mean([one["gain"][session] for one in gains["by_fraction"].values() if session in one["gain"]])
        )
        for session in gains["facts"]
        if any(session in one["gain"] for one in gains["by_fraction"].values())
    }
    for session in sorted(mean, key=lambda name: -mean[name]):
        known = ["" if value is None else _shown(value) for value in gains["facts"][session].values()]
        values = [one["gain"].get(session) for one in gains["by_fraction"].values()]
        cells = [*known, *("" if value is None else f"{value:+.4f}" for value in values)]
        lines.append(f"| {session} | {subjects[session]} | " + " | ".join(cells) + " |")
    for name, meaning in FACTS.items():
        found = [one["rank_correlations"][name] for one in gains["by_fraction"].values()]
        cells = [""] * len(FACTS) + ["" if value is None else f"{value:+.2f}" for value in found]
        lines.append(f"| *rank correlation with {meaning}* | | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
