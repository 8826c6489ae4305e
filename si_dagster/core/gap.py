"""The generation-verification gap and its relatives (Song et al., arXiv 2412.02674, definitions 2.1 and 2.2).

Everything is computed per prompt first, since f[w] is normalised per prompt, and averaged over prompts
afterwards. Samples whose utility is NaN (the grader failed) are left out of everything and counted.
This module neither makes weights nor chooses thresholds; a weighting tuned on the same samples makes the
gap look larger than it is, and nothing here can see that.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from si_dagster.core.intervals import bootstrap_filled_means, bootstrap_means
from si_dagster.core.samples import (
    check_layout,
    divide_or_nan,
    mean_or_nan,
    mean_per_prompt,
    offsets_of_subset,
    per_sample,
    sum_per_prompt,
)
from si_dagster.core.weighting import check_weights, summarise_weights

NoSurvivors = Literal["identity", "skip", "pooled"]
Saturated = Literal["skip", "zero"]

TRIM_SHARE = 0.1
"""Share of prompts cut from each end for the trimmed mean (ours)."""

_FULL = 1.0 - 1e-12
"""A mean utility from here on is U_max = 1: means of fractional utilities carry rounding."""


def expected_utility(utilities: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """J_x(f) of each prompt, estimated by the mean utility of its samples; NaN where none was graded.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).

    Returns:
        Shape (num_prompts,).

    Examples:
        >>> expected_utility(np.array([1.0, 0.0, np.nan, np.nan]), np.array([0, 3, 4])).tolist()
        [0.5, nan]
    """
    check_utilities(utilities, offsets)
    graded = ~np.isnan(utilities)
    if graded.all():  # the usual case, a third of the time of the other
        return mean_per_prompt(utilities, offsets)
    return mean_per_prompt(utilities[graded], offsets_of_subset(graded, offsets))


def reweighted_utility(utilities: np.ndarray, weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """J_x(f[w]) of each prompt, Σ w·u / Σ w over its graded samples.

    NaN where all weights are zero: the verifier has rejected everything and f[w] does not exist there. It
    is never the plain mean and never 0.0; see `gap_per_prompt` for what may be done about it.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        weights: Non-negative, same order.
        offsets: Shape (num_prompts + 1,).

    Returns:
        Shape (num_prompts,).

    Raises:
        ValueError: If shapes differ, a weight is negative or not finite, or a utility leaves [0, 1].

    Examples:
        (3 · 1 + 1 · 0) / (3 + 1) = .75; the second prompt has no survivor:

        >>> utilities, weights = np.array([1.0, 0.0, 1.0]), np.array([3.0, 1.0, 0.0])
        >>> reweighted_utility(utilities, weights, np.array([0, 2, 3])).tolist()
        [0.75, nan]
    """
    utilities, weights, offsets, _ = drop_ungraded(utilities, weights, offsets)
    return divide_or_nan(sum_per_prompt(weights * utilities, offsets), sum_per_prompt(weights, offsets))


def drop_ungraded(
    utilities: np.ndarray, weights: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The samples that have a utility: utilities, weights, offsets, and how many were left out.

    Prompts that lose all their samples stay, empty.
    """
    check_utilities(utilities, offsets)
    check_weights(weights, offsets)
    graded = ~np.isnan(utilities)
    if graded.all():
        return utilities, weights, offsets, 0
    return utilities[graded], weights[graded], offsets_of_subset(graded, offsets), int((~graded).sum())


def check_utilities(utilities: np.ndarray, offsets: np.ndarray) -> None:
    """Raise a ValueError where a utility leaves [0, 1] or the layout does not fit; NaN is allowed."""
    check_layout(offsets, utilities)
    if utilities.size and (np.fmin.reduce(utilities) < 0.0 or np.fmax.reduce(utilities) > 1.0):
        raise ValueError("utilities must lie in [0, 1] (NaN where the grader failed)")


def fill_no_survivors(
    reweighted: np.ndarray, expected: np.ndarray, pooled: float, no_survivors: NoSurvivors
) -> np.ndarray:
    """J_x(f[w]) with a convention (ours) for prompts where all weights are zero.

    - `identity`: J_x(f); nothing is learned from that prompt, its gap is 0.
    - `skip`: NaN; the prompt leaves every mean, which conditions on prompts that the verifier likes.
    - `pooled`: Σ w·u / Σ w over all prompts, as if the trained policy did there what survivors do elsewhere.
      Optimistic: rejected prompts are mostly the hard ones.

    Args:
        reweighted: From `reweighted_utility`, NaN where no sample survives; shape (num_prompts,).
        expected: From `expected_utility`, NaN where nothing was graded; shape (num_prompts,).
        pooled: The pooled reweighted utility, used by `pooled` alone.
        no_survivors: `identity`, `skip` or `pooled`.

    Raises:
        ValueError: If the convention is unknown.
    """
    if no_survivors == "skip":
        return reweighted
    if no_survivors not in ("identity", "pooled"):
        raise ValueError(f"no_survivors must be 'identity', 'skip' or 'pooled', not {no_survivors!r}")
    substitute = expected if no_survivors == "identity" else np.where(np.isnan(expected), np.nan, pooled)
    return np.where(np.isnan(reweighted), substitute, reweighted)


