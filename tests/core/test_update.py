"""The signed update error and the improvement, paired by prompt."""

import numpy as np
import pytest

from si_dagster.core.gap import expected_utility, fill_no_survivors, reweighted_utility
from si_dagster.core.update import improvement, update_error


def test_gap_is_improvement_plus_error() -> None:
    # J(f') - J(f) = gap - epsilon holds exactly, prompt by prompt.
    rng = np.random.default_rng(0)
    offsets = np.arange(101) * 8
    utilities, following = (rng.random((2, 800)) < [[0.5], [0.6]]).astype(float)
    weights = (rng.random(800) < 0.3 + 0.5 * utilities).astype(float)
    expected, after = expected_utility(utilities, offsets), expected_utility(following, offsets)
    reweighted = fill_no_survivors(reweighted_utility(utilities, weights, offsets), expected, 0.0, "identity")
    error, gain = update_error(reweighted, after), improvement(expected, after)
    assert gain.estimate == pytest.approx(np.mean(reweighted - expected) - error.estimate)
    assert error.low < error.estimate < error.high


def test_sign_says_who_did_better() -> None:
    reweighted = np.array([0.8, 0.7, 0.9])
    assert update_error(reweighted, reweighted - 0.1).low == pytest.approx(0.1)
    assert update_error(reweighted, reweighted + 0.1).high == pytest.approx(-0.1)


def test_prompts_without_survivors_are_skipped_when_left_unknown() -> None:
    error = update_error(np.array([0.5, np.nan]), np.array([0.25, 1.0]))
    assert error.estimate == 0.25


def test_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        improvement(np.zeros(3), np.zeros(4))
