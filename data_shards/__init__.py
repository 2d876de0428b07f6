"""Recordings in, batches out: importers, the shard format, the order of samples, and what a model is given."""

from neurochorus.data_shards.importers import count_recordings, import_recordings
from neurochorus.data_shards.index import Index
from neurochorus.data_shards.manifest import Manifest, SessionEntry, ShardEntry, select_sessions
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.recording import SPLITS, Recording, Segment, Unit, unit_hash
from neurochorus.data_shards.writer import write_dataset

__all__ = [
    "SPLITS",
    "Index",
    "Manifest",
    "Recipe",
    "Recording",
    "Segment",
    "SessionEntry",
    "ShardEntry",
    "Unit",
    "count_recordings",
    "import_recordings",
    "read_recipe",
    "select_sessions",
    "unit_hash",
    "write_dataset",
]
