"""The built-in animals of the demo, written once."""

from pathlib import Path

from neurochorus.data_shards.importing import import_dataset
from neurochorus.data_shards.recipe import read_recipe
from neurochorus.data_shards.remote import is_url
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks

RECIPE = Path(__file__).resolve().parent / "configs" / "recipes" / "demo.yaml"


def ensure_demo_data(config: RunConfig, ranks: Ranks) -> None:
    """Write the demo's data set where `config` looks for it, unless it is there (rank 0; the others wait)."""
    if is_url(config.data.paths[0]):
        return
    place = Path(config.data.paths[0])
    if ranks.first and not place.exists():
        import_dataset(read_recipe(RECIPE, []), None, place)
    ranks.barrier()
