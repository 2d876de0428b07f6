"""What is wrong with the nodes of a run, in words that name the node and the remedy."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from neurochorus.pretrain.preflight.facts import UNREADABLE, RankFacts

LEAST_FREE_GIB = 2.0
CLOCK_SECONDS = 5.0


def differences(facts: Sequence[RankFacts], run_dir: str) -> list[str]:
    """One sentence a problem; none when the run can start."""
    found = []
    for name in facts[0].versions:
        found += _odd_ones(facts, f"{name} is", lambda fact, name=name: fact.versions[name], "install the same version")
    found += _odd_ones(facts, "the code of neurochorus is", lambda fact: fact.code, "bring it to the same commit")
    for path in facts[0].data:
        remedy = "copy the data set again, or correct data.path"
        readable = [fact for fact in facts if fact.data[path] != UNREADABLE]  # what is wrong with others is said below
        found += _odd_ones(readable, f"data {path} is", lambda fact, path=path: fact.data[path], remedy)
    for host, group in _by_host(facts).items():
        found += [f"{host}: {problem}" for problem in dict.fromkeys(p for fact in group for p in fact.data_problems)]
        if not all(fact.shares_run_dir for fact in group):
            found.append(
                f"{host}: run.dir {run_dir}: what rank 0 writes there is not seen here: it must be writable, and on a "
                "file system that all nodes share"
            )
        free = min(fact.free_gib for fact in group)
        if free < LEAST_FREE_GIB:
            found.append(f"{host}: only {free:.1f} GiB are free at run.dir {run_dir}: free some, or use another disk")
        ahead = max((fact.clock_s for fact in group), key=abs)
        if abs(ahead) > CLOCK_SECONDS:
            found.append(f"{host}: its clock is {ahead:+.1f} s from that of rank 0: let NTP set it")
    return found


def _odd_ones(facts: Sequence[RankFacts], what: str, value: Callable[[RankFacts], Hashable], remedy: str) -> list[str]:
    """A sentence for each host whose value is not that of most ranks."""
    usual = next((found for found, _ in Counter(map(value, facts)).most_common(1)), None)
    return [
        f"{host}: {what} {odd}, elsewhere {usual}: {remedy}"
        for host, group in _by_host(facts).items()
        for odd in dict.fromkeys(value(fact) for fact in group)
        if odd != usual
    ]


def _by_host(facts: Sequence[RankFacts]) -> dict[str, list[RankFacts]]:
    hosts: dict[str, list[RankFacts]] = {}
    for fact in facts:
        hosts.setdefault(fact.host, []).append(fact)
    return hosts
