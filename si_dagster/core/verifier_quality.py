"""How good a verifier is on its own: error rates, ranking and correlation of scores with true utilities.

A gap mixes the verifier with the difficulty of the prompts; these take it apart. Samples without a utility
are left out of all, those without a score out of all that read scores (an unparsed sample counts as not
accepted, since its weight is 0). A figure that is undefined is NaN. Nothing here says whether a difference
is more than noise; that is for `intervals` over the per-prompt values.
"""

from dataclasses import dataclass

import numpy as np

from si_dagster.core.gap import expected_utility, gap_per_prompt
from si_dagster.core.intervals import MIN_RESAMPLES, Interval, percentile_interval, resampled_sums
from si_dagster.core.samples import (
    check_layout,
    divide_or_nan,
    mean_or_nan,
    offsets_of_subset,
    per_sample,
    ranks_per_prompt,
    sum_per_prompt,
)


@dataclass(frozen=True)
class VerifierQuality:
    """Quality of one verifier on the samples of one policy.

    Attributes:
        true_positive_rate: Share of correct samples with positive weight.
        false_positive_rate: Share of other samples with positive weight.
        auroc: Probability that a correct sample scores above a wrong one, ties half, over all pairs; partly
            rewards telling easy prompts from hard ones, which adds nothing to the gap.
        auroc_per_prompt: Mean over prompts of the same within the prompt; this is what the gap lives on.
        pearson: Correlation of score and utility over all samples.
        num_auroc_prompts: Prompts that have both a correct and a wrong scored sample.
        num_graded: Samples with a utility.
        num_unparsed: Those of them without a score.
    """

    true_positive_rate: float
    false_positive_rate: float
    auroc: float
    auroc_per_prompt: float
    pearson: float
    num_auroc_prompts: int
    num_graded: int
    num_unparsed: int


def verifier_quality(
    utilities: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    correct_from: float = 1.0,
) -> VerifierQuality:
    """All quality figures of one verifier.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        scores: NaN if unparsed; same order.
        weights: A sample is accepted where its weight is positive; same order.
        offsets: Shape (num_prompts + 1,).
        correct_from: A sample is correct from this utility on.

    Examples:
        One of two correct samples accepted, none of two wrong; of the 4 pairs .9 > .2, .9 > .4, .3 > .2
        are in order and .3 < .4 is not: 3/4.

        >>> quality = verifier_quality(
        ...     utilities=np.array([1.0, 1.0, 0.0, 0.0]),
        ...     scores=np.array([0.9, 0.3, 0.2, 0.4]),
        ...     weights=np.array([1.0, 0.0, 0.0, 0.0]),
        ...     offsets=np.array([0, 4]),
        ... )
        >>> quality.true_positive_rate, quality.false_positive_rate, quality.auroc
        (0.5, 0.0, 0.75)
    """
    graded = ~np.isnan(utilities)
    true_positive_rate, false_positive_rate = acceptance_rates(utilities, weights, correct_from)
    within = auroc_per_prompt(utilities, scores, offsets, correct_from)
    return VerifierQuality(
        true_positive_rate=true_positive_rate,
        false_positive_rate=false_positive_rate,
        auroc=auroc(utilities, scores, correct_from),
        auroc_per_prompt=mean_or_nan(within),
        pearson=pearson(utilities, scores),
        num_auroc_prompts=int((~np.isnan(within)).sum()),
        num_graded=int(graded.sum()),
        num_unparsed=int((graded & np.isnan(scores)).sum()),
    )


def acceptance_rates(
    utilities: np.ndarray, weights: np.ndarray, correct_from: float = 1.0
) -> tuple[float, float]:
    """True and false positive rate: the shares of correct and of wrong samples that have positive weight.

    Examples:
        >>> acceptance_rates(np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.1, 0.0]))
        (1.0, 0.5)
    """
    graded = ~np.isnan(utilities)
    accepted, correct = weights[graded] > 0.0, utilities[graded] >= correct_from
    return mean_or_nan(accepted[correct].astype(float)), mean_or_nan(accepted[~correct].astype(float))


