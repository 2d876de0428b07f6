"""Co-smoothing: held-out units predicted from held-in units of the same bins (Pei et al. 2021, co-bps).

N windows, T bins, C units, K held-out units, L latent channels.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.forecaster import best, validation_loss, with_pseudo_spike
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.principal_ridge import fit_principal_ridge
from neurochorus.pretrain.evaluation.psth import psth_rates
from neurochorus.pretrain.evaluation.ridge_forecasts import LEAST_SHARE
from neurochorus.pretrain.evaluation.scored_forecast import batch_of, chunks
from neurochorus.pretrain.evaluation.suite.grouped_ridge import fit_grouped_ridge
from neurochorus.pretrain.evaluation.suite.held_out_units import encode_without, held_out_units
from neurochorus.pretrain.evaluation.suite.poisson_regression import cross_validated_poisson_regression
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.smoothing import exponential_smoothing
from neurochorus.pretrain.evaluation.suite.tables import TableSpec, Undefined

DECAYS_BINS = (0.0, 3.0, 10.0, 30.0)
COMPONENTS = (8, 32, 128)
PENALTIES = (1e-3, 1e-2, 0.1, 0.3, 1.0)


def cosmoothing(
    data: SessionData, models: Mapping[str, NeuralModel], settings: SuiteSettings
) -> dict[TableSpec, dict[str, float]]:
    """The table of co-smoothing of one session; raises Undefined where the held-out units are silent."""
    windows = data.windows(data.split)
    try:
        held_C = held_out_units(windows.unit_ids, settings.held_out_share, settings.seed)
    except ValueError as error:
        raise Undefined(str(error)) from None
    truth_NTK = windows.signal_NTC[..., held_C]
    measure = bits_per_spike if data.spikes else r2
    shots_N = _shots(data, settings)
    if data.spikes and not (truth_NTK.any() and data.windows("train").signal_NTC[shots_N][..., held_C].any()):
        raise Undefined("its held-out units have no spike in the train split or in the evaluated bins")
    rows: dict[str, np.ndarray] = {}
    few: dict[str, np.ndarray] = {}
    for number, (name, model) in enumerate(models.items()):
        seen, latents = _unseen(data, model, held_C)
        rows[_row("seen rows", number, name)] = seen
        few[_row("few-shot", number, name)] = _regressed(data, latents, held_C, shots_N)
    first = next(iter(models.values()))
    expected = rows | few | _baselines(data, held_C, shots_N, first.config.autoencoder.causal)
    return {_spec(data, first, settings): {row: measure(truth_NTK, rates) for row, rates in expected.items()}}


def _shots(data: SessionData, settings: SuiteSettings) -> np.ndarray:
    """Windows of the train split from which held-out units are learned, drawn once: few are among many."""
    order = np.random.default_rng(settings.seed).permutation(len(data.windows("train").keys))
    return np.sort(order[: settings.few_shot_trials])


def _row(form: str, number: int, name: str) -> str:
    return form if number == 0 else f"{form}, {name}"


def _unseen(data: SessionData, model: NeuralModel, held_C: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rates of the held-out units by their own read-out rows (N, T, K), and latents of all splits without them."""
    latents: dict[str, np.ndarray] = {}
    rates = np.zeros(0)
    for split in dict.fromkeys(("train", data.split)):
        windows = data.windows(split)
        made = [
            encode_without(model, batch_of(model, data.session_id, windows, chunk), held_C) for chunk in chunks(windows)
        ]
        latents[split] = np.concatenate([one.latent_BTL.cpu().numpy() for one in made])
        rates = np.concatenate([one.expected_BTC.cpu().numpy()[..., held_C] for one in made])
    return rates, latents


def _regressed(
    data: SessionData, features: Mapping[str, np.ndarray], held_C: np.ndarray, shots_N: np.ndarray
) -> np.ndarray:
    """Held-out units regressed on features (N, T, F) of the train split: Poisson for counts, ridge for signals."""
    train_NTF, test_NTF = features["train"][shots_N], features[data.split]
    targets_MK = data.windows("train").signal_NTC[shots_N][..., held_C].reshape(-1, held_C.sum()).astype(float)
    groups_M = np.repeat(data.groups("train")[shots_N], data.bins)
    flat_MF = train_NTF.reshape(-1, train_NTF.shape[-1]).astype(float)
    try:
        if data.spikes:
            return cross_validated_poisson_regression(flat_MF, targets_MK, groups_M).rates(test_NTF.astype(float))
        fitted = fit_grouped_ridge(flat_MF, targets_MK, groups_M)
    except ValueError as error:
        raise Undefined(str(error)) from None
    return fitted.predict(test_NTF.reshape(-1, test_NTF.shape[-1])).reshape(*test_NTF.shape[:2], -1)


