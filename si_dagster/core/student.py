"""Student's t: its distribution function and quantiles, for intervals and tests of many means at once.

The same as scipy.special's stdtr and stdtrit to 1e-9, without the .3 s that importing it takes, which is a
third of what `si-dagster sweep` may take in all. No other distribution is here.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_TERMS = 300
"""Of the continued fraction; converged to 1e-15 long before, but near its turning point."""


def t_cdf(t: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """P(T <= t) with `degrees` degrees of freedom; NaN for NaN, 0 and 1 at the infinities.

    Args:
        t: Any shape.
        degrees: At least 1, broadcast with t.

    Examples:
        One degree is Cauchy's: 1/2 + arctan(1)/π = 3/4:

        >>> round(float(t_cdf(np.array(1.0), np.array(1.0))), 12)
        0.75
    """
    t, degrees = np.broadcast_arrays(np.asarray(t, dtype=float), np.asarray(degrees, dtype=float))
    with np.errstate(invalid="ignore", over="ignore"):
        x = degrees / (degrees + t * t)
    tail = 0.5 * _incomplete_beta(degrees / 2.0, 0.5, np.where(np.isnan(x), 0.0, x))
    values = np.where(t > 0, 1.0 - tail, tail)
    return np.where(np.isnan(t), np.nan, values)


def t_quantile(p: float, degrees: np.ndarray) -> np.ndarray:
    """The t below which T lies with probability p, for p in [1/2, 1).

    Examples:
        >>> round(float(t_quantile(0.975, np.array(1.0))), 6)
        12.706205
    """
    different, inverse = np.unique(np.asarray(degrees, dtype=float), return_inverse=True)
    quantiles = np.array([_quantile(p, float(each)) for each in different])
    return quantiles[inverse].reshape(np.shape(degrees))


@lru_cache
def _quantile(p: float, degrees: float) -> float:
    """One quantile by Newton's steps; nearly all statistics of a sweep ask for the same.

    The normal quantile lies below that of t and the distribution function is concave above 0, so the steps
    rise towards the quantile and never pass it.
    """
    t, log_constant = NormalDist().inv_cdf(p), math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    for _ in range(100):
        density = math.exp(log_constant - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        density /= math.sqrt(degrees * math.pi)
        step = (p - float(t_cdf(np.array(t), np.array(degrees)))) / density
        t += step
        if abs(step) < 1e-12 * max(t, 1.0):
            break
    return t


def _incomplete_beta(a: np.ndarray, b: float, x: np.ndarray) -> np.ndarray:
    """Regularised I_x(a, b), by the continued fraction on the side where it converges fast."""
    turned = x > (a + 1.0) / (a + b + 2.0)
    b_array = np.full(a.shape, b)
    first, second = np.where(turned, b_array, a), np.where(turned, a, b_array)
    y = np.where(turned, 1.0 - x, x)
    log_gamma = np.vectorize(math.lgamma, otypes=[float])
    constant = log_gamma(a + b) - log_gamma(a) - math.lgamma(b)
    with np.errstate(divide="ignore"):
        front = np.exp(constant + first * np.log(y) + second * np.log1p(-y)) / first
    value = np.where(y > 0.0, front * _fraction(first, second, y), 0.0)
    return np.where(turned, 1.0 - value, value)


def _fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Lentz's algorithm for the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    d = 1.0 / np.where(np.abs(d := 1.0 - (a + b) * x / (a + 1.0)) < tiny, tiny, d)
    c, value = np.ones(np.shape(x)), d
    for m in range(1, _TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / np.where(np.abs(d := 1.0 + step * d) < tiny, tiny, d)
            c = np.where(np.abs(c := 1.0 + step / c) < tiny, tiny, c)
            value = value * (c * d)
        if np.all(np.abs(c * d - 1.0) < 1e-13):
            break
    return value
