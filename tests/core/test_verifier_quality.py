"""Rates, AUROC and correlation of a verifier; the decomposition by difficulty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from si_dagster.core.gap import gap_per_prompt
from si_dagster.core.verifier_quality import (
    acceptance_intervals,
    acceptance_rates,
    auroc,
    auroc_per_prompt,
    calibration_error,
    difficulty_labels,
    match_accuracy,
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
    whole, *bins = quality_by_difficulty(utilities, scores, weights, offsets)
    assert [b.label for b in bins] == difficulty_labels()
    assert sum(b.num_prompts for b in bins) == whole.num_prompts == 199
    assert bins[0].num_prompts >= 9
    total = sum(b.gap.estimate * b.num_prompts for b in bins) / 199
    assert total == pytest.approx(np.nanmean(gap_per_prompt(utilities, weights, offsets)))
    assert (bins[0].gap.estimate, bins[-1].gap.estimate) == (0.0, 0.0)
    for b, (low, high) in zip(bins[1:5], ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)), strict=True):
        assert low <= b.expected_utility.low <= b.expected_utility.estimate <= b.expected_utility.high < high


@pytest.mark.parametrize("no_survivors", ["identity", "skip", "pooled"])
def test_bins_add_up_to_the_whole_under_every_convention(no_survivors) -> None:
    """A strict threshold rejects most prompts; under `skip` a bin counts by the prompts that are covered."""
    rng = np.random.default_rng(5)
    utilities = (rng.random((200, 4)) < rng.random((200, 1))).astype(float).ravel()
    scores, offsets = utilities + rng.normal(size=800), np.arange(201) * 4
    weights = (scores > 1.8).astype(float)
    whole, *bins = quality_by_difficulty(utilities, scores, weights, offsets, no_survivors=no_survivors)
    expected = np.nanmean(gap_per_prompt(utilities, weights, offsets, no_survivors))
    assert whole.gap.estimate == pytest.approx(expected)
    assert 0.2 < whole.coverage.estimate < 0.8
    covered = [b.coverage.estimate if no_survivors == "skip" else 1.0 for b in bins]
    counted = [b.num_prompts * share if b.num_prompts else 0 for b, share in zip(bins, covered, strict=True)]
    assert counted[1] == 0  # of four samples none has 0 < J < .25
    gaps = [b.gap.estimate if count else 0.0 for b, count in zip(bins, counted, strict=True)]
    assert np.average(gaps, weights=counted) == pytest.approx(expected)


def test_edge_of_difficulty_belongs_to_the_bin_above() -> None:
    _, *bins = quality_by_difficulty(np.array([1.0, 0.0]), np.zeros(2), np.ones(2), np.array([0, 2]))
    assert [b.label for b in bins if b.num_prompts] == ["0.5<=J<0.75"]


def test_whole_of_the_bins_is_the_quality_without_bins() -> None:
    rng = np.random.default_rng(6)
    utilities = (rng.random(400) < 0.4).astype(float)
    scores, offsets = utilities + rng.normal(size=400), np.arange(51) * 8
    scores[::7] = NAN
    utilities[::11] = NAN
    weights = np.nan_to_num(scores) > 0.5
    quality = verifier_quality(utilities, scores, weights, offsets)
    whole = quality_by_difficulty(utilities, scores, weights.astype(float), offsets)[0]
    for figure in ("true_positive_rate", "false_positive_rate", "auroc_per_prompt"):
        interval = getattr(whole, figure)
        assert interval.estimate == pytest.approx(getattr(quality, figure))
        assert interval.low < interval.estimate < interval.high
    rates = acceptance_intervals(utilities, weights, offsets)
    assert rates == (whole.true_positive_rate, whole.false_positive_rate)
    assert whole.mean_score.estimate == pytest.approx(np.nanmean(scores[~np.isnan(utilities)]))


def test_intervals_of_rates_hold_the_truth() -> None:
    """Verifiers of TPR .8 and FPR .3 on prompts of all difficulties."""
    held = np.zeros(2)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        utilities = (rng.random((100, 8)) < rng.random((100, 1))).astype(float).ravel()
        weights = (rng.random(800) < np.where(utilities == 1, 0.8, 0.3)).astype(float)
        rates = acceptance_intervals(utilities, weights, np.arange(101) * 8)
        held += [rate.low <= truth <= rate.high for rate, truth in zip(rates, (0.8, 0.3), strict=True)]
    assert (held >= 52).all()  # .95 · 60 = 57, standard deviation 1.7


def test_calibration_is_of_probabilities_and_of_all_prompts_alone() -> None:
    """Marks of 1..10 that are all 1: a share of 1 to look at, and the lowest mark there is."""
    utilities = (np.random.default_rng(0).random(160) < 0.5).astype(float)
    ones, offsets = np.ones(160), np.arange(21) * 8
    marks = quality_by_difficulty(utilities, ones, ones, offsets)
    assert all(np.isnan(b.calibration_error.estimate) for b in marks)
    chances = quality_by_difficulty(utilities, ones, ones, offsets, are_probabilities=True)
    assert chances[0].calibration_error == calibration_error(utilities, ones, offsets)
    assert chances[0].calibration_error.estimate == pytest.approx(1.0 - utilities.mean())
    # Prompts that are always right said too little, whoever said it: J is part of the outcome.
    assert all(np.isnan(b.calibration_error.estimate) for b in chances[1:])


def test_match_accuracy_counts_right_against_wrong_alone() -> None:
    """Prompt 0: right beats wrong twice, loses once. Prompt 1: nothing to tell apart, or not graded."""
    winners, losers = np.array([1.0, 1, 0, 1, 0, NAN, 1]), np.array([0.0, 0, 1, 1, 0, 1, NAN])
    prompts = np.array([0, 0, 0, 1, 1, 1, 1])
    found = match_accuracy(winners, losers, prompts, 3)
    assert (found.estimate, found.low, found.high) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert np.isnan(match_accuracy(winners[3:], losers[3:], prompts[3:], 3).estimate)
    assert np.isnan(match_accuracy(winners[:0], losers[:0], prompts[:0], 3).estimate)


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


@pytest.mark.parametrize("honesty", [1.0, 0.9])
def test_interval_of_calibration_holds_its_estimate_and_the_truth(honesty: float) -> None:
    """Honest scores are off by 0; moved a tenth of the way to 1 they are by .1 (1 - p), .05 on average."""
    truth, held = (1.0 - honesty) / 2, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        chances = rng.random(1600)
        utilities = (rng.random(1600) < chances).astype(float)
        found = calibration_error(utilities, 1.0 - honesty * (1.0 - chances), np.arange(201) * 8)
        assert found.low <= found.estimate <= found.high
        held += found.low <= truth <= found.high
    assert held >= 52  # .95 · 60 = 57, standard deviation 1.7