def gap_per_prompt(
    utilities: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    no_survivors: NoSurvivors = "identity",
) -> np.ndarray:
    """gap_x = J_x(f[w]) - J_x(f) of each prompt; its mean over prompts is the gap (definition 2.1).

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        weights: Non-negative, same order.
        offsets: Shape (num_prompts + 1,).
        no_survivors: What stands for J_x(f[w]) where all weights are zero, see `fill_no_survivors`.

    Returns:
        In [-1, 1], NaN where nothing was graded (and, under `skip`, where nothing survived).

    Examples:
        A verifier that keeps one of two right answers and no wrong one: 1 - 2/4 = .5; all rejected: 0:

        >>> utilities = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
        >>> weights = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        >>> gap_per_prompt(utilities, weights, np.array([0, 4, 6])).tolist()
        [0.5, 0.0]
    """
    expected = expected_utility(utilities, offsets)
    reweighted = reweighted_utility(utilities, weights, offsets)
    pooled = pooled_reweighted_utility(utilities, weights)
    return fill_no_survivors(reweighted, expected, pooled, no_survivors) - expected


def relative_gap_per_prompt(
    gap: np.ndarray, expected: np.ndarray, saturated: Saturated = "skip"
) -> np.ndarray:
    """gap_x / (U_max - J_x(f)) with U_max = 1; its mean over prompts is the relative gap (definition 2.2).

    Where every sample is right this is 0/0; the convention is ours. `skip` gives NaN, so the prompt leaves
    the mean, and is nearly unbiased; `zero` gives 0 and drags the mean down at few samples a prompt (true
    .354: .281 at N = 8, where `skip` gives .343).

    Args:
        gap: From `gap_per_prompt`; shape (num_prompts,).
        expected: From `expected_utility`; shape (num_prompts,).
        saturated: `skip` or `zero`.

    Returns:
        In [-(N - 1), 1] for N binary utilities: one prompt can outweigh many.

    Raises:
        ValueError: If the convention is unknown.

    Examples:
        .1 / (1 - .75) = .4:

        >>> relative_gap_per_prompt(np.array([0.1, 0.0]), np.array([0.75, 1.0])).tolist()
        [0.4, nan]
    """
    if saturated not in ("skip", "zero"):
        raise ValueError(f"saturated must be 'skip' or 'zero', not {saturated!r}")
    full = expected >= _FULL
    ratio = divide_or_nan(gap, np.where(full, 0.0, 1.0 - expected))
    return np.where(full & ~np.isnan(gap), 0.0, ratio) if saturated == "zero" else ratio


def pooled_slopes(
    kept: np.ndarray, expected: np.ndarray, saturated: Saturated = "skip"
) -> tuple[np.ndarray, np.ndarray]:
    """How much gap_x and the relative gap of each prompt rise with the pooled utility, under `pooled`.

    Where nothing is kept the pooled utility stands in for J_x(f[w]): 1 and 1 / (1 - J_x); elsewhere 0.

    Args:
        kept: Σ w of the graded samples of each prompt; shape (num_prompts,) or (num_prompts, num_cuts).
        expected: J_x; the same shape.
        saturated: See `relative_gap_per_prompt`.

    Examples:
        >>> [slopes.tolist() for slopes in pooled_slopes(np.array([2.0, 0.0]), np.array([0.5, 0.75]))]
        [[0.0, 1.0], [0.0, 4.0]]
    """
    rejected = (kept == 0.0).astype(np.float64)
    return rejected, relative_gap_per_prompt(rejected, expected, saturated)


