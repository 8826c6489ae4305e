"""Does a quantity rise with pre-training compute: a line on log10 FLOPs, and Kendall's tau beside it.

Few models make a line, so the interval is wide and honest: Student's t on the residuals, num_models - 2
degrees of freedom. The noise of each point is not weighed in, and nothing is extrapolated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from si_dagster.core.student import t_quantile


@dataclass(frozen=True)
class LineFit:
    """A least-squares line.

    Attributes:
        slope: Change of y per unit of x.
        low: Lower end of the slope's t interval; NaN for two points, which leave no residual.
        high: Upper end.
        intercept: y at x = 0.
    """

    slope: float
    low: float
    high: float
    intercept: float


def line_fit(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> LineFit:
    """Ordinary least squares of y on x.

    Args:
        x: Shape (num_points,).
        y: Same shape, no NaN.
        confidence: In (0, 1).

    Raises:
        ValueError: If there are fewer than two different x.

    Examples:
        Points (0, 0), (1, 1), (2, 1): slope (1·1) / 2 = .5, intercept 2/3 - .5 = 1/6; residuals -1/6, 1/3,
        -1/6, so s² = (1/6) / 1 and the slope's error sqrt(s²/2) = .2887; t of one degree is 12.706:

        >>> fit = line_fit(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]))
        >>> round(fit.slope, 6), round(fit.intercept, 6), round(fit.high - fit.slope, 3)
        (0.5, 0.166667, 3.668)
    """
    if len(np.unique(x)) < 2:
        raise ValueError("a line needs at least two different x")
    deviations = x - x.mean()
    spread = float(deviations @ deviations)
    slope = float(deviations @ y) / spread
    intercept = float(y.mean() - slope * x.mean())
    degrees = len(x) - 2
    if degrees == 0:
        return LineFit(slope, float("nan"), float("nan"), intercept)
    residuals = y - intercept - slope * x
    error = float(np.sqrt(residuals @ residuals / degrees / spread))
    width = float(t_quantile((1.0 + confidence) / 2.0, np.array(degrees))) * error
    return LineFit(slope, slope - width, slope + width, intercept)


def kendall_tau(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Kendall's tau-b and its two-sided p-value (exact without ties); NaN where a variable is constant.

    Examples:
        Of the three pairs two rise and one falls: (2 - 1) / 3:

        >>> tau, p_value = kendall_tau(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 1.0]))
        >>> round(tau, 4), round(p_value, 4)
        (0.3333, 1.0)
    """
    from scipy import stats  # .7 s to import

    found: Any = stats.kendalltau(x, y)
    return float(found.statistic), float(found.pvalue)
