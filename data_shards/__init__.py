"""Recordings in, batches out: importers, the shard format, the order of samples, and what a model is given."""

from neurochorus.data_shards.batch import Batch, Collate, covariate_widths
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import Sample, ShardDataset
from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.importers import count_recordings, import_recordings
from neurochorus.data_shards.index import Index
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.manifest import Manifest, SessionEntry, ShardEntry, select_sessions
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.recording import SPLITS, Recording, Segment, Unit, unit_hash
from neurochorus.data_shards.registry import SessionRows, UnitRegistry
from neurochorus.data_shards.writer import write_dataset

__all__ = [
    "SPLITS",
    "Batch",
    "Collate",
    "Corpus",
    "DatasetError",
    "Earlier",
    "Index",
    "Manifest",
    "Recipe",
    "Recording",
    "Sample",
    "SamplePlan",
    "Segment",
    "SessionEntry",
    "SessionRows",
    "ShardDataset",
    "ShardEntry",
    "Unit",
    "UnitRegistry",
    "count_recordings",
    "covariate_widths",
    "evaluation_batches",
    "import_recordings",
    "read_recipe",
    "select_sessions",
    "training_batches",
    "unit_hash",
    "write_dataset",
]
