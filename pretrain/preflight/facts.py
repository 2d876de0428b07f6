"""What a rank finds on its node."""

import hashlib
import platform
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from neurochorus.data_shards.files import data_files
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.preflight.network import clock_offset, finds_the_same_folder
from neurochorus.pretrain.run_directory import version_of

PACKAGES = ("torch", "deepspeed", "neurochorus", "numpy")
SOURCE = Path(__file__).resolve().parent.parent.parent
UNREADABLE = "unreadable"
FOLDERS = ("data_shards", "models", "pretrain", "launch")


@dataclass(frozen=True)
class RankFacts:
    rank: int
    host: str
    device: str
    """Name and memory of the GPU, or how many threads a CPU rank has."""
    versions: dict[str, str]
    """Of Python and the packages that compute."""
    code: str
    """Hash of neurochorus' own source files."""
    data: dict[str, str]
    """Path of each data set -> hash of its manifest, or what is wrong with it here."""
    data_problems: tuple[str, ...]
    free_gib: float
    """Free space where run.dir is, or will be."""
    shares_run_dir: bool
    """Whether what rank 0 writes there is seen here."""
    clock_s: float = 0.0
    """How far this clock is ahead of that of rank 0."""


def facts_of_all_ranks(config: RunConfig, ranks: Ranks) -> list[RankFacts]:
    """By rank; the same list on all ranks, all of which must call it."""
    own = replace(_local_facts(config, ranks), clock_s=clock_offset(ranks))
    if not dist.is_initialized():
        return [own]
    gathered: list[RankFacts] = [own] * ranks.world
    dist.all_gather_object(gathered, own)
    return gathered


def _local_facts(config: RunConfig, ranks: Ranks) -> RankFacts:
    folder = nearest_existing(Path(config.run.dir))
    data, problems = read_data_sets(config.data.paths)
    return RankFacts(
        rank=ranks.rank,
        host=socket.gethostname(),
        device=describe_device(ranks.device),
        versions={"python": platform.python_version(), **{name: version_of(name) or "none" for name in PACKAGES}},
        code=code_hash(SOURCE),
        data=data,
        data_problems=tuple(problems),
        free_gib=shutil.disk_usage(folder).free / 2**30,
        shares_run_dir=finds_the_same_folder(folder, ranks),
    )


def read_data_sets(paths: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The hash of each data set's manifest, and what is missing; shards are looked at, but not read."""
    hashes: dict[str, str] = {}
    problems: list[str] = []
    for path in paths:
        try:
            files = data_files(path)
            manifest = files.manifest()
        except (ValueError, OSError) as error:
            hashes[path] = UNREADABLE
            problems.append(str(error))
            continue
        hashes[path] = manifest.hash()
        problems += [f"{path}: {problem}: copy it again" for problem in files.missing(manifest)]
    return hashes, problems


def code_hash(root: Path) -> str:
    """12 hex digits that change with any Python file of the package whose folders lie in `root`."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the first one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def describe_device(device: torch.device) -> str:
    if device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
