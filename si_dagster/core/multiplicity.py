"""Many tests at once: p-values adjusted by Holm, so that the chance of any false find stays what was said.

It knows nothing of the tests; that correlated tests (neighbouring thresholds) make it stricter than needed is
the price of assuming nothing about them.
"""

import numpy as np


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values of one family of tests (Holm 1979); reject where they are at most alpha.

    The i-th smallest of m is multiplied by m - i + 1, and never falls below the one before. Unknown
    p-values (NaN) stay so and do not count towards m.

    Args:
        p_values: Shape (num_tests,).

    Returns:
        In [0, 1], same order.

    Raises:
        ValueError: If a p-value lies outside [0, 1].

    Examples:
        Sorted .01, .02, .04: 3 · .01, 2 · .02, 1 · .04:

        >>> holm(np.array([0.04, 0.01, np.nan, 0.02])).round(12).tolist()
        [0.04, 0.03, nan, 0.04]
    """
    if np.any((p_values < 0.0) | (p_values > 1.0)):
        raise ValueError("p-values lie in [0, 1]")
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted
