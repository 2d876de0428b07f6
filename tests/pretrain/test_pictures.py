"""The picture of a head, the numbers printed in it, and the file that it is drawn from."""

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials, read_generated_trials
from neurochorus.pretrain.evaluation.held_out_comparison import (
    autocorrelation,
    disjoint_halves,
    distances_from_held_out,
    fano_factors,
)
from neurochorus.pretrain.evaluation.picture_style import head_colour, method_colours, png_bytes
from neurochorus.pretrain.evaluation.pictures import fan_coverage, head_picture, slowest_channels, unit_order


def made_up(
    trials: int = 12, samples: int = 12, context: int = 6, horizon: int = 9, units: int = 7, data: int = 0, **more: Any
) -> dict[str, Any]:
    """Arrays of an npz file whose generated counts come from the same process as the recorded ones."""
    rng = np.random.default_rng(data)
    rates = 0.2 + rng.random(units)
    drive = np.exp(0.5 * rng.standard_normal((samples + 1, trials, 1, 1)))
    counts = rng.poisson(np.broadcast_to(rates * drive, (samples + 1, trials, horizon, units))).astype(np.uint16)
    arrays = {
        "latents": rng.standard_normal((samples, trials, horizon, 4)).astype(np.float32),
        "rates": np.broadcast_to(rates, (samples, trials, horizon, units)).astype(np.float32),
        "counts": counts[:samples],
        "context": rng.poisson(rates, (trials, context, units)).astype(np.uint16),
        "held_out": counts[samples],
        "held_out_latents": rng.standard_normal((trials, horizon, 4)).astype(np.float32),
        "unit_ids": np.array([f"u{unit}" for unit in range(units)]),
        "sample_ids": np.array([f"s{trial}" for trial in range(trials)]),
    }
    scalars = {"session_id": "otter_1", "subject_id": "otter", "head": "energy", "modality": "spikes", "bin_s": 0.01}
    return arrays | scalars | {"seed": 3, "temperature": 1.0} | more


def written(tmp_path: Path, arrays: dict, without: tuple[str, ...] = ()) -> Path:
    path = tmp_path / "generated.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if name not in without})
    return path


def read(tmp_path: Path, without: tuple[str, ...] = (), **more: Any) -> GeneratedTrials:
    return read_generated_trials(written(tmp_path, made_up(**more), without))


def painted(path_or_bytes: bytes, tmp_path: Path) -> np.ndarray:
    (tmp_path / "picture.png").write_bytes(path_or_bytes)
    return imread(tmp_path / "picture.png")[:, :, :3]


def share_of(image: np.ndarray, colour: str) -> float:
    """Share of pixels of exactly this colour, to a level of a byte."""
    wanted = np.array(to_rgb(colour))
    return float((np.abs(image - wanted).max(axis=2) < 1.5 / 255).mean())


def test_picture_shows_generated_and_recorded_activity(tmp_path):
    image = painted(png_bytes(head_picture(read(tmp_path))), tmp_path)
    assert share_of(image, head_colour("energy")) > 5e-4
    assert share_of(image, "#1f2430") > 5e-4
    assert share_of(image, head_colour("flow")) == 0


def test_same_trials_give_the_same_bytes_and_leave_matplotlib_alone(tmp_path):
    before, trials = dict(matplotlib.rcParams), read(tmp_path)
    assert png_bytes(head_picture(trials)) == png_bytes(head_picture(trials))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("without", "more"),
    [
        (("held_out", "held_out_latents"), {}),
        (("held_out_latents",), {"context": 0}),
        ((), {"trials": 1, "samples": 1, "horizon": 1, "units": 1}),
        ((), {"trials": 3, "units": 90}),
        ((), {"head": "my $odd_head{"}),
    ],
)
def test_picture_of_unusual_files(tmp_path, without, more):
    image = painted(png_bytes(head_picture(read(tmp_path, without, **more))), tmp_path)
    assert image.std() > 0.05


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("silent", ["counts", "held_out"])
def test_a_silent_population_is_drawn_and_its_distances_are_undefined(tmp_path, silent):
    arrays = made_up()
    arrays[silent] = np.zeros_like(arrays[silent])
    trials = read_generated_trials(written(tmp_path, arrays))
    figures = {distance.name: distance for distance in distances_from_held_out(trials)}
    assert np.isnan(figures["correlations"].generated)
    assert png_bytes(head_picture(trials))


@pytest.mark.filterwarnings("error")
def test_continuous_signals_are_drawn_as_images(tmp_path):
    arrays = made_up(modality="continuous")
    for name in ("counts", "context", "held_out"):
        arrays[name] = arrays[name].astype(np.float32) - 1.5
    trials = read_generated_trials(written(tmp_path, arrays))
    names = [distance.name for distance in distances_from_held_out(trials)]
    assert "standard deviation" in names
    assert "Fano factor" not in names
    assert png_bytes(head_picture(trials))


def test_perfect_model_stands_at_the_noise_floor_on_average(tmp_path):
    tables = [distances_from_held_out(read(tmp_path, trials=60, data=data)) for data in range(16)]
    for distances in zip(*tables):
        generated, floor = (
            np.mean([getattr(distance, side) for distance in distances]) for side in ("generated", "noise_floor")
        )
        if distances[0].unit != "nats":  # KL is too heavy-tailed to average over 16 data sets
            assert 0.8 < generated / floor < 1.25, distances[0].name