def covariance_gap_per_prompt(utilities: np.ndarray, weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Cov(w, u) / E[w] of each prompt, which equals gap_x exactly; NaN where all weights are zero.

    A diagnostic computed another way: deviations from the means instead of a weighted mean. It says when a
    gap is there: weights and utilities correlate on the prompt.

    Examples:
        Both deviate by .5 and -.5: Cov = (.25 + .25) / 2 = .25, and .25 / E[w] = .25 / .5 = .5:

        >>> covariance_gap_per_prompt(np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([0, 2])).tolist()
        [0.5]
    """
    utilities, weights, offsets, _ = drop_ungraded(utilities, weights, offsets)
    mean_weight, mean_utility = mean_per_prompt(weights, offsets), mean_per_prompt(utilities, offsets)
    deviations = (weights - per_sample(mean_weight, offsets)) * (
        utilities - per_sample(mean_utility, offsets)
    )
    return divide_or_nan(mean_per_prompt(deviations, offsets), np.nan_to_num(mean_weight))


def pooled_reweighted_utility(utilities: np.ndarray, weights: np.ndarray) -> float:
    """Σ w·u / Σ w over the samples of all prompts; NaN where all weights are zero.

    Examples:
        >>> pooled_reweighted_utility(np.array([1.0, 0.0, 1.0]), np.array([3.0, 1.0, 0.0]))
        0.75
    """
    graded = ~np.isnan(utilities)
    total = float(weights[graded].sum())
    return float((weights[graded] * utilities[graded]).sum()) / total if total > 0.0 else float("nan")


def pooled_gap(utilities: np.ndarray, weights: np.ndarray) -> float:
    """Σ w·u / Σ w - mean u over all samples at once: what supervised tuning on the kept samples sees (ours).

    It differs from the gap because prompts of which little is kept vanish: a threshold that only drops
    hard prompts has a pooled gap and no gap.

    Examples:
        An easy prompt kept whole (1, 1), a hard one dropped (0, 0): 1 - .5 = .5, while both gaps are 0:

        >>> pooled_gap(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]))
        0.5
    """
    return pooled_reweighted_utility(utilities, weights) - mean_or_nan(utilities)


def ratio_of_means(gap: float, expected: float) -> float:
    """Gap / (U_max - J) of the means, NaN where J = U_max; a steadier relative of the relative gap (ours).

    Examples:
        Sudoku, Qwen-2 72B: 16.99 / (100 - 8.82) = 18.63%, where the paper's mean of ratios is 20.81:

        >>> round(ratio_of_means(0.1699, 0.0882), 4)
        0.1863
    """
    return gap / (1.0 - expected) if expected < _FULL else float("nan")


def trimmed_mean(values: np.ndarray, share: float = TRIM_SHARE) -> float:
    """Mean of the values that are not NaN without the lowest and highest `share` of them (ours).

    Examples:
        Ten values, one cut from each end; (0 · 8) / 8 = 0, where the mean is -1.5:

        >>> trimmed_mean(np.array([-15.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        0.0
    """
    from scipy import stats  # .7 s to import, which the code location would pay at every load

    known = values[~np.isnan(values)]
    return float(stats.trim_mean(known, share)) if known.size else float("nan")


class BinaryVerifierGap(NamedTuple):
    """Gap and relative gap of one prompt in the limit of many samples."""

    gap: float
    relative_gap: float


def binary_verifier_gap(p: float, tpr: float, fpr: float) -> BinaryVerifierGap:
    """Closed form for a verifier that accepts right answers at rate `tpr` and wrong ones at rate `fpr`.

    gap = p(1 - p)(tpr - fpr) / (p·tpr + (1 - p)·fpr); the relative gap lacks the factor 1 - p. NaN where
    nothing is ever accepted.

    Args:
        p: Accuracy of the policy on the prompt.
        tpr: Share of right answers accepted.
        fpr: Share of wrong answers accepted.

    Examples:
        .24 · .4 / (.54 + .2) = .096 / .74 and .6 · .4 / .74:

        >>> gap, relative_gap = binary_verifier_gap(p=0.6, tpr=0.9, fpr=0.5)
        >>> round(gap, 7), round(relative_gap, 7)
        (0.1297297, 0.3243243)
    """
    accepted = p * tpr + (1.0 - p) * fpr
    if accepted == 0.0:
        return BinaryVerifierGap(float("nan"), float("nan"))
    relative_gap = p * (tpr - fpr) / accepted
    return BinaryVerifierGap((1.0 - p) * relative_gap, relative_gap)


@dataclass(frozen=True)
class GapEstimate:
    """All of a gap: means over prompts, cluster-bootstrap intervals, and what they rest on.

    Utilities and gaps are shares, not points; `_low` and `_high` are percentile interval ends.

    Attributes:
        expected_utility: Ĵ(f), mean over all graded prompts, whatever the verifier did.
        reweighted_utility: Ĵ(f[w]) under the convention `no_survivors`. Under `skip` it is a mean over fewer
            prompts than `expected_utility`, so the gap is not the difference of the two.
        gap: Mean of gap_x over prompts.
        relative_gap: Mean of gap_x / (1 - J_x) over the prompts where it is defined.
        relative_gap_ratio_of_means: Mean gap / (1 - mean J), both over the prompts that have a gap.
        relative_gap_trimmed: As `relative_gap`, a tenth of the prompts cut from each end.
        pooled_gap: Σwu/Σw - mean u over all samples at once.
        coverage: Share of graded prompts with a graded sample of positive weight.
        retained: Share of graded samples with positive weight.
        effective_sample_size: Kish's, summed over prompts.
        num_prompts: Prompts with at least one graded sample.
        num_samples: Graded samples.
        num_missing: Samples left out because their utility is NaN.
    """

    expected_utility: float
    expected_utility_low: float
    expected_utility_high: float
    reweighted_utility: float
    gap: float
    gap_low: float
    gap_high: float
    relative_gap: float
    relative_gap_low: float
    relative_gap_high: float
    relative_gap_ratio_of_means: float
    relative_gap_trimmed: float
    pooled_gap: float
    coverage: float
    retained: float
    effective_sample_size: float
    num_prompts: int
    num_samples: int
    num_missing: int


def estimate_gap(
    utilities: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    *,
    no_survivors: NoSurvivors = "identity",
    saturated: Saturated = "skip",
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> GapEstimate:
    """Gap, relative gap and their relatives with intervals, from samples of one policy under one weighting.

    Prompts without any graded sample say nothing and are left out of all means and of `num_prompts`. All
    intervals come from one set of resamples of prompts. Under `pooled` the value that stands in for rejected
    prompts is pooled anew in every resample: with 5% of the prompts covered its noise is nearly all there is.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        weights: Non-negative, same order.
        offsets: Shape (num_prompts + 1,).
        no_survivors: See `fill_no_survivors`.
        saturated: See `relative_gap_per_prompt`.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples. Equal seeds and prompts give equal resamples.

    Raises:
        ValueError: If shapes, utilities, weights or a convention are not as above.

    Examples:
        Prompt 1: J = .5, the one kept sample is right, gap .5, relative gap .5 / .5 = 1. Prompt 2: J = .5,
        nothing kept, gap 0. Pooled: 1/1 - 2/4 = .5. Ratio of means: .25 / (1 - .5) = .5.

        >>> estimate = estimate_gap(np.array([1.0, 0, 1, 0]), np.array([1.0, 0, 0, 0]), np.array([0, 2, 4]))
        >>> estimate.gap, estimate.relative_gap, estimate.pooled_gap, estimate.relative_gap_ratio_of_means
        (0.25, 0.5, 0.5, 0.5)
        >>> estimate.coverage, estimate.retained
        (0.5, 0.25)
    """
    utilities, weights, offsets, num_missing = drop_ungraded(utilities, weights, offsets)
    offsets = offsets[np.append(True, np.diff(offsets) > 0)]  # prompts without a graded sample leave
    expected = expected_utility(utilities, offsets)
    hits, kept = sum_per_prompt(weights * utilities, offsets), sum_per_prompt(weights, offsets)
    pooled = pooled_reweighted_utility(utilities, weights)
    reweighted = fill_no_survivors(divide_or_nan(hits, kept), expected, pooled, no_survivors)
    gap = reweighted - expected
    relative_gap = relative_gap_per_prompt(gap, expected, saturated)
    columns, how = np.column_stack([expected, gap, relative_gap]), (num_resamples, confidence, seed)
    if no_survivors == "pooled":
        slopes = np.column_stack([np.zeros(len(kept)), *pooled_slopes(kept, expected, saturated)])
        intervals = bootstrap_filled_means(columns, slopes, hits, kept, *how)
    else:
        intervals = bootstrap_means(columns, *how)
    utility_interval, gap_interval, relative_interval = intervals
    summary = summarise_weights(weights, offsets)
    return GapEstimate(
        expected_utility=utility_interval.estimate,
        expected_utility_low=utility_interval.low,
        expected_utility_high=utility_interval.high,
        reweighted_utility=mean_or_nan(reweighted),
        gap=gap_interval.estimate,
        gap_low=gap_interval.low,
        gap_high=gap_interval.high,
        relative_gap=relative_interval.estimate,
        relative_gap_low=relative_interval.low,
        relative_gap_high=relative_interval.high,
        relative_gap_ratio_of_means=ratio_of_means(
            gap_interval.estimate, mean_or_nan(expected[~np.isnan(gap)])
        ),
        relative_gap_trimmed=trimmed_mean(relative_gap),
        pooled_gap=pooled_gap(utilities, weights),
        coverage=summary.coverage,
        retained=summary.retained_share,
        effective_sample_size=summary.effective_sample_size,
        num_prompts=summary.num_prompts,
        num_samples=summary.num_samples,
        num_missing=num_missing,
    )
