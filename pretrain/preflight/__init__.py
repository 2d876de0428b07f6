"""Before a run: do all nodes have the same code, versions and data, and can they reach each other and the disk?"""

from neurochorus.pretrain.preflight.comparison import differences
from neurochorus.pretrain.preflight.facts import RankFacts, facts_of_all_ranks
from neurochorus.pretrain.preflight.network import all_reduce_rate

__all__ = ["RankFacts", "all_reduce_rate", "differences", "facts_of_all_ranks"]
