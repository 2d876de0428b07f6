"""The Lorenz protocol: its settings, its commands, and its table on made-up trials."""

import json
from pathlib import Path

import numpy as np
import pytest

from neurochorus.data_shards.recipe import read_recipe
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import read_settings
from neurochorus.launch import shard
from neurochorus.launch.lorenz_rows import ABLATION_ROWS, FIRST, ROWS, SLOWEST
from neurochorus.launch.lorenz_table import FLOOR, PERFECT, markdown, measure, pictures
from neurochorus.launch.results_lorenz import CONFIGS, RECIPE, Table, _finite, settings_over_base, stages
from neurochorus.models import NeuralModel, UnitStatistics, set_sampling
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.evaluation.whole_trials import WholeTrials
from tests.launch.test_pipeline import succeed
from tests.models.conftest import entry

TINY = ["synthetic.trials=100", "synthetic.units=[12, 12]", "synthetic.trial_bins=256"]


def test_the_recipe_is_that_of_ldns() -> None:
    recipe = read_recipe(RECIPE)
    assert recipe.synthetic is not None
    lorenz = recipe.synthetic.lorenz
    assert (recipe.synthetic.trials, recipe.synthetic.trial_bins, recipe.synthetic.units) == (5000, 256, [128, 128])
    assert [round(share * 5000) for share in recipe.split.fractions] == [3500, 500, 1000]
    assert (lorenz.burn_in_bins, lorenz.normalise, lorenz.mean_rate) == (100, "trajectory", None)
    # dysts: 100 points a period of 1.5008, both ends of the 356 points included
    assert lorenz.step == pytest.approx(1.5008 * 3.56 / 355, rel=1e-3)


EVERY_ROW = [*ROWS, *ABLATION_ROWS]


@pytest.mark.parametrize("name", sorted({row.run for row in EVERY_ROW}))
def test_the_settings_of_every_run_build(name: str) -> None:
    config = read_settings(RunConfig, CONFIGS / "base.yaml", settings_over_base(name))
    order = {"masked": "masked", "masked_wide": "masked", "diffusion": "diffusion"}.get(name, "causal")
    assert config.model.dynamics.order == order
    heads = {
        "shortcut": "flow",
        "flow_standard": "flow",
        "flow": "flow",
        "gaussian": "gaussian",
        "langevin": "langevin",
    }
    assert config.model.head == heads.get(name, "energy")
    base = read_settings(RunConfig, CONFIGS / "base.yaml")
    assert (config.model.autoencoder, config.train) == (base.model.autoencoder, base.train)
    assert config.model.dynamics.transformer == base.model.dynamics.transformer
    entries = [entry("lorenz_s1", "lorenz", 4)]
    model = NeuralModel(config.model, UnitRegistry.from_sessions(entries), UnitStatistics.of(entries))
    for row in EVERY_ROW:
        if row.run == name:
            set_sampling(model, row.sampling)


def test_only_the_first_run_of_a_seed_trains_an_autoencoder() -> None:
    table = Table("table", ROWS, [0, 1])
    autoencoders, others, trials = stages(Path("out"), "data", table, 7)
    assert [part.product for part in autoencoders] == [Path(f"out/seed{seed}/{FIRST}/export") for seed in (0, 1)]
    assert len(others) == 2 * (len({row.run for row in ROWS}) - 1)
    for part in others:
        assert f"autoencoder.init={part.product.parent.parent}/{FIRST}/autoencoder" in part.command
    assert len(trials) == 2 * (len(ROWS) + 1)
    assert len({part.product for part in trials}) == len(trials)
    assert f"trials, {SLOWEST}" in trials[0].title


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lorenz") / "data"
    assert shard.main(["--recipe", str(RECIPE), "--out", str(path), *TINY]) == 0
    return path


def test_the_table_of_made_up_trials(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files: dict[str, list[Path]] = {}
    for title, rate in (("too quiet", 0.05), (SLOWEST, 0.5)):
        files[title] = [tmp_path / f"{title.replace(' ', '-')}{seed}.npz" for seed in range(2)]
        for path in files[title]:
            WholeTrials(rng.poisson(rate, size=(20, 256, 12)), 10 * rate, 1.0, 1).write(path)
    results = measure(str(data), "lorenz_s1", files)
    assert list(results["rows"]) == [PERFECT, FLOOR, "too quiet", SLOWEST]
    for name, ratio in results["rows"][PERFECT]["ratio"].items():
        assert ratio == 1 or not np.isfinite(results["rows"][PERFECT]["mean"][name])
    assert results["rows"][SLOWEST]["ratio"]["mean_interval_rmse"] > 3
    assert results["rows"]["too quiet"]["latent_seconds_per_thousand"] == [25.0, 25.0]
    json.dumps(_finite({**results, "divergence": float("inf")}), allow_nan=False)
    table = markdown(results)
    assert f"| {SLOWEST} | 250.00 | 300.00 | 1 | 1 |" in table
    assert "| too quiet | 25.00 | 75.00 | 10 | 1 |" in table
    made = list(
        pictures(tmp_path, "table", str(data), "lorenz_s1", {title: paths[0] for title, paths in files.items()})
    )
    assert [path.name for path in made] == ["table-rasters.png", "table-statistics.png"]
    WholeTrials(np.ones((3, 256, 12)), 1.0, 1.0, 1).write(files["too quiet"][0])
    with pytest.raises(ValueError, match="3 trials, but 20 are held out"):
        measure(str(data), "lorenz_s1", files)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_command_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    arguments = ["--ablations", "--out", tmp_path, "--data", data, "--seeds", "0", "--trials", "20"]
    arguments += ["--set", "autoencoder.steps=3", "dynamics.steps=3", "checkpoint.every=2"]
    succeed("results_lorenz.py", *arguments)
    table = (tmp_path / "table.md").read_text()
    assert all(row.title in table for row in ROWS)
    assert all(row.title in (tmp_path / "ablations.md").read_text() for row in ABLATION_ROWS)
    again = succeed("results_lorenz.py", *arguments)
    assert "$ python" not in again
    assert (tmp_path / "table.md").read_text() == table
