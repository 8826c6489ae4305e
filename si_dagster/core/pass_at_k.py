"""pass@k without bias (Chen et al. 2021, arXiv 2107.03374) and majority@k (self-consistency, 2203.11171).

Both are per prompt: what k fresh answers, drawn without replacement from the N at hand, would achieve.
Neither extrapolates beyond N, and neither grades anything.
"""

import numpy as np

from si_dagster.core.samples import check_layout, sum_per_prompt


def pass_at_k(utilities: np.ndarray, offsets: np.ndarray, k: int, correct_from: float = 1.0) -> np.ndarray:
    """Probability that at least one of k samples is correct, unbiased, for each prompt.

    Ungraded samples (NaN) are left out; a prompt left with fewer than k is NaN, not an error, so that a
    failed grader does not take the whole metric down.

    Args:
        utilities: NaN where the grader failed; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        k: Answers drawn, at least 1.
        correct_from: A sample is correct from this utility on.

    Returns:
        Shape (num_prompts,).

    Raises:
        ValueError: If k < 1, or k exceeds the number of samples of a prompt that has any.

    Examples:
        One right of four, two drawn: 1 - C(3,2)/C(4,2) = 1 - 3/6:

        >>> pass_at_k(np.array([1.0, 0.0, 0.0, 0.0]), np.array([0, 4]), k=2).round(12).tolist()
        [0.5]
    """
    check_layout(offsets, utilities)
    check_num_drawn(offsets, k)
    num_graded = sum_per_prompt(~np.isnan(utilities), offsets).astype(np.int64)
    num_correct = sum_per_prompt(utilities >= correct_from, offsets).astype(np.int64)
    enough = num_graded >= k
    estimates = np.full(len(num_graded), np.nan)
    estimates[enough] = pass_at_k_from_counts(num_graded[enough], num_correct[enough], k)
    return estimates


def check_num_drawn(offsets: np.ndarray, k: int) -> None:
    """Raise a ValueError where k < 1 or some prompt was answered, but fewer than k times."""
    sizes = np.diff(offsets)
    fewest = int(sizes[sizes > 0].min()) if np.any(sizes > 0) else k
    if k < 1 or k > fewest:
        raise ValueError(f"k must lie between 1 and the {fewest} samples a prompt has, got {k}")


def pass_at_k_from_counts(num_samples: np.ndarray, num_correct: np.ndarray, k: int) -> np.ndarray:
    """1 - C(n - c, k) / C(n, k) for each pair (n, c).

    The quotient is Π (1 - c / (n - j)) over j < k, summed as logarithms: no binomial coefficient is ever
    formed, so nothing overflows, and small probabilities keep their digits.

    Args:
        num_samples: n, int; shape (num_prompts,).
        num_correct: c, int; same shape.
        k: At least 1.

    Raises:
        ValueError: If k < 1 or k > n, or c lies outside [0, n].

    Examples:
        >>> pass_at_k_from_counts(np.array([10, 10, 1_000_000]), np.array([0, 8, 1]), k=3).round(12).tolist()
        [0.0, 1.0, 3e-06]
    """
    if k < 1 or np.any(num_samples < k):
        raise ValueError(f"k must lie between 1 and the smallest number of samples, got {k}")
    if np.any((num_correct < 0) | (num_correct > num_samples)):
        raise ValueError("the number of correct samples lies outside [0, n]")
    # N samples give at most N + 1 different pairs, however many prompts there are.
    pairs = np.column_stack([num_samples, num_correct])
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    values = np.array([_one_pass_at_k(int(n), int(c), k) for n, c in distinct])
    return values[inverse.reshape(-1)] if len(pairs) else np.zeros(0)


def _one_pass_at_k(n: int, c: int, k: int) -> float:
    if c == 0 or n - c < k:
        return float(c > 0)
    return float(-np.expm1(np.log1p(-c / (n - np.arange(k))).sum()))


def majority_at_k(
    answers: np.ndarray,
    utilities: np.ndarray,
    offsets: np.ndarray,
    k: int | None,
    num_draws: int = 256,
    seed: int = 0,
) -> np.ndarray:
    """Expected utility of the most common answer among k samples drawn without replacement.

    Ties are shared evenly. A sample without an answer takes a place among the k but never wins; where none of
    the k has an answer the utility is 0. Exact when k equals the number of graded samples, otherwise the
    mean of `num_draws` seeded draws, with a standard error of at most .5/sqrt(num_draws) on a prompt (.031
    at 256), which averages out over prompts.

    Args:
        answers: Codes from `samples.answer_codes`, -1 where there is no answer; shape (num_samples,).
        utilities: NaN where the grader failed; such samples are left out, and a prompt left with fewer than
            k is NaN.
        offsets: Shape (num_prompts + 1,).
        k: Answers drawn, at least 1; `None`: all that are graded, however many of a prompt those are.
        num_draws: Draws a prompt where k is smaller than the number of samples.
        seed: Of the draws.

    Returns:
        Shape (num_prompts,).

    Raises:
        ValueError: If k < 1, or k exceeds the number of samples of a prompt that has any.

    Examples:
        Answers 5, 5, 8, none: 5 wins, and it is wrong. Answers 5, 8: a tie of a wrong and a right one.

        >>> codes = np.array([0, 0, 1, -1, 0, 1])
        >>> utilities = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
        >>> majority_at_k(codes[:4], utilities[:4], np.array([0, 4]), k=4).tolist()
        [0.0]
        >>> majority_at_k(codes[4:], utilities[4:], np.array([0, 2]), k=2).tolist()
        [0.5]
    """
    check_layout(offsets, answers, utilities)
    if k is not None:
        check_num_drawn(offsets, k)
    rng = np.random.default_rng(seed)
    graded = ~np.isnan(utilities)
    estimates = np.full(len(offsets) - 1, np.nan)
    for i in range(len(estimates)):
        rows = slice(offsets[i], offsets[i + 1])
        known = graded[rows]
        drawn = max(int(known.sum()), 1) if k is None else k
        if known.sum() >= drawn:
            estimates[i] = _one_majority(answers[rows][known], utilities[rows][known], drawn, num_draws, rng)
    return estimates


def _one_majority(
    answers: np.ndarray, utilities: np.ndarray, k: int, num_draws: int, rng: np.random.Generator
) -> float:
    codes, inverse, counts = np.unique(answers, return_inverse=True, return_counts=True)
    utility_of_code = np.bincount(inverse, weights=utilities) / counts
    if k == len(answers):
        votes = counts[None, :]
    else:
        votes = rng.multivariate_hypergeometric(counts, k, size=num_draws)
    votes = np.where(codes < 0, 0, votes)  # (draws, codes); a missing answer gets no vote
    winners = (votes == votes.max(axis=1, keepdims=True)) & (votes > 0)
    won = winners @ utility_of_code
    return float(np.mean(won / np.maximum(winners.sum(axis=1), 1)))