def auroc(utilities: np.ndarray, scores: np.ndarray, correct_from: float = 1.0) -> float:
    """Probability that a correct sample outscores a wrong one, ties half, over samples of all prompts.

    The Mann-Whitney statistic over the number of pairs. NaN where all samples are correct or all wrong.

    Examples:
        Pairs: .5 against .5 (half) and against .1 (one): 1.5 / 2:

        >>> auroc(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.1]))
        0.75
    """
    known = ~(np.isnan(utilities) | np.isnan(scores))
    together = np.array([0, int(known.sum())])
    return float(_auroc_from_known(utilities[known] >= correct_from, scores[known], together)[0])


def auroc_per_prompt(
    utilities: np.ndarray, scores: np.ndarray, offsets: np.ndarray, correct_from: float = 1.0
) -> np.ndarray:
    """`auroc` within each prompt; NaN where its scored samples are not of both kinds.

    Returns:
        Shape (num_prompts,).

    Examples:
        >>> utilities, scores = np.array([1.0, 0, 1, 1]), np.array([0.9, 0.1, 0.5, 0.4])
        >>> auroc_per_prompt(utilities, scores, np.array([0, 2, 4])).tolist()
        [1.0, nan]
    """
    check_layout(offsets, utilities, scores)
    known = ~(np.isnan(utilities) | np.isnan(scores))
    return _auroc_from_known(
        utilities[known] >= correct_from, scores[known], offsets_of_subset(known, offsets)
    )


