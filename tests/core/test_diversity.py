"""Distinct answers and their entropy, with the bias that the docstring admits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from si_dagster.core.diversity import answer_entropy, answered_share, distinct_answers, vote_shares
from si_dagster.verification.majority_vote import vote_shares as scores_of_the_method


@given(st.lists(st.integers(-1, 4), max_size=12), st.lists(st.integers(-1, 4), max_size=12))
@settings(deadline=None)
def test_each_prompt_equals_a_count_of_its_own(first: list[int], second: list[int]) -> None:
    answers = np.array(first + second, dtype=np.int64)
    offsets = np.array([0, len(first), len(answers)])
    for i, own in enumerate((first, second)):
        _, counts = np.unique([a for a in own if a >= 0], return_counts=True)
        assert distinct_answers(answers, offsets)[i] == len(counts)
        expected = stats.entropy(counts) if len(counts) else np.nan
        np.testing.assert_allclose(answer_entropy(answers, offsets)[i], expected, atol=1e-12)


def test_share_with_an_answer() -> None:
    np.testing.assert_array_equal(
        answered_share(np.array([3, -1, -1]), np.array([0, 2, 3, 3])), [0.5, 0.0, np.nan]
    )


def test_plug_in_entropy_is_biased_down_by_about_what_miller_says() -> None:
    # Four equal answers, N = 20: ln 4 - (4 - 1) / 40.
    answers = np.random.default_rng(0).integers(0, 4, size=20 * 4000)
    mean = answer_entropy(answers, np.arange(4001) * 20).mean()
    assert mean == pytest.approx(np.log(4) - 3 / 40, abs=0.01)
    assert mean < np.log(4) - 0.05


@given(st.lists(st.integers(-1, 4), max_size=12), st.lists(st.integers(-1, 4), max_size=12))
@settings(deadline=None)
def test_vote_shares_are_the_scores_of_the_majority_vote(first: list[int], second: list[int]) -> None:
    prompts = ["x"] * len(first) + ["y"] * len(second)
    ballots = [(x, None if a < 0 else str(a)) for x, a in zip(prompts, first + second, strict=True)]
    shares = vote_shares(np.array(first + second, dtype=np.int64), np.array([0, len(first), len(ballots)]))
    np.testing.assert_array_equal(shares, np.array(scores_of_the_method(ballots), dtype=float))
