"""Settings that once started a run and broke it later, or changed what was trained without a word."""

from typing import Any

import pytest

from neurochorus.data_shards.settings import SettingsError, apply_overrides, parse_settings
from neurochorus.pretrain.config import RunConfig

STAGE = {"steps": 100}
MINIMAL: dict[str, Any] = {"run": {"dir": "x"}, "data": {"path": "y"}, "autoencoder": STAGE, "dynamics": STAGE}


@pytest.mark.parametrize(
    "override",
    [
        "model.autoencoder.latents=-1",
        "model.autoencoder.encoder.heads=0",
        "model.autoencoder.encoder.blocks=-1",
        "model.autoencoder.encoder.feedforward=0",
        "model.autoencoder.burn_in_bins=-1",
        "model.autoencoder.gain_memory_bins=0",
        "model.autoencoder.future_weights={1: -3}",
        "model.autoencoder.latent_l2=-1",
        "model.dynamics.transformer.width=0",
        "model.dynamics.history_noise=-1",
        "model.dynamics.history_scales=[1, 0]",
        "model.heads.energy.noise=0",
        "model.heads.flow.time_features=7",
        "autoencoder.weight_decay=.nan",
        "dynamics.table_weight_decay=-1",
        "dynamics.init=elsewhere",
        "train.gradient_clipping=-1",
        "train.max_skipped_steps=0",
        "train.max_hours=-1",
        "zero.persistence_threshold=-1",
        "deepspeed.checkpoint=3",
    ],
)
def test_a_setting_that_cannot_be_is_named(override: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(RunConfig, apply_overrides(MINIMAL, [override]), "test")
    assert override.partition("=")[0] in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_window_must_be_longer_than_what_is_not_scored() -> None:
    overrides = ["data.window_bins=5", "model.autoencoder.burn_in_bins=5"]
    with pytest.raises(SettingsError, match=r"data.window_bins: 5 leaves no bin to score .*burn_in_bins 5"):
        parse_settings(RunConfig, apply_overrides(MINIMAL, overrides), "test")


def test_a_joint_stage_needs_samples_that_a_gradient_passes_through() -> None:
    overrides = ["joint={steps: 2}", "model.head=langevin"]
    with pytest.raises(SettingsError, match="joint: samples of the langevin head are walks that no gradient passes"):
        parse_settings(RunConfig, apply_overrides(MINIMAL, overrides), "test")


def test_an_override_whose_value_is_no_yaml_is_named() -> None:
    with pytest.raises(SettingsError, match=r"'data.exclude=\[\"x' ?: the value is not valid YAML"):
        apply_overrides(MINIMAL, ['data.exclude=["x'])


def test_augmentations_that_cannot_be_are_named() -> None:
    jitter, hiding = "data.augment=[{name: bin_jitter}]", "data.augment=[{name: coordinated_dropout, span_bins: 4}]"
    with pytest.raises(SettingsError, match=r"data.augment: bin_jitter moves bins made of several .* set bin_s"):
        parse_settings(RunConfig, apply_overrides(MINIMAL, [jitter]), "test")
    parse_settings(RunConfig, apply_overrides(MINIMAL, [jitter, "data.bin_s=0.02"]), "test")
    with pytest.raises(SettingsError, match=r"data.augment: coordinated_dropout .*model.autoencoder.unit_dropout"):
        parse_settings(RunConfig, apply_overrides(MINIMAL, [hiding]), "test")
    parse_settings(RunConfig, apply_overrides(MINIMAL, [hiding, "model.autoencoder.unit_dropout=0"]), "test")
    with pytest.raises(SettingsError, match=r"data.augment\[0\].share: expected a share between 0 and 1, found 1.5"):
        parse_settings(RunConfig, apply_overrides(MINIMAL, ["data.augment=[{name: unit_dropout, share: 1.5}]"]), "test")
