from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.importers import import_recordings
from neurochorus.data_shards.importers.phy import PhySource, sample_rate
from neurochorus.data_shards.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "launch" / "configs" / "recipes" / "phy.yaml"
TIMES = np.array([10, 20, 30, 40, 50, 60, 70, 80])
CLUSTERS = np.array([2, 7, 2, 9, 7, 4, 9, 2])


def write_sorting(folder: Path) -> Path:
    """Clusters 2 (good), 4 (no label), 7 (mua) and 9 (noise); templates tell 7 and 2 apart no longer."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "spike_times.npy", TIMES[:, None].astype(np.uint64))  # as Kilosort 2 writes them
    np.save(folder / "spike_clusters.npy", CLUSTERS.astype(np.int32))
    np.save(folder / "spike_templates.npy", np.zeros(8, dtype=np.uint32))
    (folder / "params.py").write_text("dat_path = 'raw.bin'\nn_channels_dat = 385\nsample_rate = 30000.\nhp = True\n")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n7\tmua\n9\tnoise\n")
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n2\tgood\n4\tmua\n7\tgood\n9\tgood\n")
    (folder / "cluster_info.tsv").write_text(
        "cluster_id\tdepth\tch\tgroup\n2\t120.5\t3\tmua\n4\t\t4\t\n7\t80\t5\tmua\n9\t1\t6\tnoise\n"
    )
    return folder


def test_clusters_and_labels(tmp_path: Path) -> None:
    with PhySource(write_sorting(tmp_path / "s1")) as source:
        assert source.array("cluster_id").tolist() == [2, 4, 7]
        assert source.array("group").tolist() == ["good", "unsorted", "mua"]
        assert source.array("KSLabel").tolist() == ["good", "mua", "good"]
        assert source.array("ch").tolist() == [3, 4, 5]
        np.testing.assert_array_equal(source.array("depth"), [120.5, np.nan, 80.0])
        assert source.array("spike_times").tolist() == [10, 20, 30, 50, 60, 80]
        assert source.array("spike_unit").tolist() == [0, 2, 0, 2, 1, 0]
        assert source.number("sample_rate") == 30_000
        assert source.number("seconds_per_sample") == 1 / 30_000
        assert source.notes == [
            "1 of 4 clusters are labelled noise and left out, with 2 of 8 spikes (units.where can name 'noise' to keep "
            "them)"
        ]
        assert "time_scale" in source.info("spike_times").note


def test_noise_can_be_kept(tmp_path: Path) -> None:
    with PhySource(write_sorting(tmp_path), keep_noise=True) as source:
        assert source.array("group").tolist() == ["good", "unsorted", "mua", "noise"]
        assert len(source.array("spike_times")) == 8


def test_templates_where_nothing_was_curated(tmp_path: Path) -> None:
    folder = write_sorting(tmp_path)
    (folder / "spike_clusters.npy").unlink()
    for table in folder.glob("*.tsv"):
        table.unlink()
    with PhySource(folder) as source:
        assert source.array("cluster_id").tolist() == [0]
        assert source.array("group").tolist() == ["unsorted"]
        assert "there is no spike_clusters.npy" in source.notes[0]


def test_spikes_out_of_order_are_sorted(tmp_path: Path) -> None:
    folder = write_sorting(tmp_path)
    np.save(folder / "spike_times.npy", TIMES[[1, 0, 2, 3, 4, 5, 6, 7]])
    with PhySource(folder, keep_noise=True) as source:
        assert source.array("spike_times").tolist() == TIMES.tolist()
        assert source.array("spike_unit")[:2].tolist() == [2, 0]
        assert "goes back 1 times" in source.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_rate = float(open('/etc/passwd').read())", "sample_rate is .* expected a plain positive number"),
        ("import os; os.abort(); sample_rate = -1", "expected a plain positive number"),
        ("dat_path = 'x'", "names no sample_rate"),
        ("sample_rate = = 3", "cannot be read"),
        ("# " + "x" * 200_000, "no list of settings"),
        ("(" * 5000, "cannot be read"),
    ],
)
def test_params_are_parsed_and_never_run(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        sample_rate(path)


def test_params_run_nothing(tmp_path: Path) -> None:
    path, witness = tmp_path / "params.py", tmp_path / "ran"
    path.write_text(f"open({str(witness)!r}, 'w')\nsample_rate = 2.5e4\n")
    assert sample_rate(path) == 25_000
    assert not witness.exists()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("spike_times.npy", TIMES[:5], "has 5 spikes but there are clusters for 8"),
        ("spike_times.npy", TIMES / 3, "expected a whole number for each spike"),
        ("spike_clusters.npy", np.ones((4, 2), dtype=int), "expected a whole number for each spike"),
        ("spike_times.npy", np.array([{}], dtype=object), "cannot be read as an .npy file"),
    ],
)
def test_damaged_arrays_are_named(tmp_path: Path, name: str, values: np.ndarray, message: str) -> None:
    folder = write_sorting(tmp_path)
    np.save(folder / name, values, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        PhySource(folder)


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    folder = write_sorting(tmp_path)
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\nx\tgood\n")
    with pytest.raises(ValueError, match=r"cluster_group\.tsv: line 2 has no whole number"):
        PhySource(folder)
    (folder / "cluster_group.tsv").write_text("group\ngood\n")
    with pytest.raises(ValueError, match="expected cluster_id among them"):
        PhySource(folder)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"spike_times\.npy: is missing"):
        PhySource(tmp_path)


def test_sessions_by_the_recipe(tmp_path: Path) -> None:
    for name in ("s1", "s2"):
        folder = write_sorting(tmp_path / name)
        np.save(folder / "spike_times.npy", TIMES * 3000)  # 1 s and more, at 30 kHz
    first, second = import_recordings(read_recipe(RECIPE, ["split={method: blocks, block_bins: 50}"]), tmp_path)
    assert (first.session_id, second.session_id) == ("s1", "s2")
    assert [(unit.unit_id, unit.columns) for unit in first.units] == [("2", {"group": "good"})]
    assert np.flatnonzero(first.signal_TC[:, 0]).tolist() == [50, 150, 400]
    assert first.provenance["dropped"]["units"] == {"where group == 'good'": 2}
    assert "labelled noise and left out, with 2 of 8 spikes" in first.provenance["notes"][0]


def test_a_recipe_can_ask_for_noise(tmp_path: Path) -> None:
    write_sorting(tmp_path / "s1")
    recipe = read_recipe(RECIPE, ["units.where='group == \"noise\"'", "split={method: blocks, block_bins: 50}"])
    (recording,) = import_recordings(recipe, tmp_path)
    assert recording.unit_ids == ["9"]
