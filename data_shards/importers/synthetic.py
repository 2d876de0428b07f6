"""Synthetic animals: each session observes the one latent system through units, trials and noise of its own."""

from collections.abc import Iterator

import numpy as np

from neurochorus.data_shards.importers.linear_gaussian import make_system, random_drive, simulate
from neurochorus.data_shards.importers.lorenz import BIAS, bias_for_rate, random_read_out, simulate_lorenz, softplus
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recipe_synthetic import SyntheticRecipe
from neurochorus.data_shards.recording import Recording, Segment, Unit, as_counts
from neurochorus.data_shards.splits import random_splits

SYSTEM_STREAM, SESSION_STREAM = 0, 1  # the system must not change when an animal is added


def session_names(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (subject id, session id) of every session, in order."""
    assert recipe.synthetic is not None
    numbers = range(1, recipe.synthetic.sessions + 1)
    return [(subject, f"{subject}_s{number}") for subject in recipe.synthetic.subjects for number in numbers]


def import_synthetic(recipe: Recipe) -> Iterator[Recording]:
    """Yield the sessions of a synthetic recipe; the same seed gives the same recordings."""
    return (synthetic_session(recipe, number) for number in range(len(session_names(recipe))))


def synthetic_session(recipe: Recipe, number: int) -> Recording:
    """Return one session of a synthetic recipe, counted from 0 in the order of `session_names`."""
    assert recipe.synthetic is not None
    assert isinstance(recipe.bin_s, float)
    synthetic = recipe.synthetic
    subject_id, session_id = session_names(recipe)[number]
    generator = np.random.default_rng([synthetic.seed, SESSION_STREAM, number])
    units = int(generator.integers(synthetic.units[0], synthetic.units[1] + 1))
    make = _lorenz_session if synthetic.system == "lorenz" else _linear_gaussian_session
    signal_TC, covariates, truth = make(synthetic, units, generator)
    splits = random_splits(synthetic.trials, recipe.split)
    bins = synthetic.trial_bins
    return Recording(
        session_id=session_id,
        subject_id=subject_id,
        modality="spikes" if synthetic.system == "lorenz" else "continuous",
        bin_s=recipe.bin_s,
        signal_TC=signal_TC,
        units=[Unit(unit_id=f"u{unit:04d}", region="synthetic") for unit in range(units)],
        segments=[Segment(start=i * bins, stop=(i + 1) * bins, split=split) for i, split in enumerate(splits)],
        covariates=covariates,
        provenance={
            "importer": "synthetic",
            "licence": recipe.licence,
            "source": recipe.source_name,
            "system": synthetic.system,
            "seed": synthetic.seed,
            "truth": truth,
        },
    )


Session = tuple[np.ndarray, dict[str, np.ndarray], dict[str, object]]


def _lorenz_session(recipe: SyntheticRecipe, units: int, generator: np.random.Generator) -> Session:
    latents_BT3 = simulate_lorenz(recipe.lorenz, recipe.trials, recipe.trial_bins, generator)
    read_out_C3 = random_read_out(units, generator)
    drive_BTC = latents_BT3 @ read_out_C3.T
    mean_rate = recipe.lorenz.mean_rate
    bias = BIAS if mean_rate is None else bias_for_rate(drive_BTC, mean_rate)
    counts_BTC = generator.poisson(softplus(drive_BTC + bias))
    truth = {"read_out": read_out_C3.tolist(), "bias": bias}
    signal_TC = as_counts(counts_BTC.reshape(-1, units), "synthetic Lorenz counts")
    return signal_TC, _latent_covariate(recipe, latents_BT3), truth


def _linear_gaussian_session(recipe: SyntheticRecipe, units: int, generator: np.random.Generator) -> Session:
    shared = np.random.default_rng([recipe.seed, SYSTEM_STREAM])
    system = make_system(recipe.linear_gaussian, units, shared, generator)
    drive_BTK = random_drive(recipe.linear_gaussian, recipe.trials, recipe.trial_bins, generator)
    latents_BTL, signal_BTC = simulate(system, drive_BTK, generator)
    covariates = _latent_covariate(recipe, latents_BTL)
    if recipe.linear_gaussian.drive:
        covariates["drive"] = drive_BTK.reshape(-1, recipe.linear_gaussian.drive).astype(np.float32)
    return signal_BTC.reshape(-1, units).astype(np.float32), covariates, system.to_dict()


def _latent_covariate(recipe: SyntheticRecipe, latents_BTL: np.ndarray) -> dict[str, np.ndarray]:
    if not recipe.store_latents:
        return {}
    return {"true_latent": latents_BTL.reshape(-1, latents_BTL.shape[-1]).astype(np.float32)}
