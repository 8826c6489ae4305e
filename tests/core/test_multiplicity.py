"""Tests over prompts and their adjustment: against scipy, by hand, and by how often they find nothing."""

import numpy as np
import pytest
from scipy import stats

from si_dagster.core.intervals import means_above_zero
from si_dagster.core.multiplicity import holm

NAN = float("nan")


def test_t_equals_scipy_with_unknown_prompts_left_out() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(0.1, 1.0, size=(40, 3))
    columns[:7, 1] = NAN
    found = means_above_zero(columns, confidence=0.9)
    for c in range(3):
        known = columns[~np.isnan(columns[:, c]), c]
        theirs = stats.ttest_1samp(known, 0.0, alternative="greater")
        assert found.p_value[c] == pytest.approx(theirs.pvalue)
        low, high = stats.ttest_1samp(known, 0.0).confidence_interval(0.9)
        assert (found.low[c], found.high[c]) == pytest.approx((low, high))


def test_no_spread_is_a_point_that_proves_nothing_and_one_prompt_is_nothing() -> None:
    found = means_above_zero(np.array([[0.0, 0.5, -0.5], [0.0, 0.5, -0.5]]))
    np.testing.assert_array_equal(found.p_value, [1.0, NAN, 1.0])
    assert found.low.tolist() == found.high.tolist() == [0.0, 0.5, -0.5]
    # .1 + .1 + .1 is not .3: the mean, and with it the spread, is off by a last digit.
    assert np.isnan(means_above_zero(np.full((3, 1), 0.1)).p_value).all()
    alone = means_above_zero(np.array([[0.5], [NAN]]))
    assert (alone.mean.tolist(), alone.num.tolist()) == ([0.5], [1])
    assert np.isnan([alone.low, alone.high, alone.p_value]).all()


def test_holm_by_hand_and_in_any_order() -> None:
    # .01·4 = .04, .015·3 = .045, .03·2 = .06, .9·1 = .9; never below the one before.
    p_values = np.array([0.9, 0.01, 0.03, 0.015])
    np.testing.assert_allclose(holm(p_values), [0.9, 0.04, 0.06, 0.045])
    np.testing.assert_allclose(holm(p_values[::-1]), holm(p_values)[::-1])
    np.testing.assert_allclose(holm(np.array([0.02, 0.03])), [0.04, 0.04])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="p-values"):
        holm(np.array([1.2]))


def test_of_forty_true_nulls_holm_seldom_rejects_any_where_plain_tests_nearly_always_do() -> None:
    """200 families of 40 tests at .05: plain ones find something with probability 1 - .95^40 = .87."""
    rng = np.random.default_rng(1)
    plain, adjusted = 0, 0
    for _ in range(200):
        p_values = means_above_zero(rng.normal(size=(50, 40))).p_value
        plain += bool((p_values <= 0.05).any())
        adjusted += bool((holm(p_values) <= 0.05).any())
    assert plain > 150
    assert adjusted < 22  # .05 · 200 = 10, and four standard deviations (3.1 each) more
