"""Decoders on data whose truth is known, on shuffled data, and on generated trials as good as recorded ones."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from neurochorus.pretrain.evaluation.suite.decoders import CovariateDecoder, LabelDecoder
from neurochorus.pretrain.evaluation.suite.decoding_targets import Target
from neurochorus.pretrain.evaluation.suite.synthetic import GeneratedFeatures, generated_rows, synthetic_rows
from neurochorus.pretrain.evaluation.suite.tables import Undefined

TRIALS, BINS = 60, 10
GROUPS = np.arange(TRIALS)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def covariate_problem(rng: np.random.Generator, trials: int = TRIALS) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, T, 4) and a covariate of variance 4 + 1 of which they explain 4."""
    features = rng.normal(size=(trials, BINS, 4))
    return features, 2 * features[..., :1] + rng.normal(size=(trials, BINS, 1))


def test_r2_of_a_known_linear_truth_and_of_shuffled_trials(rng):
    features, targets = covariate_problem(rng)
    others, truth = covariate_problem(rng)
    targets[3], targets[5, 2] = np.nan, np.nan
    truth[0] = np.nan
    assert CovariateDecoder.fit(features, targets, GROUPS).score(others, truth) == pytest.approx(0.8, abs=0.03)
    shuffled = CovariateDecoder.fit(rng.permutation(features), targets, GROUPS)
    assert shuffled.score(others, truth) < 0.02
    with pytest.raises(Undefined, match="does not vary"):
        shuffled.score(others, np.full_like(truth, np.nan))
    with pytest.raises(Undefined, match="2 or more trials"):
        CovariateDecoder.fit(features, np.zeros_like(targets), GROUPS)


def test_columns_are_averaged_alike_or_by_variance(rng):
    features = rng.normal(size=(TRIALS, BINS, 2))
    targets = np.concatenate((10 * features[..., :1], rng.normal(size=(TRIALS, BINS, 1))), axis=2)
    alike = CovariateDecoder.fit(features, targets, GROUPS).score(features, targets)
    weighted = CovariateDecoder.fit(features, targets, GROUPS, "variance").score(features, targets)
    assert alike == pytest.approx(0.5, abs=0.05)
    assert weighted == pytest.approx(1.0, abs=0.02)


def label_problem(rng: np.random.Generator, rare: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two labels whose mean features differ by 2 d, noise of sd 1 in the mean over bins: accuracy Phi(d)."""
    labels = np.where(rng.random(TRIALS) < rare, "left", "right")
    offset = np.where(labels == "left", -1.0, 1.0)[:, None, None]
    noise = rng.normal(size=(TRIALS, BINS, 3)) * np.sqrt(BINS)
    return noise + offset * np.array([1.0, 0.0, 0.0]), labels


def test_balanced_accuracy_of_known_labels_is_that_of_the_best_boundary(rng):
    """Phi(1) = 0.84, whatever the share of the labels."""
    for rare in (0.5, 0.2):
        score = []
        for _ in range(4):
            features, labels = label_problem(rng, rare)
            score.append(LabelDecoder.fit(features, labels, GROUPS).score(*label_problem(rng, rare)))
        assert np.mean(score) == pytest.approx(0.84, abs=0.07)
    features, labels = label_problem(rng)
    blind = [LabelDecoder.fit(features, rng.permutation(labels), GROUPS).score(features, labels) for _ in range(4)]
    assert np.mean(blind) == pytest.approx(0.5, abs=0.15)


def test_labels_that_cannot_be_learned_or_scored_are_refused(rng):
    features, labels = label_problem(rng)
    with pytest.raises(Undefined, match="fewer than two labels"):
        LabelDecoder.fit(features, np.full(TRIALS, "left"), GROUPS)
    decoder = LabelDecoder.fit(features, labels, GROUPS)
    with pytest.raises(Undefined, match="fewer than two labels"):
        decoder.score(features, np.full(TRIALS, "left"))
    some = labels.copy()
    some[:20] = ""  # a label that was too rare to learn is left out of the score
    assert decoder.score(features, some) == decoder.score(features[20:], labels[20:])


def test_windows_of_one_trial_are_not_several_trials(rng):
    features = rng.normal(size=(40, 3, 2))
    for labels, trials in (
        (np.repeat(["a", "b"], 20), np.repeat([0, 1], 20)),  # a trial of each
        (np.repeat(["a", "b", "b", "b"], 10), np.repeat([0, 1, 2, 3], 10)),  # one trial of a
    ):
        with pytest.raises(Undefined, match="fewer than two labels with two training trials each"):
            LabelDecoder.fit(features, labels, trials)


def fake_features(rng: np.random.Generator, good: bool) -> tuple[GeneratedFeatures, Target]:
    """Recorded and generated horizons of one law if `good`; otherwise generated ones know nothing of the covariate."""
    real = {split: covariate_problem(rng, trials) for split, trials in (("train", 40), ("test", 200))}

    def continued(split: str, samples: int) -> np.ndarray:
        truth = real[split][1]
        noise = rng.normal(size=(samples, *real[split][0].shape))
        if good:  # features given the covariate, under the law of the recorded ones
            noise[..., :1] = 2 / 5 * truth + np.sqrt(1 / 5) * noise[..., :1]
        return noise

    made = {"train": continued("train", 8), "test": continued("test", 1)}
    features = SimpleNamespace(
        data=SimpleNamespace(split="test", forecast=SimpleNamespace(context_bins=0)),
        settings=SimpleNamespace(synthetic_samples=8, synthetic_trials=[3, 30, 100]),
        counts="smoothed counts",
        chosen={"train": np.arange(40), "test": np.arange(200)},
        real={split: {"latents": one[0], "smoothed counts": one[0]} for split, one in real.items()},
        made={split: {"latents": one, "smoothed counts": one} for split, one in made.items()},
        groups_N=np.arange(40),
        targets=lambda target, split: target.values[split],
    )
    return cast(GeneratedFeatures, features), Target("x", "covariate", {split: one[1] for split, one in real.items()})


def only(tables: dict[Any, dict[str, float]]) -> dict[str, float]:
    (rows,) = tables.values()
    return rows


def test_generated_trials_of_the_true_law_decode_like_recorded_ones(rng):
    rows = only(generated_rows(*fake_features(rng, good=True)))
    for row, value in rows.items():
        assert value == pytest.approx(0.8, abs=0.05), row
    bad = only(generated_rows(*fake_features(rng, good=False)))
    assert bad["recorded to recorded"] == pytest.approx(0.8, abs=0.05)
    assert bad["recorded to generated"] < -0.5
    assert bad["generated to recorded"] < 0.1


def test_synthetic_trials_of_the_true_law_help_and_others_do_not(rng):
    gains: dict[bool, list[float]] = {True: [], False: []}
    for good in gains:
        for _ in range(5):
            rows = only(synthetic_rows(*fake_features(rng, good)))
            assert set(rows) == {
                f"{kind}, {number} recorded{more}"
                for kind in ("latents", "smoothed counts")
                for number in (3, 30)  # 100 are more than there are
                for more in ("", f" + {8 * number} synthetic")
            }
            gains[good].append(rows["latents, 3 recorded + 24 synthetic"] - rows["latents, 3 recorded"])
    assert np.mean(gains[True]) > 0.0
    assert np.mean(gains[False]) < -0.2
