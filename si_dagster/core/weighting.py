"""From verifier scores to weights: the function w of the reweighted policy f[w] ∝ f·w (arXiv 2412.02674).

A weight means something only beside the others of its prompt: f[w] is normalised per prompt, so scaling a
prompt's weights changes nothing. An unparsed score (NaN) is never kept, whatever the rule; give it a
value first with `fill_unparsed` if it should be. This module sees no utilities, so it cannot tell whether
a weighting is any good, and it does not choose its own thresholds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from si_dagster.core.samples import (
    blocks_of_equal_size,
    check_layout,
    max_per_prompt,
    mean_per_prompt,
    offsets_of_subset,
    per_sample,
    sum_per_prompt,
)

UnparsedPolicy = Literal["reject", "neutral"]
Ties = Literal["keep", "random"]


def fill_unparsed(scores: np.ndarray, offsets: np.ndarray, policy: UnparsedPolicy) -> np.ndarray:
    """Scores with the unparsed ones (NaN) dealt with (ours).

    `reject` leaves NaN, which every weighting turns into weight 0. `neutral` gives the mean parsed score
    of the prompt, or of all prompts where the prompt has none; where nothing at all was parsed NaN stays.

    Args:
        scores: Proxy utility of each sample, NaN if unparsed; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        policy: `reject` or `neutral`.

    Raises:
        ValueError: If the policy is neither.

    Examples:
        The first prompt's mean is (2 + 4) / 2 = 3; the second has none, the mean of all is (2 + 4) / 2 = 3:

        >>> fill_unparsed(np.array([2.0, np.nan, 4.0, np.nan]), np.array([0, 3, 4]), "neutral").tolist()
        [2.0, 3.0, 4.0, 3.0]
    """
    check_layout(offsets, scores)
    if policy == "reject":
        return scores.copy()
    if policy != "neutral":
        raise ValueError(f"unparsed policy must be 'reject' or 'neutral', not {policy!r}")
    parsed = ~np.isnan(scores)
    if not parsed.any():
        return scores.copy()
    means = mean_per_prompt(scores[parsed], offsets_of_subset(parsed, offsets))
    means = np.where(np.isnan(means), scores[parsed].mean(), means)
    return np.where(parsed, scores, per_sample(means, offsets))


def quantile_weights(
    scores: np.ndarray, offsets: np.ndarray, q: float, ties: Ties = "keep", seed: int = 0
) -> np.ndarray:
    """Keep the best of each prompt: weight 1 from the prompt's q-quantile on (paper: "top n").

    With `keep`, the rule is score >= quantile (linear interpolation), so all ties stay: scores 1..10 at
    q = .7, .8 and .9 can keep the same samples. With `random` (ours), exactly the best
    ceil((1 - q)·n) of the n parsed samples stay, at least one, ties broken by a seeded draw. Unparsed
    samples neither count towards n nor stay.

    Args:
        scores: NaN if unparsed; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        q: In [0, 1]; .75 keeps about a quarter.
        ties: `keep` or `random`.
        seed: Decides ties under `random`.

    Returns:
        Weights 0.0 or 1.0, shape (num_samples,).

    Raises:
        ValueError: If q lies outside [0, 1] or `ties` is unknown.

    Examples:
        The median of 1, 2, 2, 3 is 2, which three samples reach; ceil(.5 · 4) = 2:

        >>> scores, offsets = np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 4])
        >>> quantile_weights(scores, offsets, 0.5).tolist()
        [0.0, 1.0, 1.0, 1.0]
        >>> quantile_weights(scores, offsets, 0.5, ties="random").sum()
        np.float64(2.0)
    """
    check_quantile(q)
    parsed_counts = sum_per_prompt(~np.isnan(scores), offsets).astype(np.int64)
    if ties == "random":
        return best_weights(scores, offsets, num_kept_at_quantile(parsed_counts, q), seed)
    if ties != "keep":
        raise ValueError(f"ties must be 'keep' or 'random', not {ties!r}")
    thresholds = quantile_per_prompt(scores, offsets, parsed_counts, q)
    return (scores >= per_sample(thresholds, offsets)).astype(np.float64)


def check_quantile(q: float) -> None:
    """Raise a ValueError where q is no quantile."""
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile lies in [0, 1], got {q}")


def num_kept_at_quantile(parsed_counts: np.ndarray, q: float) -> np.ndarray:
    """How many samples of each prompt stay when ties are broken: ceil((1 - q)·n), at least 1 of n > 0.

    Examples:
        (1 - .7)·10 is 3.0000000000000004 in floats and must not become 4:

        >>> num_kept_at_quantile(np.array([10, 3, 0]), 0.7).tolist()
        [3, 1, 0]
    """
    kept = np.ceil(np.round((1.0 - q) * parsed_counts, 9)).astype(np.int64)
    return np.minimum(np.maximum(kept, 1), parsed_counts)


def rank_of_quantile(parsed_counts: np.ndarray, q: float) -> np.ndarray:
    """Index, in ascending order, of the smallest score that reaches the linearly interpolated q-quantile.

    The quantile lies at position (n - 1)·q between two order statistics; the scores that reach it are
    those from the upper one on, so no interpolation, and none of its rounding, is needed.

    Examples:
        Position 9 · .75 = 6.75, so the score of index 7 is the first to reach it:

        >>> rank_of_quantile(np.array([10]), 0.75).tolist()
        [7]
    """
    return np.ceil(np.round((np.maximum(parsed_counts, 1) - 1) * q, 9)).astype(np.int64)


def quantile_per_prompt(
    scores: np.ndarray, offsets: np.ndarray, parsed_counts: np.ndarray, q: float
) -> np.ndarray:
    """The smallest score of each prompt that reaches its q-quantile; NaN where nothing was parsed."""
    thresholds = np.full(len(offsets) - 1, np.nan)
    for prompts, rows in blocks_of_equal_size(offsets):
        ascending = np.sort(scores[rows], axis=1)  # NaN last
        ranks = rank_of_quantile(parsed_counts[prompts], q)
        thresholds[prompts] = ascending[np.arange(len(prompts)), ranks]
    return thresholds


def threshold_weights(scores: np.ndarray, tau: float) -> np.ndarray:
    """Rejection sampling with one threshold for all prompts, w(s) = 1[s >= tau] (paper).

    Choosing tau on the data it is scored on inflates the gap: choose it on a split of the prompts.

    Examples:
        >>> threshold_weights(np.array([0.2, 0.7, np.nan]), 0.7).tolist()
        [0.0, 1.0, 0.0]
    """
    return (scores >= tau).astype(np.float64)


def exponential_weights(scores: np.ndarray, offsets: np.ndarray, beta: float) -> np.ndarray:
    """KL-regularised reinforcement learning, w(s) = exp(s / beta) (paper).

    Each prompt's largest score is subtracted first, which scales its weights and so changes nothing but
    keeps exp from overflowing: the best sample of a prompt has weight 1. A large beta approaches
    uniform weights over the parsed samples, a small one best-of-N with ties shared.

    Args:
        scores: NaN if unparsed (weight 0); shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        beta: Temperature in units of the score, > 0; infinity is allowed.

    Raises:
        ValueError: If beta is not positive.

    Examples:
        exp(-ln 2) = .5 a unit below the best:

        >>> weights = exponential_weights(np.array([1.0, 2.0, np.nan]), np.array([0, 3]), beta=1 / np.log(2))
        >>> weights.round(12).tolist()
        [0.5, 1.0, 0.0]
    """
    if not beta > 0.0:
        raise ValueError(f"beta must be positive, got {beta}")
    best = per_sample(max_per_prompt(scores, offsets), offsets)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # A tiny beta overflows to exp(-inf) = 0, as it should; a NaN from -inf scores becomes 0 or 1 below.
        weights = np.exp((scores - best) / beta)
    return np.where(scores == best, 1.0, np.nan_to_num(weights))


def best_of_n_weights(scores: np.ndarray, offsets: np.ndarray, k: int = 1, seed: int = 0) -> np.ndarray:
    """Weight 1 for the k best parsed samples of each prompt, ties broken by a seeded draw.

    Where fewer than k were parsed, all of those stay.

    Raises:
        ValueError: If k < 1.

    Examples:
        >>> best_of_n_weights(np.array([0.1, 0.9, np.nan, 0.3]), np.array([0, 3, 4])).tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    if k < 1:
        raise ValueError(f"best-of-N keeps at least one sample, got k={k}")
    return best_weights(scores, offsets, np.full(len(offsets) - 1, k), seed)


