from pathlib import Path
from typing import Any

import pytest

from neurochorus.data_shards.recipe import Recipe, read_recipe
from neurochorus.data_shards.settings import SettingsError, parse_settings

RECIPES = sorted((Path(__file__).parents[2] / "launch" / "configs" / "recipes").glob("*.yaml"))
TRIALS: dict[str, Any] = {
    "name": "lab",
    "importer": "npz",
    "bin_s": 0.01,
    "sample_bins": 40,
    "subject_id": {"key": "mouse"},
    "signal": {"layout": "trials", "key": "spikes"},
}
STRETCH = {"signal": {"layout": "continuous", "key": "x"}, "split": {"method": "blocks", "block_bins": 10}}
SPIKES: dict[str, Any] = {
    "signal": {"layout": "spike_times", "times": "t", "unit_index": "u"},
    "split": {"method": "blocks", "block_bins": 10},
}
SYNTHETIC: dict[str, Any] = {
    "name": "made",
    "importer": "synthetic",
    "bin_s": 0.01,
    "sample_bins": 40,
    "synthetic": {"system": "lorenz", "subjects": ["fox"]},
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_we_ship_is_valid(path: Path) -> None:
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampl_bins": 3}, r"sampl_bins: unknown key; did you mean 'sample_bins'\?"),
        ({"signal": {"layout": "trials", "kye": "spikes"}}, r"signal.kye: unknown key; did you mean 'key'\?"),
        ({"signal": None}, "signal: missing"),
        ({"signal": {"layout": "trials"}}, "signal.key: missing with the layout trials"),
        ({"signal": {"layout": "spike_times", "key": "x"}}, "signal.times: missing with the layout spike_times"),
        ({"signal": {"layout": "trials", "key": "x", "axes": ["bin", "unit"]}}, "signal.axes:"),
        ({"bin_s": -1}, "bin_s: -1"),
        ({"sample_bins": 0}, "sample_bins: 0"),
        ({"name": "a.b"}, r"name: 'a\.b'"),
        ({"session_id": "{stem.__class__}"}, "not a plain name"),
        ({"session_id": "{stem"}, "not a template"),
        ({"split": {"fractions": [0.5, 0.5]}}, "split.fractions"),
        (
            {"split": {"method": "blocks", "block_bins": 5}},
            "split.method: blocks; the layout trials takes random or given",
        ),
        ({"split": {"method": "given"}}, "split.key: set it"),
        ({"covariates": {"v": {"key": "v", "per": "time"}}}, "time: set it with per: time"),
        ({"covariates": {"v": {"key": "v", "per": "time", "time": "t"}}}, "time needs signal.bin_centers"),
        ({"covariates": {"a b": {"key": "v", "per": "bin"}}}, "covariates: 'a b'"),
        ({"synthetic": SYNTHETIC["synthetic"]}, "synthetic: not used by the npz importer"),
        (STRETCH | {"labels": {"x": {"key": "x"}}}, "labels: there are no trials"),
        (STRETCH | {"trials": {"start": "a", "stop": "b"}}, "trials: bins have no times without"),
        (
            SPIKES | {"trials": {"start": "a", "stop": "b"}},
            "split.method: blocks; .* cut into trials takes random or given",
        ),
        (SPIKES | {"trials": {"align": "a"}, "split": {}}, "trials.window_s: set it with align"),
        (
            SPIKES | {"trials": {"align": "a", "window_s": [1, 0]}, "split": {}},
            "trials.window_s: .*first before the second",
        ),
        (SPIKES | {"trials": {"start": "a"}, "split": {}}, "trials.stop: missing"),
        (SPIKES | {"units": {"where": "quality == good()"}}, "units.where: .* holds Call"),
        (SPIKES | {"units": {"id_replace": "_"}}, "units.id_pattern, id_replace: there is no id to change"),
        (SPIKES | {"signal": SPIKES["signal"] | {"unit_counts": "n"}}, "signal.unit_counts: not used with unit_index"),
        (SPIKES | {"signal": SPIKES["signal"] | {"time_scale": 0}}, "signal.time_scale: 0"),
        (
            {"signal": {"layout": "trials", "key": "x", "sampling": {"rate": 5}}},
            "signal.sampling: not used with the layout",
        ),
        ({"signal": {"layout": "trials", "split_keys": {"train": "x"}}}, "split.method: signal.split_keys says which"),
        ({"signal": {"layout": "trials", "split_keys": {"dev": "x"}}}, "signal.split_keys: .*expected train"),
        (
            STRETCH | {"signal": {"layout": "continuous", "key": "x", "sampling": {"rate": 1, "times": "t"}}},
            "signal.sampling.rate, times: set one of them",
        ),
        (
            STRETCH | {"signal": {"layout": "continuous", "key": "x", "sampling": {"rate": 9}, "reduce": "mean"}},
            "signal.reduce: a mean of spike counts is no count",
        ),
        ({"covariates": {"v": {"key": "v", "per": "event"}}}, "event needs signal.bin_centers or signal.sampling"),
        ({"covariates": {"v": {"key": "v", "per": "bin", "rate": 3}}}, "covariates.v.rate: set it with per: time"),
        ({"stem_pattern": "(?P<a"}, "stem_pattern: .*no regular expression"),
        ({"importer": "csvv"}, "importer: "),
        (STRETCH | {"covariates": {"v": {"key": "v", "per": "trial"}}}, "covariates.v.per: there are no trials"),
    ],
)
def test_a_recipe_that_cannot_work_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(Recipe, TRIALS | changes, "recipe.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthetic": None}, "synthetic: missing"),
        ({"signal": TRIALS["signal"]}, "signal: not used by the synthetic importer"),
        ({"bin_s": {"key": "bin_s"}}, "bin_s: a synthetic recording has no file"),
        ({"synthetic": {"system": "lorenz", "subjects": ["fox", "fox"]}}, "synthetic.subjects"),
        ({"synthetic": {"system": "lorenz", "subjects": ["fox.1"]}}, r"synthetic.subjects: 'fox\.1'"),
        ({"synthetic": {"system": "rossler", "subjects": ["fox"]}}, "synthetic.system"),
        ({"synthetic": {"system": "lorenz", "subjects": ["fox"], "units": [5, 3]}}, "synthetic.units"),
        ({"synthetic": {"system": "lorenz", "subjects": ["fox"], "trials": 0}}, "synthetic.trials: 0"),
        (
            {"synthetic": {"system": "linear_gaussian", "subjects": ["fox"], "linear_gaussian": {"decay": [1.0]}}},
            r"(?s)synthetic.linear_gaussian.decay, period_bins.*synthetic.linear_gaussian.decay: \[1.0\]",
        ),
    ],
)
def test_a_synthetic_recipe_that_cannot_work_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(Recipe, SYNTHETIC | changes, "recipe.yaml")


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(Recipe, TRIALS | {"sample_bins": 0, "name": "a b", "session_id": "{1}"}, "recipe.yaml")
    assert len(caught.value.problems) == 3


def test_overrides_are_put_over_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("{name: made, importer: synthetic, bin_s: 0.01, sample_bins: 40}")
    recipe = read_recipe(path, ["synthetic.system=lorenz", "synthetic.subjects=[fox, hare]", "sample_bins=20"])
    assert recipe.synthetic is not None
    assert recipe.synthetic.subjects == ["fox", "hare"]
    assert recipe.sample_bins == 20