def _baselines(data: SessionData, held_C: np.ndarray, shots_N: np.ndarray, causal: bool) -> dict[str, np.ndarray]:
    """Train mean, ridge and Poisson regression from smoothed held-in counts, and the PSTH where trials are aligned."""
    train_NTC, valid_NTC = (data.windows(split).signal_NTC for split in ("train", "valid"))
    shape = (*data.windows(data.split).signal_NTC.shape[:2], int(held_C.sum()))
    held_train = train_NTC[shots_N][..., held_C].astype(float)
    mean_K = held_train.mean(axis=(0, 1))
    if data.spikes:
        mean_K = with_pseudo_spike(mean_K, held_train.shape[0] * held_train.shape[1])
    ridge_NTK, features = _ridge(data, held_C, shots_N, mean_K, causal)
    rows = {"train mean": np.broadcast_to(mean_K, shape), "ridge, smoothed counts": ridge_NTK}
    if data.spikes:
        rows["Poisson regression, smoothed counts"] = _regressed(data, features, held_C, shots_N)
    if not data.aligned:
        return rows
    psth_TK, _ = psth_rates(held_train, valid_NTC[..., held_C].astype(float), data.corpus.modality)
    return {**rows, "psth": np.broadcast_to(psth_TK, shape)}


def _ridge(
    data: SessionData, held_C: np.ndarray, shots_N: np.ndarray, mean_K: np.ndarray, causal: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ridge on principal components of smoothed held-in counts (N, T, K), and those components of both splits.

    Smoothing, components and penalty are chosen on the valid split; rates stay above LEAST_SHARE of the train mean.
    """

    def smooth(split: str, decay: float) -> np.ndarray:
        """(N, T, C) of held-in units."""
        smoothed = exponential_smoothing(data.windows(split).signal_NTC[..., ~held_C], decay, causal)
        return np.sqrt(smoothed) if data.spikes else smoothed

    def flat(values_NTC: np.ndarray) -> np.ndarray:
        return values_NTC.reshape(-1, values_NTC.shape[-1]).astype(float)

    train_NTC, valid_NTC = (data.windows(split).signal_NTC[..., held_C] for split in ("train", "valid"))
    targets, valid = flat(train_NTC[shots_N]), flat(valid_NTC)
    loss = validation_loss(data.corpus.modality, targets)
    fits = {decay: fit_principal_ridge(flat(smooth("train", decay)[shots_N]), targets) for decay in DECAYS_BINS}
    scores = {decay: fits[decay].scores(flat(smooth("valid", decay))) for decay in DECAYS_BINS}

    def expected(scores_MP: np.ndarray, decay: float, components: int, penalty: float) -> np.ndarray:
        made = mean_K + fits[decay].predict(scores_MP, components, penalty)
        return np.maximum(made, LEAST_SHARE * mean_K) if data.spikes else made

    chosen = best(
        (
            {"decay": decay, "components": components, "penalty": penalty}
            for decay, components, penalty in product(DECAYS_BINS, COMPONENTS, PENALTIES)
        ),
        lambda **kind: loss(valid, expected(scores[kind["decay"]], **kind)),
    )
    decay, components = chosen["decay"], chosen["components"]
    made = {split: fits[decay].scores(flat(smooth(split, decay))) for split in ("train", data.split)}
    features = {split: values[:, :components].reshape(-1, data.bins, values[:, :components].shape[1])
                for split, values in made.items()}  # fmt: skip
    return expected(made[data.split], **chosen).reshape(-1, data.bins, len(mean_K)), features


def _spec(data: SessionData, model: NeuralModel, settings: SuiteSettings) -> TableSpec:
    causal = model.config.autoencoder.causal
    reads = (
        "held-in units up to and including that bin (the encoder is causal: unlike NLB's models it sees no later bin)"
        if causal
        else "held-in units of all bins of the window (the encoder is not causal)"
    )
    metric = "bits_per_spike" if data.spikes else "r2"
    shots = "all windows" if settings.few_shot_trials is None else f"{settings.few_shot_trials} windows"
    regression = "Poisson regression, penalty by cross-validation over trials" if data.spikes else "ridge regression"
    return TableSpec(
        "co_smoothing",
        f"co-smoothing: {100 * settings.held_out_share:g} % of units held out",
        metric,
        f"{'co-bps (NLB): bits/spike pooled' if data.spikes else 'R2 averaged'} over held-out units, all bins, each "
        f"predicted from {reads}. Held-out units: the first {100 * settings.held_out_share:g} % by a hash of seed "
        f"{settings.seed} and unit id. Seen rows: the read-out rows of held-out units are the model's, fitted in "
        "training, but the encoder does not read these units, nor their own past. Few-shot: the rows of held-out units "
        f"are fitted anew on {shots} of the train split, as are all baselines ({regression} on the frozen latents of "
        f"held-in units). Baselines are smoothed {'from the past only, too' if causal else 'from both sides'}, their "
        "settings chosen on the valid split.",
        main="seen rows",
        pairs=tuple(("few-shot", row) for row in ("ridge, smoothed counts", "Poisson regression, smoothed counts")),
    )