def test_a_model_that_repeats_the_recording_does_not_beat_the_noise_floor(tmp_path):
    arrays = made_up()
    arrays["counts"][:] = arrays["held_out"]
    for distance in distances_from_held_out(read_generated_trials(written(tmp_path, arrays))):
        assert distance.generated == distance.noise_floor


def test_wrong_rates_are_far_above_the_noise_floor(tmp_path):
    trials = read(tmp_path, trials=80)
    wrong = dataclasses.replace(trials, counts_SBHC=4 * trials.counts_SBHC)
    figures = {distance.name: distance for distance in distances_from_held_out(wrong)}
    for name in ("mean rate", "Fano factor", "population count"):
        assert figures[name].generated > 3 * figures[name].noise_floor


def test_halves_are_disjoint_and_of_one_size(tmp_path):
    trials = read(tmp_path, trials=9)
    numbered = np.broadcast_to(np.arange(9)[:, None, None], (9, trials.horizon_bins, trials.units))
    trials = dataclasses.replace(
        trials, held_out_BHC=numbered, counts_SBHC=np.broadcast_to(numbered, (12, *numbered.shape))
    )
    halves = disjoint_halves(trials, split=5)
    first, second = set(halves.recorded_I.ravel()), set(halves.recorded_J.ravel())
    assert len(first) == len(second) == 4
    assert not first & second
    assert set(halves.generated_I.ravel()) == first


def test_fano_factor_and_autocorrelation_of_known_counts():
    counts = np.zeros((2, 3, 3))
    counts[0, :, 0] = 1  # 3 and 0 spikes: mean 1.5, variance 2.25
    counts[:, 0, 1] = 1  # always 1 spike
    np.testing.assert_allclose(fano_factors(counts), [1.5, 0.0, np.nan])
    alternating = np.tile([2.0, 0.0], 4)[None, :, None]
    np.testing.assert_allclose(autocorrelation(alternating, 3), [1.0, -1.0, 1.0])


def test_units_of_one_assembly_lie_side_by_side(tmp_path):
    arrays = made_up(trials=40, units=8)
    drive = np.random.default_rng(1).random((40, 1, 1)) < 0.5
    odd = np.arange(8) % 2 == 1
    for name in ("context", "held_out"):
        arrays[name] = (3 * np.where(odd, drive, ~drive) + 0 * arrays[name]).astype(np.uint16)
    order = unit_order(read_generated_trials(written(tmp_path, arrays)))
    assert sorted(order) == list(range(8))
    assert len(set(order[:4] % 2)) == 1


def test_fan_coverage_counts_recorded_bins_inside(tmp_path):
    trials = read(tmp_path)
    assert fan_coverage(trials) > 0.6
    far = dataclasses.replace(trials, held_out_BHC=trials.held_out_BHC + np.uint16(50))  # type: ignore[operator]
    assert fan_coverage(far) == 0.0
    with pytest.raises(ValueError, match="no held-out activity"):
        fan_coverage(dataclasses.replace(trials, held_out_BHC=None))


def test_slow_channels_come_first(tmp_path):
    arrays = made_up(horizon=40)
    arrays["held_out_latents"][:, :, 2] = np.sin(np.arange(40) / 8)
    assert slowest_channels(read_generated_trials(written(tmp_path, arrays)), 1)[0] == 2


def test_a_head_keeps_its_colour():
    colours = method_colours(
        ["flow", "autoencoder (energy)", "gaussian head, same backbone (energy)", "other", "flow 2"]
    )
    assert colours["flow"] == head_colour("flow")
    assert colours["autoencoder (energy)"] == head_colour("energy")
    assert colours["gaussian head, same backbone (energy)"] == head_colour("gaussian")
    assert len(set(colours.values())) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": np.zeros((12, 6, 8))}, r"axis C is 8 in context but 7 in rates"),
        ({"held_out": np.zeros((12, 3, 7))}, r"axis H is 3 in held_out but 9 in latents"),
        ({"counts": np.zeros((12, 9, 7))}, r"counts has shape \(12, 9, 7\), expected 4 axes"),
        ({"held_out": np.full((12, 9, 7), np.nan)}, "held_out holds NaN"),
        ({"modality": "lfp"}, "modality is 'lfp'"),
        ({"bin_s": 0.0}, "bin_s is 0.0"),
        ({"seed": np.arange(2)}, "seed has shape"),
        ({"context": np.array([{}], dtype=object)}, "not an npz of plain arrays"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, message):
    path = written(tmp_path, made_up() | change)
    with pytest.raises(ValueError, match=message) as caught:
        read_generated_trials(path)
    assert str(path) in str(caught.value)


def test_missing_keys_and_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no rates, bin_s: make it with launch/generate\.py"):
        read_generated_trials(written(tmp_path, made_up(), without=("rates", "bin_s")))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz is not an npz of plain arrays"):
        read_generated_trials(tmp_path / "text.npz")
    (tmp_path / "empty.npz").write_text("")
    with pytest.raises(ValueError, match=r"empty\.npz is not an npz of plain arrays"):
        read_generated_trials(tmp_path / "empty.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy is not an npz of plain arrays"):
        read_generated_trials(tmp_path / "one.npy")
