"""How much two verifiers say the same: correlation of their scores, and of what they keep.

Nothing here sees a utility, so agreement may be of the truth or of a shared fault. Intervals resample
prompts. Samples that either verifier could not be read on are left out of correlations; they are simply not
kept in overlaps.
"""

import numpy as np

from si_dagster.core.intervals import Interval, bootstrap_ratio, percentile_interval, resampled_sums
from si_dagster.core.samples import (
    blocks_of_equal_size,
    divide_or_nan,
    offsets_of_subset,
    ranks_per_prompt,
    sum_per_prompt,
)


def correlation(
    a: np.ndarray, b: np.ndarray, offsets: np.ndarray, num_resamples: int, confidence: float, seed: int
) -> Interval:
    """Pearson correlation over all samples where both are known; NaN where either is constant.

    NaN as well for fewer than three: two points lie on a line, whatever they are.

    Args:
        a: Scores, NaN if unparsed; shape (num_samples,).
        b: The same samples.
        offsets: Shape (num_prompts + 1,).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples.

    Examples:
        >>> a, offsets = np.array([1.0, 2.0, 3.0, np.nan]), np.array([0, 2, 4])
        >>> correlation(a, -a, offsets, 1000, 0.95, 0)
        Interval(estimate=-1.0, low=-1.0, high=-1.0)
    """
    known = ~(np.isnan(a) | np.isnan(b))
    offsets = offsets_of_subset(known, offsets)
    a, b = a[known], b[known]
    if a.size < 3:
        return Interval(np.nan, np.nan, np.nan)
    a, b = a - a.mean(), b - b.mean()  # first: sums of squares of far-off means lose digits
    moments = np.column_stack(
        [sum_per_prompt(values, offsets) for values in (np.ones(a.size), a, b, a * a, b * b, a * b)]
    )
    estimate = _correlation_of(moments.sum(axis=0)[None, :])[0]
    draws = _correlation_of(resampled_sums(moments, num_resamples, seed))
    return percentile_interval(float(estimate), draws, confidence)


def _correlation_of(moments: np.ndarray) -> np.ndarray:
    """From sums of 1, a, b, a², b², ab; shape (num_draws,)."""
    count, a, b, aa, bb, ab = moments.T
    spread = (count * aa - a * a) * (count * bb - b * b)
    return np.clip(divide_or_nan(count * ab - a * b, np.sqrt(np.maximum(spread, 0.0))), -1.0, 1.0)


def rank_correlation(
    a: np.ndarray, b: np.ndarray, offsets: np.ndarray, num_resamples: int, confidence: float, seed: int
) -> Interval:
    """Spearman correlation over all samples where both are known: Pearson of their ranks among these alone.

    Arguments as in `correlation`. Ranks are held fixed over resamples.

    Examples:
        Ranked 1, 2, 3 by both where both are known; among all of a they would be 1, 2, 5, and tell .96:

        >>> a, b = np.array([1.0, 2.0, 9.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3, np.nan, np.nan])
        >>> rank_correlation(a, b, np.array([0, 2, 5]), 1000, 0.95, 0).estimate
        1.0
    """
    known = ~(np.isnan(a) | np.isnan(b))
    together = np.array([0, np.count_nonzero(known)])
    a, b = (ranks_per_prompt(values[known], together) for values in (a, b))
    return correlation(a, b, offsets_of_subset(known, offsets), num_resamples, confidence, seed)


def correlation_of_each_prompt(a: np.ndarray, b: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Spearman correlation within each prompt, NaN where it is undefined; shape (num_prompts,).

    Examples:
        Ranked alike, and undefined where one says the same of both:

        >>> a, b = np.array([1.0, 2.0, 5.0, 5.0]), np.array([0.1, 0.9, 0.3, 0.4])
        >>> correlation_of_each_prompt(a, b, np.array([0, 2, 4])).tolist()
        [1.0, nan]
    """
    known = ~(np.isnan(a) | np.isnan(b))
    offsets = offsets_of_subset(known, offsets)
    a, b = (ranks_per_prompt(values[known], offsets) for values in (a, b))
    moments = [sum_per_prompt(values, offsets) for values in (np.ones(a.size), a, b, a * a, b * b, a * b)]
    return _correlation_of(np.column_stack(moments))


def pair_agreement(teacher: np.ndarray, student: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Share of the pairs of a prompt that the teacher tells apart which the student orders as it does.

    A pair that the student scores alike counts half; one that either has no score of, not at all. 2 p - 1 is
    Somers' D, and Kendall's tau where neither has ties; 1/2 is chance.

    Args:
        teacher: Scores, NaN if unparsed; shape (num_samples,).
        student: The same samples.
        offsets: Shape (num_prompts + 1,).

    Returns:
        NaN where the teacher tells no pair apart; shape (num_prompts,).

    Examples:
        Of 1 < 2, 1 < 3 and 2 < 3 the student agrees with one, is undecided on one and wrong on one:

        >>> teacher, student = np.array([1.0, 2.0, 3.0]), np.array([5.0, 9.0, 5.0])
        >>> pair_agreement(teacher, student, np.array([0, 3])).tolist()
        [0.5]
    """
    agreed, told_apart = np.zeros(len(offsets) - 1), np.zeros(len(offsets) - 1)
    for prompts, rows in blocks_of_equal_size(offsets):
        dear, cheap = teacher[rows], student[rows]
        for j in range(rows.shape[1] - 1):
            signs = np.sign(dear[:, j + 1 :] - dear[:, j, None])
            same = signs * np.sign(cheap[:, j + 1 :] - cheap[:, j, None])
            counted = (signs != 0) & ~np.isnan(same)
            agreed[prompts] += np.where(counted, (same + 1.0) / 2.0, 0.0).sum(axis=1)
            told_apart[prompts] += counted.sum(axis=1)
    return divide_or_nan(agreed, told_apart)


def jaccard(
    kept: np.ndarray,
    other: np.ndarray,
    offsets: np.ndarray,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Samples that both keep over samples that either keeps, summed over prompts.

    Args:
        kept: bool, shape (num_samples,).
        other: bool, same samples.
        offsets: Shape (num_prompts + 1,).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples.

    Examples:
        >>> kept, other = np.array([True, True, False]), np.array([True, False, False])
        >>> jaccard(kept, other, np.array([0, 3]), 1000, 0.95, 0).estimate
        0.5
    """
    both, either = sum_per_prompt(kept & other, offsets), sum_per_prompt(kept | other, offsets)
    return bootstrap_ratio(both, either, num_resamples, confidence, seed)


def jaccard_by_chance(
    kept: np.ndarray,
    other: np.ndarray,
    offsets: np.ndarray,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """What `jaccard` would be if both kept as many of each prompt as they do, but independently.

    Arguments as in `jaccard`.

    Examples:
        Two of four and two of four: 2 · 2 / 4 = 1 expected in both, 2 + 2 - 1 = 3 in either:

        >>> kept = np.array([True, True, False, False])
        >>> round(jaccard_by_chance(kept, kept, np.array([0, 4]), 1000, 0.95, 0).estimate, 6)
        0.333333
    """
    a, b = sum_per_prompt(kept, offsets), sum_per_prompt(other, offsets)
    both = np.nan_to_num(divide_or_nan(a * b, np.diff(offsets)))
    return bootstrap_ratio(both, a + b - both, num_resamples, confidence, seed)
