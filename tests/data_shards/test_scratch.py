"""Results larger than memory lie in scratch files, and everything after takes them as any other array."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.importers import import_recordings, scratch
from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.writer import write_dataset

RECIPE: dict[str, Any] = {
    "name": "lab",
    "importer": "npz",
    "bin_s": 0.1,
    "sample_bins": 20,
    "subject_id": "{stem}",
    "signal": {"layout": "spike_times", "times": "t", "unit_index": "u", "start_s": 0, "stop_s": 30},
    "units": {"min_rate": 0.5},
    "split": {"method": "blocks", "block_bins": 20},
}


@pytest.mark.parametrize("layout", ["spike_times", "continuous"])
def test_a_signal_in_a_scratch_file_makes_the_same_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    generator = np.random.default_rng(7)
    source = tmp_path / "source"
    source.mkdir()
    counts = generator.poisson(0.3, (300, 6)) * [1, 1, 1, 0, 1, 1]
    np.savez(
        source / "s01.npz", t=np.sort(generator.uniform(0, 30, 900)), u=generator.integers(0, 6, 900), counts=counts
    )
    changes: dict[str, Any] = {} if layout == "spike_times" else {"signal": {"layout": "continuous", "key": "counts"}}
    recipe = parse_settings(Recipe, RECIPE | changes, "recipe.yaml")
    in_memory = write_dataset(import_recordings(recipe, source), tmp_path / "a", name="lab", sample_bins=20)
    monkeypatch.setattr(scratch, "IN_MEMORY", 100)
    monkeypatch.setattr(scratch, "BLOCK", 512)
    (recording,) = import_recordings(recipe, source)
    assert isinstance(recording.signal_TC, np.memmap)
    on_disk = write_dataset([recording], tmp_path / "b", name="lab", sample_bins=20)
    assert [shard.sha256 for shard in on_disk.shards] == [shard.sha256 for shard in in_memory.shards]
    assert recording.provenance.get("dropped", {}).get("units", {}) == (
        {} if layout == "spike_times" else {"fewer than 0.5 spikes per second": 1}
    )


def test_a_scratch_file_leaves_nothing_behind_and_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "IN_MEMORY", 100)
    made = scratch.allocate((1000, 3), "float32", "s01.npz: 'x'")
    made[:] = 1
    assert made.sum() == 3000
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"s01\.npz: 'x': the signal would be of shape .* no room for it"):
        scratch.allocate((2**50, 2**9), "float32", "s01.npz: 'x'")


@pytest.mark.parametrize(
    ("name", "files", "sha256"),
    [
        ("hippocampus", "*.npz", "33c47d318bfeaf97"),
        ("steinmetz2019", "steinmetz_s0[57].npz", "67babe77ece0e957"),
    ],
)
def test_the_shards_of_the_first_recipes_never_change(
    tmp_path: Path, real_data: Any, name: str, files: str, sha256: str
) -> None:
    """The bytes that the first importer of this project wrote, before there was any other layout or format."""
    recipe_file = Path(__file__).parents[2] / "launch" / "configs" / "recipes" / f"{name}.yaml"
    recipe = read_recipe(recipe_file, [f"files='{files}'"])
    recordings = import_recordings(recipe, real_data(name))
    manifest = write_dataset(recordings, tmp_path / name, name=name, sample_bins=recipe.sample_bins)
    assert [shard.sha256[:16] for shard in manifest.shards] == [sha256]