def best_weights(scores: np.ndarray, offsets: np.ndarray, num_kept: np.ndarray, seed: int) -> np.ndarray:
    """Weight 1 for the `num_kept[i]` best parsed samples of prompt i, ties broken by a seeded draw.

    Args:
        scores: NaN if unparsed; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        num_kept: Samples to keep of each prompt, shape (num_prompts,).
        seed: Decides ties.
    """
    check_layout(offsets, scores)
    lots = np.random.default_rng(seed).random(len(scores))
    weights = np.zeros(len(scores))
    for prompts, rows in blocks_of_equal_size(offsets):
        order = np.lexsort((lots[rows], -scores[rows]), axis=-1)  # best first, NaN last
        kept = np.arange(rows.shape[1]) < num_kept[prompts][:, None]
        weights[np.take_along_axis(rows, order, axis=1)[kept]] = 1.0
    weights[np.isnan(scores)] = 0.0
    return weights


def cap_per_prompt(weights: np.ndarray, offsets: np.ndarray, cap: int, seed: int = 0) -> np.ndarray:
    """Keep at most `cap` samples of each prompt, those of highest weight, ties broken by a seeded draw.

    As in ReST-EM (arXiv 2312.06585), so that easy prompts do not crowd out the training set. The kept
    weights are unchanged.

    Raises:
        ValueError: If cap < 1.

    Examples:
        >>> cap_per_prompt(np.array([0.5, 0.9, 0.7, 0.1]), np.array([0, 3, 4]), cap=2).tolist()
        [0.0, 0.9, 0.7, 0.1]
    """
    if cap < 1:
        raise ValueError(f"a cap keeps at least one sample, got {cap}")
    return weights * best_weights(weights, offsets, np.full(len(offsets) - 1, cap), seed)


