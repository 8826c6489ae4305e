"""Lines and ranks against scipy, and how often their intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats

from si_dagster.core.scaling import kendall_tau, line_fit


def test_the_line_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9), rng.normal(size=9)
    fit, theirs = line_fit(x, y), stats.linregress(x, y)
    assert (fit.slope, fit.intercept) == pytest.approx((theirs.slope, theirs.intercept))
    assert fit.high - fit.slope == pytest.approx(stats.t.ppf(0.975, 7) * theirs.stderr)


def test_two_points_have_a_slope_and_no_interval_and_one_has_none() -> None:
    fit = line_fit(np.array([18.0, 20.0]), np.array([0.1, 0.3]))
    assert fit.slope == pytest.approx(0.1)
    assert np.isnan([fit.low, fit.high]).all()
    with pytest.raises(ValueError, match="different x"):
        line_fit(np.array([18.0, 18.0]), np.array([0.1, 0.3]))


def test_intervals_of_four_models_hold_the_slope_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    x = np.array([16.0, 17.0, 18.0, 19.0])
    fits = [line_fit(x, 0.05 * x + rng.normal(0, 0.02, 4)) for _ in range(1000)]
    held = np.mean([fit.low <= 0.05 <= fit.high for fit in fits])
    assert abs(held - 0.95) < 0.025  # standard error .007


def test_tau_of_a_rise_is_one_and_of_four_models_cannot_be_called_significant() -> None:
    assert kendall_tau(np.arange(4.0), np.arange(4.0)) == pytest.approx((1.0, 2 / 24))
    assert np.isnan(kendall_tau(np.arange(4.0), np.ones(4))[0])
