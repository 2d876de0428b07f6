"""A small training run for two nodes, and what it has left behind."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.nodes import Node
from tests.launch.test_pipeline import CONFIG, RECIPE, succeed

ENDLESS = "autoencoder.steps=100000"


def prepare(folder: Path) -> Path:
    """Make the data set and the configuration of the runs; returns the configuration."""
    (folder / "recipe.yaml").write_text(RECIPE)
    succeed("shard.py", "--recipe", folder / "recipe.yaml", "--out", folder / "data")
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("data: {path: unused", f"data: {{path: {folder / 'data'}"))
    return config


def what_runs(nodes: Sequence[Node]) -> list[str]:
    """Command lines of ranks, their reader processes and launchers on the nodes."""
    return [line for node in nodes for line in node.processes().values() if "launch/pretrain.py" in line]


def steps_done(run: Path) -> int:
    """How many lines metrics.jsonl has: one a step, also of steps that a later part of the run repeats."""
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def saved_its_last_step(run: Path) -> bool:
    """Whether the newest complete checkpoint is of the last step that was trained."""
    complete = max((run / "checkpoints" / "autoencoder").glob("step_*/COMPLETE.json"), default=None)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    return complete is not None and complete.parent.name == f"step_{last:08d}"


def refuse_other_losses(run: Path) -> None:
    """Raise AssertionError when a step that was repeated after an interruption had another loss than before it."""
    first: dict[tuple[str, int], float] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        step = json.loads(line)
        assert first.setdefault((step["stage"], step["step"]), step["loss"]) == step["loss"], step
