"""How faithful an update was: what of the gap of f_t arrived in f_{t+1} (arXiv 2412.02674, section 2).

J(f_{t+1}) - J(f_t) >= gap - epsilon, so the signed error is epsilon = J(f_t[w]) - J(f_{t+1}); it is negative
where the update did better than the reweighted policy, for one by learning the answer format. All
comparisons are paired: the same prompts in the same order, which the caller answers for. This module
does not know why an update lost something.
"""

import numpy as np

from si_dagster.core.intervals import Interval, paired_difference


def update_error(
    reweighted: np.ndarray,
    next_expected: np.ndarray,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Signed update error, mean over prompts of J_x(f_t[w]) - J_x(f_{t+1}), with a paired interval.

    Args:
        reweighted: J_x(f_t[w]), from `gap.fill_no_survivors` under the convention of the gap it belongs to;
            prompts that are NaN are skipped; shape (num_prompts,).
        next_expected: J_x(f_{t+1}) on the same prompts in the same order.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        f_t[w] reaches .8 and .6, the next policy only .7 and .6; (.1 + 0) / 2 = .05 was lost:

        >>> round(update_error(np.array([0.8, 0.6]), np.array([0.7, 0.6])).estimate, 12)
        0.05
    """
    return paired_difference(reweighted, next_expected, num_resamples, confidence, seed)


def improvement(
    expected: np.ndarray,
    next_expected: np.ndarray,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """J(f_{t+1}) - J(f_t), mean over the prompts that both iterations answered, with a paired interval.

    Arguments and errors as in `update_error`.

    Examples:
        >>> round(improvement(np.array([0.5, 0.5]), np.array([0.75, 0.5])).estimate, 12)
        0.125
    """
    return paired_difference(next_expected, expected, num_resamples, confidence, seed)