def _auroc_from_known(correct: np.ndarray, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rank-sum AUROC of each prompt; ranks start at 1 in each prompt and ties share their mean rank."""
    ranks = ranks_per_prompt(scores, offsets)
    num_correct = sum_per_prompt(correct, offsets)
    num_wrong = np.diff(offsets) - num_correct
    smallest_rank_sum = num_correct * (num_correct + 1.0) / 2.0
    wins = sum_per_prompt(np.where(correct, ranks, 0.0), offsets) - smallest_rank_sum
    return divide_or_nan(wins, num_correct * num_wrong)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation over the samples where both are known; NaN where either is constant.

    Serves for scores against utilities and for the overlap of two verifiers.

    Examples:
        >>> round(pearson(np.array([0.0, 1.0, np.nan]), np.array([2.0, 5.0, 1.0])), 12)
        1.0
    """
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(a) < 2 or np.all(a == a[0]) or np.all(b == b[0]):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


CALIBRATION_BINS = 10


def calibration_error(
    utilities: np.ndarray,
    scores: np.ndarray,
    offsets: np.ndarray,
    num_resamples: int = MIN_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Expected calibration error of scores read as probabilities: Σ_b n_b/n |mean score - mean utility|.

    Ten ranges of equal width over [0, 1]. Biased up where ranges hold few samples, and zero says only that
    scores are right on average: a verifier that always says the base rate is calibrated and useless.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        scores: NaN if unparsed; same order. Scores outside [0, 1] are no probabilities: the error is NaN.
        offsets: Shape (num_prompts + 1,).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples of prompts.

    Examples:
        Said .9 and .9, one of two was right: |.9 - .5| = .4:

        >>> calibration_error(np.array([1.0, 0.0]), np.array([0.9, 0.9]), np.array([0, 2])).estimate
        0.4
    """
    known = ~(np.isnan(utilities) | np.isnan(scores))
    known_scores = scores[known]
    if not known.any() or known_scores.min() < 0.0 or known_scores.max() > 1.0:
        return Interval(float("nan"), float("nan"), float("nan"))
    bins = np.minimum((known_scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    prompts = per_sample(np.arange(len(offsets) - 1), offsets)[known]
    cells = prompts * CALIBRATION_BINS + bins
    shape = (len(offsets) - 1, CALIBRATION_BINS)
    counts, excess = (
        np.bincount(cells, weights=weights, minlength=shape[0] * shape[1]).reshape(shape)
        for weights in (np.ones(cells.size), known_scores - utilities[known])
    )
    columns = np.hstack([counts, excess])
    estimate = _calibration_error_of(columns.sum(axis=0)[None, :])[0]
    draws = _calibration_error_of(resampled_sums(columns, num_resamples, seed))
    return percentile_interval(float(estimate), draws, confidence)


def _calibration_error_of(sums: np.ndarray) -> np.ndarray:
    """From counts and summed score - utility of each range; shape (num_draws,)."""
    counts, excess = sums[:, :CALIBRATION_BINS], sums[:, CALIBRATION_BINS:]
    return divide_or_nan(np.abs(excess).sum(axis=1), counts.sum(axis=1))


@dataclass(frozen=True)
class DifficultyBin:
    """The prompts of one range of J_i: what the verifier does there and what the gap is.

    Attributes:
        low: Smallest J_i of the range.
        high: Largest J_i of the range, itself excluded unless it equals `low`.
        num_prompts: Prompts in it.
        expected_utility: Mean J_i, NaN without prompts, like all that follow.
        gap: Mean gap_i, rejected prompts under `identity`.
        true_positive_rate: Over the samples of the range.
        false_positive_rate: Over the samples of the range.
        auroc_per_prompt: Mean over the prompts that have both kinds.
    """

    low: float
    high: float
    num_prompts: int
    expected_utility: float
    gap: float
    true_positive_rate: float
    false_positive_rate: float
    auroc_per_prompt: float

    @property
    def label(self) -> str:
        """The range as text; J = 0 itself is not in the range above it."""
        if self.low == self.high:
            return f"J={self.low:g}"
        return f"{self.low:g}{'<' if self.low == 0.0 else '<='}J<{self.high:g}"


DIFFICULTY_EDGES = (0.25, 0.5, 0.75)
"""Inner edges of the ranges of J_i (ours)."""


def difficulty_bins(expected: np.ndarray, inner_edges: tuple[float, ...] = DIFFICULTY_EDGES) -> np.ndarray:
    """Number of the range of each J_i, 0 for J_i = 0, the last for J_i = 1, -1 for NaN.

    Examples:
        >>> difficulty_bins(np.array([0.0, 0.1, 0.5, 1.0, np.nan])).tolist()
        [0, 1, 3, 5, -1]
    """
    tops = np.array([*inner_edges, 1.0])
    # searchsorted counts the edges at or below what lies between.
    bins = np.where(expected <= 0.0, 0, 1 + np.searchsorted(tops, expected, side="right"))
    return np.where(np.isnan(expected), -1, bins)


def quality_by_difficulty(
    utilities: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    inner_edges: tuple[float, ...] = DIFFICULTY_EDGES,
) -> list[DifficultyBin]:
    """Take a gap apart by the measured difficulty J_i of the prompts, hardest first (ours).

    J_i = 0 and J_i = 1 are bins of their own: no weighting can have a gap there. J_i is measured on the same
    samples, so with few samples a bin holds prompts whose true difficulty lies outside it.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        scores: NaN if unparsed; same order.
        weights: Non-negative, same order.
        offsets: Shape (num_prompts + 1,).
        inner_edges: Rising, inside (0, 1).

    Examples:
        >>> bins = quality_by_difficulty(
        ...     np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.5, 0.5]), np.array([1.0, 0, 1, 1]),
        ...     np.array([0, 2, 4]),
        ... )
        >>> [(b.low, b.high, b.num_prompts, b.gap) for b in bins if b.num_prompts]
        [(0.0, 0.0, 1, 0.0), (0.5, 0.75, 1, 0.5)]
    """
    expected = expected_utility(utilities, offsets)
    gap = gap_per_prompt(utilities, weights, offsets)
    within = auroc_per_prompt(utilities, scores, offsets)
    bins = difficulty_bins(expected, inner_edges)
    lows = [0.0, 0.0, *inner_edges, 1.0]
    highs = [0.0, *inner_edges, 1.0, 1.0]
    ranges = []
    for b, (low, high) in enumerate(zip(lows, highs, strict=True)):
        chosen = bins == b
        rows = per_sample(chosen, offsets)
        true_positive_rate, false_positive_rate = acceptance_rates(utilities[rows], weights[rows])
        ranges.append(
            DifficultyBin(
                low=low,
                high=high,
                num_prompts=int(chosen.sum()),
                expected_utility=mean_or_nan(expected[chosen]),
                gap=mean_or_nan(gap[chosen]),
                true_positive_rate=true_positive_rate,
                false_positive_rate=false_positive_rate,
                auroc_per_prompt=mean_or_nan(within[chosen]),
            )
        )
    return ranges
