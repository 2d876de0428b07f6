"""`launch/pretrain.py --check`: compare the nodes of a run, and say what is wrong, before it takes them."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import accumulation_steps
from neurochorus.pretrain.preflight import RankFacts, all_reduce_rate, differences, facts_of_all_ranks


def check(config: RunConfig, ranks: Ranks) -> None:
    """Print a table of the nodes on rank 0. Raises ValueError with everything that is wrong; all ranks must call it."""
    facts = facts_of_all_ranks(config, ranks)
    rate = all_reduce_rate(ranks)
    if ranks.first:
        Console(width=140, highlight=False).print(node_table(facts))
        print("all-reduce: one rank" if rate is None else f"all-reduce over {ranks.world} ranks: {rate:.2f} GB/s")
    problems = differences(facts, config.run.dir)
    try:
        accumulation_steps(config, ranks.world)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("this run cannot start as it is:\n  - " + "\n  - ".join(problems))
    if ranks.first:
        print(f"all {ranks.world} ranks are ready (launch/describe.py --verify reads every shard too)")


def node_table(facts: Sequence[RankFacts]) -> Table:
    """A line for each host and kind of device."""
    versions = list(facts[0].versions)
    table = Table("node", "ranks", "device", *versions, "code", "data", "free at run.dir", "clock", box=box.SIMPLE)
    kinds = dict.fromkeys((fact.host, fact.device) for fact in facts)
    for host, device in kinds:
        group = [fact for fact in facts if (fact.host, fact.device) == (host, device)]
        first = group[0]
        table.add_row(
            host,
            ", ".join(str(fact.rank) for fact in group),
            device,
            *(first.versions[name] for name in versions),
            first.code,
            " ".join(first.data.values()),
            f"{first.free_gib:.0f} GiB",
            f"{first.clock_s:+.3f} s",
        )
    return table
