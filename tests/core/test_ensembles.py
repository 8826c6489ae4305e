"""Ensembles: the sums by hand, and what weighting by agreement finds, and is fooled by."""

import numpy as np
import pytest

from si_dagster.core.ensembles import (
    agreement_scores,
    agreement_weights,
    and_weights,
    mean_rank_scores,
    or_weights,
    relative_ranks,
)
from si_dagster.core.gap import estimate_gap
from si_dagster.core.verifier_quality import auroc_per_prompt
from si_dagster.core.weighting import best_of_n_weights, exponential_weights, quantile_weights

NUM_PROMPTS, SIZE = 400, 16
OFFSETS = np.arange(NUM_PROMPTS + 1) * SIZE


def samples(noises: list[float], seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Utilities of probability 1/2 and one verifier a noise: score = utility + noise · normal."""
    rng = np.random.default_rng(seed)
    utilities = (rng.random(OFFSETS[-1]) < 0.5).astype(float)
    return utilities, [utilities + noise * rng.normal(size=utilities.size) for noise in noises]


def quality(utilities: np.ndarray, scores: np.ndarray) -> float:
    return float(np.nanmean(auroc_per_prompt(utilities, scores, OFFSETS)))


def test_and_of_two_informative_verifiers_keeps_more_right_ones_than_either() -> None:
    """P(right | both keep) > P(right | one keeps) when errors are independent."""
    utilities, scores = samples([1.0, 1.0])
    alone = [quantile_weights(s, OFFSETS, 0.5) for s in scores]
    both = and_weights(alone)
    gaps = [estimate_gap(utilities, w, OFFSETS).gap for w in (*alone, both, or_weights(alone))]
    assert gaps[2] > max(gaps[:2]) + 0.05
    assert 0.0 < gaps[3] < min(gaps[:2])
    assert both.sum() + or_weights(alone).sum() == sum(w.sum() for w in alone)  # |A∩B| + |A∪B| = |A| + |B|


def test_and_of_exponential_weights_adds_their_scores() -> None:
    _, (a, b) = samples([1.0, 1.0])
    product = and_weights([exponential_weights(s, OFFSETS, 0.5) for s in (a, b)])
    summed = exponential_weights(a + b, OFFSETS, 0.5)
    ratio = (product / summed).reshape(NUM_PROMPTS, SIZE)
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(SIZE), rtol=1e-9)  # a constant of the prompt


def test_ranks_ignore_the_scale_and_ties_share() -> None:
    scores = np.array([1.0, 1.0, 5.0, 2.0, np.nan, 3.0])
    offsets = np.array([0, 3, 6])
    # Ranks 1.5, 1.5, 3 of three and 1, 2 of two: (1.5 - .5)/3, (3 - .5)/3, (1 - .5)/2, (2 - .5)/2.
    expected = [1 / 3, 1 / 3, 5 / 6, 0.25, np.nan, 0.75]
    np.testing.assert_allclose(relative_ranks(scores, offsets), expected)
    np.testing.assert_allclose(relative_ranks(np.exp(scores), offsets), expected)


def test_mean_rank_beats_its_members_and_agreement_beats_mean_rank_with_a_bad_one() -> None:
    utilities, scores = samples([0.7, 0.7, 0.7, 6.0])
    alone = [quality(utilities, s) for s in scores]
    mean_rank = quality(utilities, mean_rank_scores(scores, OFFSETS))
    agreement = quality(utilities, agreement_scores(scores, OFFSETS))
    assert mean_rank > max(alone)
    assert agreement > mean_rank + 0.005
    weights = agreement_weights(scores, OFFSETS)
    assert weights[3] < 0.1 < weights[:3].min()


def test_agreement_orders_verifiers_by_their_quality_without_a_label() -> None:
    utilities, scores = samples([0.4, 0.8, 1.6, 3.2], seed=3)
    weights = agreement_weights(scores, OFFSETS)
    by_quality = np.argsort([-quality(utilities, s) for s in scores])
    assert np.argsort(-weights).tolist() == by_quality.tolist() == [0, 1, 2, 3]
    assert weights.sum() == pytest.approx(1.0)


def test_copies_of_one_bad_verifier_fool_agreement() -> None:
    """The assumption of independent errors, broken: what the module docstring warns of."""
    utilities, scores = samples([0.7, 0.7, 6.0])
    weights = agreement_weights([*scores, scores[2]], OFFSETS)
    assert weights[2:].sum() > 0.5
    honest = quality(utilities, agreement_scores(scores, OFFSETS))
    assert quality(utilities, agreement_scores([*scores, scores[2]], OFFSETS)) < honest - 0.1


def test_permuted_scores_have_no_gap_in_any_ensemble() -> None:
    """Wrong by construction: scores of other samples, so every interval holds 0."""
    utilities, scores = samples([0.5, 0.5, 0.5], seed=1)
    rng = np.random.default_rng(2)
    permuted = [rng.permutation(s) for s in scores]
    weights = [quantile_weights(s, OFFSETS, 0.5) for s in permuted]
    for kept in (
        and_weights(weights),
        or_weights(weights),
        best_of_n_weights(mean_rank_scores(permuted, OFFSETS), OFFSETS),
        best_of_n_weights(agreement_scores(permuted, OFFSETS), OFFSETS),
    ):
        estimate = estimate_gap(utilities, kept, OFFSETS)
        assert estimate.gap_low < 0.0 < estimate.gap_high


def test_two_verifiers_and_verifiers_that_say_nothing_count_alike() -> None:
    _, (a, b) = samples([0.5, 2.0])
    np.testing.assert_allclose(agreement_weights([a, b], OFFSETS), [0.5, 0.5])
    constant = np.ones(OFFSETS[-1])
    np.testing.assert_allclose(agreement_weights([constant, constant, constant], OFFSETS), 1 / 3)
    np.testing.assert_allclose(agreement_weights([a], OFFSETS), [1.0])


def test_unread_verifications_leave_the_others_and_nothing_read_is_nan() -> None:
    a = np.array([1.0, 2.0, np.nan, np.nan])
    b = np.array([2.0, 1.0, 1.0, np.nan])
    found = mean_rank_scores([a, b], np.array([0, 4]))
    # a: .25, .75 of two; b: 2.5/3, 1/3 (tie), 1/3 of three.
    np.testing.assert_allclose(found, [(0.25 + 2.5 / 3) / 2, (0.75 + 1 / 3) / 2, 1 / 3, np.nan])
    assert np.isnan(agreement_scores([a, b], np.array([0, 4]))[3])


def test_an_ensemble_of_nothing_or_of_other_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        and_weights([])
    with pytest.raises(ValueError, match="same samples"):
        mean_rank_scores([np.ones(2), np.ones(3)], np.array([0, 2]))
