"""Rates, AUROC and correlation of a verifier; the decomposition by difficulty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from si_dagster.core.gap import gap_per_prompt
from si_dagster.core.verifier_quality import (
    acceptance_rates,
    auroc,
    auroc_per_prompt,
    calibration_error,
    pearson,
    quality_by_difficulty,
    verifier_quality,
)

NAN = float("nan")
SCORED = st.lists(st.tuples(st.booleans(), st.integers(1, 4) | st.just(NAN)), min_size=1, max_size=20)


def _auroc_by_pairs(utilities: np.ndarray, scores: np.ndarray) -> float:
    right = [s for u, s in zip(utilities, scores, strict=True) if u == 1 and not np.isnan(s)]
    wrong = [s for u, s in zip(utilities, scores, strict=True) if u == 0 and not np.isnan(s)]
    pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
    return float(np.mean(pairs)) if pairs else NAN


@given(SCORED, SCORED)
@settings(deadline=None)
def test_auroc_equals_pair_counting(first, second) -> None:
    utilities, scores = np.array(first + second, dtype=float).T
    offsets = np.array([0, len(first), len(first) + len(second)])
    np.testing.assert_allclose(auroc(utilities, scores), _auroc_by_pairs(utilities, scores))
    by_pairs = [_auroc_by_pairs(*np.array(own, dtype=float).T) for own in (first, second)]
    np.testing.assert_allclose(auroc_per_prompt(utilities, scores, offsets), by_pairs)


def test_auroc_equals_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    utilities = (rng.random(5000) < 0.3).astype(float)
    scores = np.round(rng.normal(size=5000) + utilities, 1)  # many ties
    statistic = stats.mannwhitneyu(scores[utilities == 1], scores[utilities == 0]).statistic
    pairs = utilities.sum() * (1 - utilities).sum()
    assert auroc(utilities, scores) == pytest.approx(statistic / pairs, abs=1e-12)


def test_telling_easy_prompts_from_hard_ones_is_no_ranking_within_a_prompt() -> None:
    # The score is the prompt's difficulty: good over all pairs, worthless where the gap is made.
    utilities = np.array([1.0, 1, 1, 0, 1, 0, 0, 0])
    scores = np.array([9.0, 9, 9, 9, 2, 2, 2, 2])
    quality = verifier_quality(utilities, scores, np.ones(8), np.array([0, 4, 8]))
    # 3 · 3 pairs won, 3 · 1 + 1 · 3 tied, 1 · 1 lost of 16: (9 + 3) / 16.
    assert quality.auroc == 0.75
    assert quality.auroc_per_prompt == 0.5
    assert quality.num_auroc_prompts == 2


def test_rates_and_counts_with_unknown_values() -> None:
    utilities = np.array([1.0, 1.0, 0.0, 0.0, NAN])
    scores = np.array([1.0, NAN, 1.0, 0.0, 1.0])
    weights = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    quality = verifier_quality(utilities, scores, weights, np.array([0, 5]))
    assert (quality.true_positive_rate, quality.false_positive_rate) == (0.5, 0.5)
    assert (quality.num_graded, quality.num_unparsed) == (4, 1)
    assert quality.auroc == 0.75  # 1 against 1 (half) and 0 (won)


def test_undefined_is_nan() -> None:
    rate = acceptance_rates(np.array([1.0]), np.array([1.0]))
    assert rate[0] == 1.0
    assert np.isnan(rate[1])
    assert np.isnan(auroc(np.array([1.0, 1.0]), np.array([0.1, 0.2])))
    assert np.isnan(auroc(np.array([]), np.array([])))
    assert np.isnan(pearson(np.array([1.0, 1.0]), np.array([0.1, 0.2])))


def test_pearson_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=100)
    b = a + rng.normal(size=100)
    assert pearson(np.append(a, NAN), np.append(b, 1.0)) == pytest.approx(stats.pearsonr(a, b)[0])


def test_bins_of_difficulty_hold_each_prompt_once_and_add_up_to_the_gap() -> None:
    rng = np.random.default_rng(4)
    p = np.concatenate([np.zeros(10), np.ones(10), rng.random(180)])
    utilities = (rng.random((200, 8)) < p[:, None]).astype(float).ravel()
    utilities[:8] = NAN  # a prompt without any grade belongs to no bin
    scores = np.nan_to_num(utilities) + rng.normal(size=1600)
    weights, offsets = (scores > 0.5).astype(float), np.arange(201) * 8
    bins = quality_by_difficulty(utilities, scores, weights, offsets)
    assert [(b.low, b.high) for b in bins] == [(0, 0), (0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1), (1, 1)]
    assert sum(b.num_prompts for b in bins) == 199
    assert bins[0].num_prompts >= 9
    total = sum(b.gap * b.num_prompts for b in bins) / 199
    assert total == pytest.approx(np.nanmean(gap_per_prompt(utilities, weights, offsets)))
    assert (bins[0].gap, bins[-1].gap) == (0.0, 0.0)
    inner = [b for b in bins if b.high > 0 and b.low < 1]
    assert all(b.low <= b.expected_utility < b.high for b in inner)


def test_edge_of_difficulty_belongs_to_the_bin_above() -> None:
    bins = quality_by_difficulty(np.array([1.0, 0.0]), np.zeros(2), np.ones(2), np.array([0, 2]))
    assert [b.low for b in bins if b.num_prompts] == [0.5]


def test_calibration_of_honest_bold_and_unreadable_scores() -> None:
    """Honest: right as often as it says. Bold: it says 1 and is right half of the time."""
    rng = np.random.default_rng(0)
    chances, offsets = rng.random(8000), np.arange(1001) * 8
    utilities = (rng.random(8000) < chances).astype(float)
    honest = calibration_error(utilities, chances, offsets)
    assert honest.estimate < 0.03
    bold = calibration_error(utilities, np.ones(8000), offsets)
    assert bold.estimate == pytest.approx(1.0 - utilities.mean())
    assert bold.low < bold.estimate < bold.high
    assert np.isnan(calibration_error(utilities, 10 * chances, offsets).estimate)  # no probabilities
    assert np.isnan(calibration_error(utilities, np.full(8000, np.nan), offsets).estimate)
