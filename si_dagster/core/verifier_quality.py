"""How good a verifier is on its own: error rates, ranking and correlation of scores with true utilities.

A gap mixes the verifier with the difficulty of the prompts; these take it apart. Samples without a utility
are left out of all, those without a score out of all that read scores (an unparsed sample counts as not
accepted, since its weight is 0). A figure that is undefined is NaN. Intervals resample prompts; nothing here
compares two verifiers, which is for `intervals.paired_difference` over per-prompt values.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from si_dagster.core.gap import NoSurvivors, expected_utility, gap_per_prompt
from si_dagster.core.intervals import (
    MIN_RESAMPLES,
    UNKNOWN,
    Interval,
    bootstrap_ratio,
    bootstrap_ratios,
    resampled_sums,
)
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


def acceptance_counts(
    utilities: np.ndarray, weights: np.ndarray, offsets: np.ndarray, correct_from: float = 1.0
) -> np.ndarray:
    """Correct samples accepted, correct ones, wrong ones accepted, wrong ones; shape (num_prompts, 4).

    The rates of `acceptance_rates` are ratios of their sums, and so are those of any set of prompts.

    Examples:
        >>> acceptance_counts(np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.1, 0.0]), np.array([0, 3])).tolist()
        [[1.0, 1.0, 1.0, 2.0]]
    """
    correct, wrong = utilities >= correct_from, utilities < correct_from  # NaN is neither
    accepted = weights > 0.0
    masks = (correct & accepted, correct, wrong & accepted, wrong)
    return np.column_stack([sum_per_prompt(mask, offsets) for mask in masks])


def acceptance_intervals(
    utilities: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    num_resamples: int = MIN_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, Interval]:
    """`acceptance_rates` with intervals over prompts.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        weights: A sample is accepted where its weight is positive; same order.
        offsets: Shape (num_prompts + 1,).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples of prompts.

    Examples:
        One prompt has both of its right answers accepted, the other none of two; no wrong answer, no rate:

        >>> tpr, fpr = acceptance_intervals(np.ones(4), np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 2, 4]))
        >>> tpr, fpr.estimate
        (Interval(estimate=0.5, low=0.0, high=1.0), nan)
    """
    counts = acceptance_counts(utilities, weights, offsets)
    rates = bootstrap_ratios(counts[:, 0::2], counts[:, 1::2], num_resamples, confidence, seed)
    return rates[0], rates[1]


def match_accuracy(
    winners: np.ndarray,
    losers: np.ndarray,
    prompts: np.ndarray,
    num_prompts: int,
    num_resamples: int = MIN_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    correct_from: float = 1.0,
) -> Interval:
    """Share of the matches of a right with a wrong answer that the right one won; 1/2 is chance (ours).

    Of all matches at once, prompts resampled. Matches of two right or two wrong answers say nothing.

    Args:
        winners: Utility of who won each match, NaN where the grader failed; shape (num_matches,).
        losers: Utility of who lost it; same order.
        prompts: Place of its prompt, from 0; same order.
        num_prompts: Prompts that there are.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples of prompts.
        correct_from: A sample is correct from this utility on.

    Examples:
        Won, lost and a match of two right ones, of one prompt:

        >>> match_accuracy(np.array([1.0, 0, 1]), np.array([0.0, 1, 1]), np.array([0, 0, 0]), 1).estimate
        0.5
    """
    won = (winners >= correct_from) & (losers < correct_from)
    lost = (winners < correct_from) & (losers >= correct_from)
    num_won, num_told = (np.bincount(prompts[mask], minlength=num_prompts) for mask in (won, won | lost))
    return bootstrap_ratio(num_won, num_told, num_resamples, confidence, seed)


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
    """Expected calibration error of scores that are probabilities: Σ_b n_b/n |mean score - mean utility|.

    Ten ranges of equal width over [0, 1]. Biased up where ranges hold few samples, and zero says only that
    scores are right on average: a verifier that always says the base rate is calibrated and useless. Whether
    scores are meant as probabilities is known to the caller alone: marks that all happen to be 1 look so too.

    The interval is the estimate plus and minus the `confidence` quantile of Σ_b |error of range b| over
    resamples, cut to [0, 1] (ours). Percentiles would not do: distances grow with noise, and a resample has
    that of the data and its own, so they can lie above the estimate and never reach a true 0. By the triangle
    inequality this one is wide enough, and up to some twice too wide where many ranges hold samples.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        scores: NaN if unparsed; same order. One outside [0, 1] is no probability: the error is NaN.
        offsets: Shape (num_prompts + 1,).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples of prompts.

    Examples:
        Said .9 and .9, one of two was right: |.9 - .5| = .4:

        >>> calibration_error(np.array([1.0, 0.0]), np.array([0.9, 0.9]), np.array([0, 2])).estimate
        0.4
    """
    columns = _calibration_columns(utilities, scores, offsets)
    if columns is None:
        return UNKNOWN
    excess = _excess_of_ranges(columns.sum(axis=0)[None, :])
    drawn = _excess_of_ranges(resampled_sums(columns, num_resamples, seed))
    estimate = float(np.abs(excess).sum())
    away = float(np.nanquantile(np.abs(drawn - excess).sum(axis=1), confidence))
    return Interval(estimate, max(0.0, estimate - away), min(1.0, estimate + away))


def _calibration_columns(utilities: np.ndarray, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
    """Count, and summed score - utility of each range, (num_prompts, 1 + bins); `None`: no probabilities."""
    known = ~(np.isnan(utilities) | np.isnan(scores))
    known_scores = scores[known]
    if not known.any() or known_scores.min() < 0.0 or known_scores.max() > 1.0:
        return None
    bins = np.minimum((known_scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    shape = (len(offsets) - 1, CALIBRATION_BINS)
    cells = per_sample(np.arange(shape[0]), offsets)[known] * CALIBRATION_BINS + bins
    excess = np.bincount(cells, weights=known_scores - utilities[known], minlength=shape[0] * shape[1])
    return np.column_stack([sum_per_prompt(known, offsets), excess.reshape(shape)])


def _excess_of_ranges(sums: np.ndarray) -> np.ndarray:
    """n_b/n (mean score - mean utility) from sums of `_calibration_columns`; shape (num_draws, bins)."""
    return divide_or_nan(sums[:, 1:], sums[:, :1])


DIFFICULTY_EDGES = (0.25, 0.5, 0.75)
"""Inner edges of the ranges of J_i (ours)."""


ALL_PROMPTS = "all"
"""What the range of all graded prompts is called."""


@dataclass(frozen=True)
class DifficultyBin:
    """The prompts of one range of J_i: what the verifier does there and what the gap is.

    Attributes:
        label: The range as text, or `all`.
        num_prompts: Graded prompts in it.
        expected_utility: Mean J_i; like all that follow with its interval, NaN where nothing is known.
        gap: Mean gap_i; prompts without survivors by the convention that was asked for.
        coverage: Share of its prompts with a graded sample of positive weight. Under `skip` the gap is that
            of these prompts alone.
        true_positive_rate: Over the samples of the range.
        false_positive_rate: Over the samples of the range.
        auroc_per_prompt: Mean over the prompts that have both kinds.
        mean_score: Over the graded samples with a score.
        calibration_error: See `calibration_error`; of all prompts alone, NaN elsewhere: prompts picked by J_i
            are picked for having been right more or less often. NaN where scores are no probabilities.
    """

    label: str
    num_prompts: int
    expected_utility: Interval
    gap: Interval
    coverage: Interval
    true_positive_rate: Interval
    false_positive_rate: Interval
    auroc_per_prompt: Interval
    mean_score: Interval
    calibration_error: Interval


def difficulty_labels(inner_edges: tuple[float, ...] = DIFFICULTY_EDGES) -> list[str]:
    """The ranges as text, in the order of `difficulty_bins`; J = 0 itself is not in the range above it.

    Examples:
        >>> difficulty_labels((0.5,))
        ['J=0', '0<J<0.5', '0.5<=J<1', 'J=1']
    """
    edges = (0.0, *inner_edges, 1.0)
    between = [f"{low:g}{'<' if low == 0.0 else '<='}J<{high:g}" for low, high in pairwise(edges)]
    return ["J=0", *between, "J=1"]


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
    *,
    no_survivors: NoSurvivors = "identity",
    are_probabilities: bool = False,
    num_resamples: int = MIN_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[DifficultyBin]:
    """Take a gap apart by the measured difficulty J_i of the prompts: all of them, then hardest first (ours).

    J_i = 0 and J_i = 1 are bins of their own: no weighting can have a gap there (but by `pooled`). J_i is
    measured on the same samples, so with few samples a bin holds prompts whose true difficulty lies outside
    it. All intervals are of one set of resamples of all prompts, so a bin has more or fewer of them as it
    would in a new study; what `pooled` puts in is held fixed.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        scores: NaN if unparsed; same order.
        weights: Non-negative, same order.
        offsets: Shape (num_prompts + 1,).
        inner_edges: Rising, inside (0, 1).
        no_survivors: See `gap.fill_no_survivors`; of all prompts, so that bins add up to the whole.
        are_probabilities: Whether scores are meant as chances of being right, and have a calibration.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples of prompts.

    Examples:
        >>> bins = quality_by_difficulty(
        ...     np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.5, 0.5]), np.array([1.0, 0, 1, 1]),
        ...     np.array([0, 2, 4]),
        ... )
        >>> [(b.label, b.num_prompts, b.gap.estimate) for b in bins if b.num_prompts]
        [('all', 2, 0.25), ('J=0', 1, 0.0), ('0.5<=J<0.75', 1, 0.5)]
    """
    expected, labels = expected_utility(utilities, offsets), difficulty_labels(inner_edges)
    bins, how = difficulty_bins(expected, inner_edges), (num_resamples, confidence, seed)
    chosen = np.column_stack([bins >= 0, *(bins == b for b in range(len(labels)))])
    means = {
        "expected_utility": expected,
        "gap": gap_per_prompt(utilities, weights, offsets, no_survivors),
        "auroc_per_prompt": auroc_per_prompt(utilities, scores, offsets),
    }
    ratios = {name: (np.nan_to_num(values), ~np.isnan(values)) for name, values in means.items()}
    ratios |= _sample_ratios(utilities, scores, weights, offsets)
    found = _of_ranges(ratios, chosen, how)
    calibration = UNKNOWN
    if are_probabilities:
        calibration = calibration_error(utilities, scores, offsets, *how)
    return [
        DifficultyBin(
            label,
            int(chosen[:, b].sum()),
            **{name: intervals[b] for name, intervals in found.items()},
            calibration_error=UNKNOWN if b else calibration,
        )
        for b, label in enumerate([ALL_PROMPTS, *labels])
    ]


def _sample_ratios(
    utilities: np.ndarray, scores: np.ndarray, weights: np.ndarray, offsets: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Figures that are counts of samples over counts, as the sums of each prompt; coverage counts prompts."""
    right_kept, right, wrong_kept, wrong = acceptance_counts(utilities, weights, offsets).T
    parsed = ~(np.isnan(scores) | np.isnan(utilities))
    score_sums = sum_per_prompt(np.where(parsed, scores, 0.0), offsets)
    return {
        "coverage": (right_kept + wrong_kept > 0, right + wrong > 0),
        "true_positive_rate": (right_kept, right),
        "false_positive_rate": (wrong_kept, wrong),
        "mean_score": (score_sums, sum_per_prompt(parsed, offsets)),
    }


def _of_ranges(
    ratios: dict[str, tuple[np.ndarray, np.ndarray]], chosen: np.ndarray, how: tuple[int, float, int]
) -> dict[str, list[Interval]]:
    """The ratio of sums of each figure over each set of prompts, all over one set of resamples."""
    above, below = (
        np.hstack([chosen * of_prompt[side][:, None] for of_prompt in ratios.values()]) for side in (0, 1)
    )
    found, num_sets = bootstrap_ratios(above, below, *how), chosen.shape[1]
    return {name: found[f * num_sets : (f + 1) * num_sets] for f, name in enumerate(ratios)}
