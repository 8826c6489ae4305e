"""Weightings: quantiles with ties, thresholds, temperatures, caps, duplicates, and unparsed scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.core.weighting import (
    best_of_n_weights,
    cap_per_prompt,
    collapse_duplicates,
    exponential_weights,
    fill_unparsed,
    quantile_weights,
    summarise_weights,
    threshold_weights,
)

NAN = float("nan")
INTEGER_SCORES = st.lists(st.integers(1, 10).map(float) | st.just(NAN), min_size=1, max_size=20)


def _one_prompt(scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(scores), np.array([0, len(scores)])


@given(INTEGER_SCORES, st.integers(0, 20))
@settings(deadline=None)
def test_quantile_keeps_what_reaches_numpys_quantile(scores: list[float], twentieths: int) -> None:
    array, offsets = _one_prompt(scores)
    parsed = array[~np.isnan(array)]
    q = twentieths / 20
    weights = quantile_weights(array, offsets, q)
    # 1e-9 below: numpy's interpolation may round above the order statistic that it should equal.
    expected = array >= np.quantile(parsed, q) - 1e-9 if parsed.size else np.zeros(len(array))
    assert weights.tolist() == np.asarray(expected, dtype=float).tolist()


@given(INTEGER_SCORES, st.integers(0, 19), st.integers(0, 5))
@settings(deadline=None)
def test_random_ties_keep_exactly_the_top_share(scores: list[float], twentieths: int, seed: int) -> None:
    array, offsets = _one_prompt(scores)
    num_parsed = int((~np.isnan(array)).sum())
    weights = quantile_weights(array, offsets, twentieths / 20, ties="random", seed=seed)
    assert weights.sum() == -((twentieths - 20) * num_parsed // 20)  # ceil((1 - q) n) in integers
    assert not weights[np.isnan(array)].any()
    if 0 < weights.sum() < num_parsed:
        assert array[weights > 0].min() >= np.nanmax(np.where(weights > 0, -np.inf, array))


def test_ties_make_three_quantiles_keep_the_same() -> None:
    # 3 of 10 at the top mark: the .7-, .8- and .9-quantile are all 10.
    array, offsets = _one_prompt([1, 2, 3, 4, 5, 6, 7, 10, 10, 10])
    assert [quantile_weights(array, offsets, q).sum() for q in (0.75, 0.8, 0.9)] == [3, 3, 3]
    assert [quantile_weights(array, offsets, q, ties="random").sum() for q in (0.75, 0.8, 0.9)] == [3, 2, 1]


def test_random_ties_depend_on_the_seed_and_on_nothing_else() -> None:
    scores, offsets = np.ones(64), np.array([0, 32, 64])
    draws = [quantile_weights(scores, offsets, 0.5, "random", seed) for seed in range(200)]
    again = quantile_weights(scores, offsets, 0.5, "random", 3)
    assert again.tolist() == draws[3].tolist()
    # Each sample is kept with probability 1/2: 200 draws, standard error .035.
    assert np.abs(np.mean(draws, axis=0) - 0.5).max() < 5 * 0.0354


def test_quantile_position_is_not_lost_to_rounding() -> None:
    # .55 · 100 is 55.00000000000001 in floats; the sample of index 55 must stay: 101 - 55 = 46.
    array, offsets = _one_prompt([float(s) for s in range(101)])
    assert quantile_weights(array, offsets, 0.55).sum() == 46


def test_ragged_prompts_are_cut_one_by_one() -> None:
    scores = np.array([1.0, 2.0, 5.0, 9.0, 8.0, 7.0])
    offsets = np.array([0, 2, 2, 3, 6])
    assert quantile_weights(scores, offsets, 0.9).tolist() == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("q", [-0.1, 1.1, NAN])
def test_no_quantile_outside_the_unit_interval(q: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        quantile_weights(np.ones(2), np.array([0, 2]), q)


def test_unknown_knobs_are_refused() -> None:
    scores, offsets = np.ones(2), np.array([0, 2])
    with pytest.raises(ValueError, match="ties"):
        quantile_weights(scores, offsets, 0.5, ties="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unparsed"):
        fill_unparsed(scores, offsets, "resample")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="duplicates"):
        collapse_duplicates(scores, offsets, np.zeros(2, dtype=int), "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta"):
        exponential_weights(scores, offsets, 0.0)
    with pytest.raises(ValueError, match="k=0"):
        best_of_n_weights(scores, offsets, k=0)
    with pytest.raises(ValueError, match="cap"):
        cap_per_prompt(scores, offsets, cap=0)


def test_unparsed_is_never_kept_by_any_weighting() -> None:
    scores, offsets = np.array([NAN, 1.0, NAN, NAN]), np.array([0, 2, 4])
    for weights in (
        quantile_weights(scores, offsets, 0.0),
        quantile_weights(scores, offsets, 0.0, ties="random"),
        threshold_weights(scores, -np.inf),
        exponential_weights(scores, offsets, 1.0),
        best_of_n_weights(scores, offsets, k=2),
    ):
        assert weights.tolist() == [0, 1, 0, 0]


def test_fill_unparsed() -> None:
    scores, offsets = np.array([NAN, 1.0, 4.0, NAN]), np.array([0, 3, 4])
    np.testing.assert_array_equal(fill_unparsed(scores, offsets, "reject"), scores)
    # Prompt 1: (1 + 4) / 2 = 2.5; prompt 2 has none, so the mean of all, 2.5.
    assert fill_unparsed(scores, offsets, "neutral").tolist() == [2.5, 1.0, 4.0, 2.5]
    nothing = fill_unparsed(np.array([NAN, NAN]), np.array([0, 2]), "neutral")
    assert np.isnan(nothing).all()


def test_exponential_weights_survive_extreme_scores_and_temperatures() -> None:
    scores, offsets = np.array([1e6, 1e6 - 1, -1e6, -np.inf, -np.inf]), np.array([0, 3, 5])
    weights = exponential_weights(scores, offsets, 1.0)
    np.testing.assert_allclose(weights, [1.0, np.exp(-1.0), 0.0, 1.0, 1.0])
    assert exponential_weights(scores[:3], offsets[:2], 1e-305).tolist() == [1.0, 0.0, 0.0]
    assert exponential_weights(scores[:3], offsets[:2], np.inf).tolist() == [1.0, 1.0, 1.0]
    # What the policy never says (log-probability -inf) has weight 0 beside anything it does say.
    assert exponential_weights(np.array([-np.inf, 0.0]), np.array([0, 2]), np.inf).tolist() == [0.0, 1.0]


def test_best_of_n_draws_evenly_among_ties() -> None:
    scores, offsets = np.array([3.0, 3.0, 1.0]), np.array([0, 3])
    draws = np.array([best_of_n_weights(scores, offsets, seed=seed) for seed in range(400)])
    assert (draws.sum(axis=1) == 1).all()
    assert draws[:, 2].sum() == 0
    assert abs(draws[:, 0].mean() - 0.5) < 4 * 0.025  # standard error .025


def test_cap_keeps_the_heaviest_and_only_weights() -> None:
    weights, offsets = np.array([0.2, 0.0, 0.9, 0.5, 0.0, 0.0]), np.array([0, 4, 6])
    assert cap_per_prompt(weights, offsets, 2).tolist() == [0.0, 0.0, 0.9, 0.5, 0.0, 0.0]
    assert cap_per_prompt(weights, offsets, 9).tolist() == weights.tolist()


def test_duplicates_collapse_within_a_prompt_alone() -> None:
    weights = np.array([0.0, 2.0, 5.0, 1.0, 3.0])
    codes, offsets = np.array([4, 4, 9, 4, 4]), np.array([0, 4, 5])
    assert collapse_duplicates(weights, offsets, codes).tolist() == [0, 2, 5, 0, 3]
    assert collapse_duplicates(weights, offsets, codes, "sum").tolist() == [0, 3, 5, 0, 3]


def test_summary_by_hand() -> None:
    # 3 of 5 kept, 2 of 4 prompts; Kish (1+1)²/2 + 3²/9 = 2 + 1.
    summary = summarise_weights(np.array([1.0, 1.0, 0.0, 3.0, 0.0]), np.array([0, 3, 4, 5, 5]))
    assert (summary.retained_share, summary.coverage, summary.effective_sample_size) == (0.6, 0.5, 3.0)
    assert (summary.num_samples, summary.num_prompts) == (5, 4)


def test_effective_sample_size_ignores_the_scale_of_a_prompt() -> None:
    weights, offsets = np.array([1e-200, 3e-200, 2.0, 2.0]), np.array([0, 2, 4])
    # (1 + 3)² / (1 + 9) + 2
    assert summarise_weights(weights, offsets).effective_sample_size == pytest.approx(3.6)


@pytest.mark.parametrize("bad", [-1.0, NAN, np.inf])
def test_weights_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        summarise_weights(np.array([1.0, bad]), np.array([0, 2]))