def collapse_duplicates(
    weights: np.ndarray,
    offsets: np.ndarray,
    completion_codes: np.ndarray,
    duplicates: Literal["sum", "keep"] = "keep",
) -> np.ndarray:
    """One row for all identical completions of one prompt; the other rows get weight 0.

    The row that stays is the one of highest weight, the first of them where several are equal. What
    becomes of the weight is ours: `keep` leaves that row its own weight, so that a completion drawn
    ten times counts once (as in RFT, arXiv 2308.01825; this flattens f[w]), `sum` gives it the weight of
    all, which leaves f[w] what it was with fewer rows.

    Args:
        weights: Non-negative, shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        completion_codes: Equal integers for equal completions, shape (num_samples,).
        duplicates: `keep` or `sum`.

    Raises:
        ValueError: If `duplicates` is neither.

    Examples:
        >>> weights, offsets, codes = np.ones(4), np.array([0, 3, 4]), np.array([7, 7, 8, 7])
        >>> collapse_duplicates(weights, offsets, codes).tolist()
        [1.0, 0.0, 1.0, 1.0]
        >>> collapse_duplicates(weights, offsets, codes, duplicates="sum").tolist()
        [2.0, 0.0, 1.0, 1.0]
    """
    check_layout(offsets, weights, completion_codes)
    if duplicates not in ("sum", "keep"):
        raise ValueError(f"duplicates must be 'sum' or 'keep', not {duplicates!r}")
    prompts = per_sample(np.arange(len(offsets) - 1), offsets)
    order = np.lexsort((-weights, completion_codes, prompts))  # stable: the first of equal rows stays first
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (np.diff(prompts[order]) != 0) | (np.diff(completion_codes[order]) != 0)
    starts = np.flatnonzero(opens)
    collapsed = np.zeros(len(weights))
    if len(starts):
        summed = np.add.reduceat(weights[order], starts, dtype=np.float64)
        collapsed[order[starts]] = summed if duplicates == "sum" else weights[order[starts]]
    return collapsed


@dataclass(frozen=True)
class WeightingSummary:
    """What a weighting leaves.

    Attributes:
        retained_share: Share of samples with positive weight.
        coverage: Share of prompts with at least one sample of positive weight; prompts without samples
            count as not covered.
        effective_sample_size: Kish's (Σw)² / Σw² of each prompt, summed over prompts. Per prompt, since a
            prompt's scale means nothing; for 0/1 weights it is the number of kept samples.
        num_samples: Samples before weighting.
        num_prompts: Prompts before weighting.
    """

    retained_share: float
    coverage: float
    effective_sample_size: float
    num_samples: int
    num_prompts: int


def summarise_weights(weights: np.ndarray, offsets: np.ndarray) -> WeightingSummary:
    """Retained share, coverage and effective sample size of a weighting; NaN shares of nothing.

    Examples:
        Kish: (1 + 3)² / (1 + 9) = 1.6 for the first prompt, nothing for the second:

        >>> summary = summarise_weights(np.array([1.0, 3.0, 0.0, 0.0]), np.array([0, 2, 4]))
        >>> summary.retained_share, summary.coverage, round(summary.effective_sample_size, 12)
        (0.5, 0.5, 1.6)
    """
    check_weights(weights, offsets)
    num_samples, num_prompts = len(weights), len(offsets) - 1
    covered = max_per_prompt(weights, offsets) > 0.0
    return WeightingSummary(
        retained_share=float(np.mean(weights > 0.0)) if num_samples else float("nan"),
        coverage=float(np.mean(covered)) if num_prompts else float("nan"),
        effective_sample_size=float(effective_samples_per_prompt(weights, offsets).sum()),
        num_samples=num_samples,
        num_prompts=num_prompts,
    )


def effective_samples_per_prompt(weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Kish's effective sample size (Σw)² / Σw² of each prompt; 0.0 where all weights are zero.

    Examples:
        >>> effective_samples_per_prompt(np.array([2.0, 2.0, 0.0, 0.0]), np.array([0, 3, 4])).tolist()
        [2.0, 0.0]
    """
    largest = max_per_prompt(weights, offsets)
    # Scaled by the largest weight of the prompt: squares of weights near 1e-200 would vanish.
    scale = np.where(largest > 0.0, largest, 1.0)
    scaled = weights / per_sample(scale, offsets)
    sums, squares = sum_per_prompt(scaled, offsets), sum_per_prompt(scaled**2, offsets)
    return np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0.0)


def check_weights(weights: np.ndarray, offsets: np.ndarray) -> None:
    """Raise a ValueError where a weight is negative, infinite or NaN, or the layout does not fit."""
    check_layout(offsets, weights)
    if not (np.isfinite(weights).all() and (weights >= 0.0).all()):
        raise ValueError("weights must be finite and non-negative (an unparsed score has weight 0, not NaN)")
