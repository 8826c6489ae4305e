"""Student's t against scipy, over all degrees and far into the tails."""

import numpy as np
from scipy import special

from si_dagster.core.student import t_cdf, t_quantile

DEGREES = np.array([1.0, 2.0, 3.0, 7.0, 30.0, 199.0, 4999.0, 1e6])


def test_the_distribution_function_equals_scipys() -> None:
    t = np.concatenate([np.linspace(-40, 40, 401), [-1e5, 1e-9, 1e5]])[:, None]
    theirs = special.stdtr(DEGREES, t)
    np.testing.assert_allclose(t_cdf(t, DEGREES), theirs, atol=1e-12)
    # Small tails keep their digits: Holm multiplies them.
    small = (theirs > 1e-200) & (theirs < 0.4)
    np.testing.assert_allclose(t_cdf(t, DEGREES)[small], theirs[small], rtol=1e-8)


def test_the_ends_and_the_unknown() -> None:
    assert t_cdf(np.array([-np.inf, 0.0, np.inf]), np.array(5.0)).tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(t_cdf(np.array(np.nan), np.array(5.0)))


def test_quantiles_equal_scipys() -> None:
    for p in (0.5, 0.9, 0.975, 0.995):
        np.testing.assert_allclose(t_quantile(p, DEGREES), special.stdtrit(DEGREES, p), atol=1e-9, rtol=1e-9)
