"""pass@k and majority@k against enumeration of every subset."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.core.pass_at_k import majority_at_k, pass_at_k, pass_at_k_from_counts

NAN = float("nan")


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
@settings(deadline=None)
def test_pass_at_k_equals_enumeration(correct: list[bool], data) -> None:
    k = data.draw(st.integers(1, len(correct)))
    enumerated = np.mean([any(subset) for subset in combinations(correct, k)])
    estimate = pass_at_k(np.array(correct, dtype=float), np.array([0, len(correct)]), k)
    assert estimate[0] == pytest.approx(enumerated, abs=1e-12)


def test_pass_at_1_is_the_mean_and_at_n_whether_any_is_right() -> None:
    utilities, offsets = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]), np.array([0, 4, 6])
    np.testing.assert_allclose(pass_at_k(utilities, offsets, 1), [0.5, 0.0])
    np.testing.assert_allclose(pass_at_k(utilities[:4], offsets[:2], 4), [1.0])


def test_large_counts_neither_overflow_nor_lose_digits() -> None:
    # c = 1: exactly k / n.  C(10^6, 500000) has 301,000 digits.
    counts = np.array([1_000_000, 1_000_000])
    np.testing.assert_allclose(
        pass_at_k_from_counts(counts, np.array([1, 0]), 500_000), [0.5, 0.0], rtol=1e-9
    )
    assert pass_at_k_from_counts(np.array([10**9]), np.array([1]), 7)[0] == pytest.approx(7e-9, rel=1e-12)


def test_k_beyond_the_samples_is_an_error() -> None:
    utilities, offsets = np.array([1.0, 0.0, 0.0]), np.array([0, 2, 2, 3])
    with pytest.raises(ValueError, match="1 samples"):
        pass_at_k(utilities, offsets, 2)
    with pytest.raises(ValueError, match="k must"):
        pass_at_k(utilities, offsets, 0)
    with pytest.raises(ValueError, match="k must"):
        pass_at_k_from_counts(np.array([3]), np.array([1]), 4)
    with pytest.raises(ValueError, match="correct"):
        pass_at_k_from_counts(np.array([3]), np.array([4]), 1)


def test_failed_grader_makes_a_prompt_unknown_not_wrong() -> None:
    utilities = np.array([1.0, NAN, 0.0, 0.0, 1.0, 0.0])
    # Prompt 1 has one graded sample of two: pass@2 unknown, pass@1 = 1.
    np.testing.assert_allclose(pass_at_k(utilities, np.array([0, 2, 6]), 2), [NAN, 0.5])
    np.testing.assert_allclose(pass_at_k(utilities, np.array([0, 2, 6]), 1), [1.0, 0.25])


def test_empty_prompts_are_unknown() -> None:
    np.testing.assert_allclose(pass_at_k(np.array([1.0]), np.array([0, 0, 1]), 1), [NAN, 1.0])


def _majority(answers: tuple[int, ...], utility_of: dict[int, float]) -> float:
    votes = {a: answers.count(a) for a in answers if a >= 0}
    if not votes:
        return 0.0
    winners = [a for a, n in votes.items() if n == max(votes.values())]
    return float(np.mean([utility_of[a] for a in winners]))


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=9))
@settings(deadline=None)
def test_majority_of_all_equals_counting(answers: list[int]) -> None:
    utility_of = {-1: 0.0, 0: 1.0, 1: 0.0, 2: 0.5, 3: 0.0}
    utilities = np.array([utility_of[a] for a in answers])
    estimate = majority_at_k(np.array(answers), utilities, np.array([0, len(answers)]), k=len(answers))
    assert estimate[0] == pytest.approx(_majority(tuple(answers), utility_of))


def test_majority_of_some_approaches_enumeration() -> None:
    answers = [0, 0, 0, 1, 1, 2, -1, -1]
    utility_of = {-1: 0.0, 0: 1.0, 1: 0.0, 2: 0.0}
    exact = np.mean([_majority(s, utility_of) for s in combinations(answers, 3)])
    estimate = majority_at_k(
        np.array(answers), np.array([utility_of[a] for a in answers]), np.array([0, 8]), k=3, num_draws=20_000
    )
    assert estimate[0] == pytest.approx(exact, abs=5 * 0.5 / np.sqrt(20_000))


def test_no_answer_never_wins() -> None:
    # Two without an answer, one right: the right one wins.
    assert majority_at_k(np.array([-1, -1, 0]), np.array([0.0, 0.0, 1.0]), np.array([0, 3]), 3).tolist() == [
        1.0
    ]
    assert majority_at_k(np.array([-1, -1]), np.array([0.0, 0.0]), np.array([0, 2]), 2).tolist() == [0.0]


def test_answers_that_were_not_drawn_do_not_win_where_none_was() -> None:
    # Of 6 pairs, C(3, 2) = 3 hold no answer at all: utility 0; the other 3 hold the right one.
    estimate = majority_at_k(
        np.array([-1, -1, -1, 0]), np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 4]), k=2, num_draws=4000
    )
    assert estimate[0] == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(4000))


def test_majority_leaves_ungraded_samples_out() -> None:
    answers, utilities = np.array([0, 1, 1, 0]), np.array([1.0, NAN, NAN, 1.0])
    assert majority_at_k(answers, utilities, np.array([0, 4]), 2).tolist() == [1.0]
    assert np.isnan(majority_at_k(answers, utilities, np.array([0, 4]), 3)[0])
    with pytest.raises(ValueError, match="k must"):
        majority_at_k(answers, utilities, np.array([0, 4]), 5)


def test_majority_of_all_graded_takes_as_many_of_each_prompt_as_there_are() -> None:
    answers, utilities = np.array([0, 0, 1, 0, 1, 1]), np.array([1.0, NAN, 0.0, 0.0, 1.0, 1.0])
    # Prompt 0: a tie of a right and a wrong answer, the third ungraded. Prompt 1: 1 wins.
    assert majority_at_k(answers, utilities, np.array([0, 3, 6]), None).tolist() == [0.5, 1.0]
    assert np.isnan(majority_at_k(np.array([0]), np.array([NAN]), np.array([0, 1]), None)[0])


def test_majority_is_reproducible_by_seed() -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 3, 40)
    utilities, offsets = (answers == 0).astype(float), np.array([0, 20, 40])
    first = majority_at_k(answers, utilities, offsets, 5, seed=1)
    assert first.tolist() == majority_at_k(answers, utilities, offsets, 5, seed=1).tolist()
    assert first.tolist() != majority_at_k(answers, utilities, offsets, 5, seed=2).tolist()
