"""Agreement of verifiers: against numpy, of copies, of strangers, and with samples that could not be read."""

import numpy as np
import pytest
from scipy import stats

from si_dagster.core.overlap import (
    correlation,
    correlation_of_each_prompt,
    jaccard,
    jaccard_by_chance,
    pair_agreement,
    rank_correlation,
)

OFFSETS = np.arange(201) * 8
HOW = (1000, 0.95, 0)


def pair(shared: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that share a part of their variance, and the difficulty of their prompts."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=1600)
    return tuple(shared * common + np.sqrt(1 - shared**2) * rng.normal(size=1600) for _ in range(2))  # type: ignore[return-value]


def test_pearson_and_spearman_equal_scipys() -> None:
    a, b = pair(0.6)
    a[:5] = np.nan
    within = [stats.spearmanr(a[i : i + 8], b[i : i + 8]).statistic for i in range(8, 1600, 8)]
    first = stats.spearmanr(a[5:8], b[5:8]).statistic
    np.testing.assert_allclose(correlation_of_each_prompt(a, b, OFFSETS), [first, *within])
    b[a > 1.0] = np.nan  # either is unread elsewhere, and not by chance
    known = ~(np.isnan(a) | np.isnan(b))
    assert correlation(a, b, OFFSETS, *HOW).estimate == pytest.approx(np.corrcoef(a[known], b[known])[0, 1])
    ranked = rank_correlation(a, b, OFFSETS, *HOW)
    assert ranked.estimate == pytest.approx(stats.spearmanr(a[known], b[known]).statistic)
    assert ranked.low < ranked.estimate < ranked.high


def test_the_interval_of_a_correlation_holds_the_truth() -> None:
    held = 0
    for seed in range(60):
        found = correlation(*pair(0.5, seed), OFFSETS, *HOW)
        held += found.low <= 0.25 <= found.high
    assert held >= 52  # .95 · 60 = 57, standard deviation 1.7


def test_copies_agree_wholly_and_strangers_as_chance_says() -> None:
    a, b = pair(0.0)
    kept, other = a > 0.5, b > 0.5
    assert jaccard(kept, kept, OFFSETS, *HOW).estimate == 1.0
    strangers = jaccard(kept, other, OFFSETS, *HOW)
    by_chance = jaccard_by_chance(kept, other, OFFSETS, *HOW)
    assert strangers.low < by_chance.low < by_chance.estimate < by_chance.high < strangers.high
    assert correlation(a, np.ones(1600), OFFSETS, *HOW).estimate != correlation(a, a, OFFSETS, *HOW).estimate
    assert np.isnan(correlation(a, np.ones(1600), OFFSETS, *HOW).estimate)


def test_two_samples_have_no_correlation() -> None:
    a, b = np.array([2.0, 1.0, np.nan]), np.array([0.53, 0.52, 0.9])
    offsets = np.array([0, 1, 3])
    assert np.isnan(correlation(a, b, offsets, *HOW).estimate)
    assert np.isnan(rank_correlation(a, b, offsets, *HOW).high)
    assert correlation(b, b, offsets, *HOW).estimate == pytest.approx(1.0)


def test_nothing_kept_and_nothing_read_are_unknown() -> None:
    none = np.zeros(16, dtype=bool)
    offsets = np.array([0, 8, 16])
    assert np.isnan(jaccard(none, none, offsets, *HOW).estimate)
    assert np.isnan(jaccard_by_chance(none, none, offsets, *HOW).estimate)
    unread = np.full(16, np.nan)
    assert np.isnan(correlation(unread, unread, offsets, *HOW).estimate)


def test_pair_agreement_is_kendalls_tau_without_ties_and_somers_d_with_them() -> None:
    rng = np.random.default_rng(0)
    offsets = np.array([0, 6, 6, 13, 14])
    teacher, student = rng.normal(size=14), rng.normal(size=14)
    found = pair_agreement(teacher, student, offsets)
    for i in (0, 2):
        part = slice(offsets[i], offsets[i + 1])
        assert 2 * found[i] - 1 == pytest.approx(stats.kendalltau(teacher[part], student[part]).statistic)
    assert np.isnan(found[[1, 3]]).all()
    teacher, student = np.round(teacher), np.round(student)
    rows = slice(0, 6)
    expected = stats.somersd(teacher[rows], student[rows]).statistic
    assert 2 * pair_agreement(teacher, student, offsets)[0] - 1 == pytest.approx(expected)


def test_pairs_with_an_unread_score_are_not_counted() -> None:
    teacher, student = np.array([1.0, 2.0, np.nan, 3.0]), np.array([1.0, 2.0, 9.0, np.nan])
    assert pair_agreement(teacher, student, np.array([0, 4])).tolist() == [1.0]
