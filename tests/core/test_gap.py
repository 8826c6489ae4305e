"""The gap: closed forms, published numbers, conventions for what is undefined, and its properties."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.core.gap import (
    GapEstimate,
    binary_verifier_gap,
    covariance_gap_per_prompt,
    estimate_gap,
    expected_utility,
    gap_per_prompt,
    pooled_gap,
    ratio_of_means,
    relative_gap_per_prompt,
    reweighted_utility,
    trimmed_mean,
)
from si_dagster.core.intervals import resampled_sums
from si_dagster.core.samples import divide_or_nan, sum_per_prompt
from si_dagster.core.weighting import exponential_weights, quantile_weights

NAN = float("nan")


def _binary_samples(p: np.ndarray, num_samples: int, tpr: float, fpr: float, seed: int) -> tuple:
    """Utilities, 0/1 weights and offsets of prompts with accuracies p under a binary verifier."""
    rng = np.random.default_rng(seed)
    utilities = rng.random((len(p), num_samples)) < p[:, None]
    weights = rng.random((len(p), num_samples)) < np.where(utilities, tpr, fpr)
    offsets = np.arange(len(p) + 1) * num_samples
    return utilities.ravel().astype(float), weights.ravel().astype(float), offsets


# Closed forms and published numbers.


def test_closed_form_of_a_binary_verifier() -> None:
    # .6·.4·(.9 - .5) / (.54 + .2) = .096 / .74; without the factor .4: .24 / .74.
    gap, relative_gap = binary_verifier_gap(0.6, 0.9, 0.5)
    assert gap == pytest.approx(0.1297297, abs=5e-8)
    assert relative_gap == pytest.approx(0.3243243, abs=5e-8)
    assert all(np.isnan(binary_verifier_gap(0.5, 0.0, 0.0)))


def test_samples_of_a_binary_verifier_approach_the_closed_form() -> None:
    utilities, weights, offsets = _binary_samples(np.full(4, 0.6), 100_000, 0.9, 0.5, seed=1)
    gaps = gap_per_prompt(utilities, weights, offsets)
    # Standard error of a mean of 74,000 kept samples about .0017; four prompts.
    np.testing.assert_allclose(gaps, 0.1297297, atol=5 * 0.0017)
    relative = relative_gap_per_prompt(gaps, expected_utility(utilities, offsets))
    np.testing.assert_allclose(relative, 0.3243243, atol=0.015)


def test_skip_is_nearly_unbiased_and_zero_is_not() -> None:
    """Our own simulation with the known truth .354; the settings behind the published table are not known.

    Accuracies Beta(1.2, .8) reproduce the table's share of saturated prompts (1 - zero/skip = .18, .11,
    .037, .020); TPR .9 and FPR .4487 make the true relative gap .354. 20,000 prompts: standard error < .003.
    """
    table = {8: (0.343, 0.281), 16: (0.349, 0.312), 64: (0.350, 0.337), 128: (0.353, 0.346)}
    p = np.random.default_rng(7).beta(1.2, 0.8, size=20_000)
    truth = np.mean([binary_verifier_gap(x, 0.9, 0.4487).relative_gap for x in p])
    assert truth == pytest.approx(0.354, abs=0.003)
    for num_samples, (skip, zero) in table.items():
        utilities, weights, offsets = _binary_samples(p, num_samples, 0.9, 0.4487, seed=num_samples)
        expected = expected_utility(utilities, offsets)
        gaps = gap_per_prompt(utilities, weights, offsets)
        mean_skip = np.nanmean(relative_gap_per_prompt(gaps, expected))
        mean_zero = np.nanmean(relative_gap_per_prompt(gaps, expected, saturated="zero"))
        assert mean_skip == pytest.approx(skip, abs=0.01)
        assert mean_zero == pytest.approx(zero, abs=0.01)
        assert abs(mean_skip - truth) < 0.016
        assert truth - mean_zero > (0.06 if num_samples == 8 else 0.003)


def test_sudoku_row_needs_the_mean_of_ratios() -> None:
    # 16.99 / (100 - 8.82) = 16.99 / 91.18 = 18.63%, not the 20.81% that the paper reports.
    assert 100 * ratio_of_means(0.1699, 0.0882) == pytest.approx(18.63, abs=0.005)


def test_positive_gap_with_negative_relative_gap() -> None:
    # p = .5: 50 right kept of 100, and 40 of 50 wrong: 50/90 - .5 = +.0556, relative +.1111.
    # p = .98: of 98 right 70 kept, both wrong kept: 70/72 - .98 = -.0078, relative -.3889.
    utilities = np.repeat([1.0, 0.0, 1.0, 0.0], [50, 50, 98, 2])
    weights = np.repeat([1.0, 1.0, 0.0, 1.0, 0.0, 1.0], [50, 40, 10, 70, 28, 2])
    estimate = estimate_gap(utilities, weights, np.array([0, 100, 200]))
    assert estimate.gap == pytest.approx((50 / 90 - 0.5 + 70 / 72 - 0.98) / 2)
    assert estimate.gap > 0
    assert estimate.relative_gap == pytest.approx((0.1111111 - 0.3888889) / 2, abs=1e-6)
    assert estimate.relative_gap < 0


def test_one_prompt_can_outweigh_many() -> None:
    # N = 8, seven right, the verifier keeps the wrong one: (0 - 7/8) / (1/8) = -7 = -(N - 1).
    utilities = np.array([1.0] * 7 + [0.0])
    weights = np.array([0.0] * 7 + [1.0])
    offsets = np.array([0, 8])
    gaps = gap_per_prompt(utilities, weights, offsets)
    assert relative_gap_per_prompt(gaps, expected_utility(utilities, offsets)).tolist() == [-7.0]


def test_trimmed_mean_cuts_both_ends() -> None:
    # Ten known values, one off each end: (2 + ... + 9) / 8 = 5.5.
    assert trimmed_mean(np.array([-99.0, 2, 3, 4, 5, 6, 7, 8, 9, 99.0, NAN])) == 5.5
    assert np.isnan(trimmed_mean(np.array([NAN])))


def test_trimmed_relative_gap_resists_one_prompt() -> None:
    # Nine prompts (1, 0), the right one kept: 1 each. One with seven right of eight, the wrong one kept: -7.
    # Mean (9 - 7) / 10 = .2; one off each end leaves eight ones.
    utilities = np.array([1.0, 0.0] * 9 + [1.0] * 7 + [0.0])
    weights = np.array([1.0, 0.0] * 9 + [0.0] * 7 + [1.0])
    estimate = estimate_gap(utilities, weights, np.append(np.arange(10) * 2, 26))
    assert estimate.relative_gap == pytest.approx(0.2)
    assert estimate.relative_gap_trimmed == pytest.approx(1.0)


def test_pooled_gap_sees_prompts_vanish() -> None:
    # Easy prompt (3/4 right) kept whole, hard one (0/4) dropped: pooled 3/4 - 3/8, per prompt nothing.
    utilities = np.array([1.0, 1, 1, 0, 0, 0, 0, 0])
    weights = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    assert pooled_gap(utilities, weights) == 0.375
    assert estimate_gap(utilities, weights, np.array([0, 4, 8])).gap == 0.0


# What is undefined: rejected prompts, saturated prompts, ungraded samples.

# Prompt 1: J = 1/2, keeps the right one: J(f[w]) = 1. Prompt 2: J = 1/4, all rejected. Prompt 3: J = 1.
UTILITIES = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
WEIGHTS = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
OFFSETS = np.array([0, 2, 6, 8])


@pytest.mark.parametrize(
    ("no_survivors", "gaps"),
    [
        ("identity", [0.5, 0.0, 0.0]),
        ("skip", [0.5, NAN, 0.0]),
        ("pooled", [0.5, 0.75, 0.0]),  # pooled utility of the three kept is 3/3: 1 - 1/4
    ],
)
def test_rejected_prompt_under_each_convention(no_survivors, gaps: list[float]) -> None:
    np.testing.assert_array_equal(gap_per_prompt(UTILITIES, WEIGHTS, OFFSETS, no_survivors), gaps)
    estimate = estimate_gap(UTILITIES, WEIGHTS, OFFSETS, no_survivors=no_survivors)
    assert estimate.gap == pytest.approx(np.nanmean(gaps))
    assert estimate.coverage == pytest.approx(2 / 3)
    assert estimate.retained == 3 / 8
    assert estimate.expected_utility == pytest.approx((0.5 + 0.25 + 1.0) / 3)


def test_the_pooled_utility_is_made_anew_in_every_resample() -> None:
    """Each resample taken for a study of its own, by the definitions."""
    utilities, weights, offsets = _binary_samples(np.linspace(0.1, 0.9, 40), 4, 0.5, 0.2, seed=3)
    weights[: 20 * 4] = 0.0  # the harder half is rejected
    estimate = estimate_gap(utilities, weights, offsets, no_survivors="pooled")
    hits, kept = sum_per_prompt(weights * utilities, offsets), sum_per_prompt(weights, offsets)
    expected, draws = expected_utility(utilities, offsets), []
    open_ = expected < 1.0
    for counts in resampled_sums(np.eye(40), 1000, seed=0):
        reweighted = divide_or_nan(hits, kept)
        reweighted[kept == 0.0] = counts @ hits / (counts @ kept)
        gaps = reweighted - expected
        relative = counts[open_] @ (gaps[open_] / (1.0 - expected[open_])) / counts[open_].sum()
        draws.append([counts @ gaps / 40, relative, counts @ expected / 40])
    ends = np.quantile(draws, [0.025, 0.975], axis=0)
    names = ("gap", "relative_gap", "expected_utility")
    ours = [[getattr(estimate, f"{name}_{end}") for name in names] for end in ("low", "high")]
    np.testing.assert_allclose(ours, ends, atol=1e-12)


def test_reweighted_policy_does_not_exist_on_a_rejected_prompt() -> None:
    np.testing.assert_array_equal(reweighted_utility(UTILITIES, WEIGHTS, OFFSETS), [1.0, NAN, 1.0])


@pytest.mark.parametrize("no_survivors", ["identity", "skip", "pooled"])
def test_everything_rejected(no_survivors) -> None:
    estimate = estimate_gap(UTILITIES, np.zeros(8), OFFSETS, no_survivors=no_survivors)
    assert estimate.coverage == 0.0
    assert estimate.effective_sample_size == 0.0
    assert np.isnan(estimate.pooled_gap)
    if no_survivors == "identity":
        assert (estimate.gap, estimate.gap_low, estimate.gap_high) == (0.0, 0.0, 0.0)
    else:
        assert np.isnan([estimate.gap, estimate.gap_low, estimate.relative_gap]).all()


@pytest.mark.parametrize(("saturated", "relative"), [("skip", 0.5), ("zero", 1 / 3)])
def test_saturated_prompt_under_each_convention(saturated, relative: float) -> None:
    # Relative gaps 1, 0 and undefined: (1 + 0) / 2 or (1 + 0 + 0) / 3.
    assert estimate_gap(UTILITIES, WEIGHTS, OFFSETS, saturated=saturated).relative_gap == pytest.approx(
        relative
    )


def test_ungraded_samples_are_left_out_and_counted() -> None:
    utilities = np.insert(UTILITIES, [0, 2, 8, 8], NAN)  # one in front, one in prompt 2, a fourth prompt
    weights = np.insert(WEIGHTS, [0, 2, 8, 8], 1.0)
    with_missing = estimate_gap(utilities, weights, np.array([0, 3, 8, 10, 12]))
    plain = estimate_gap(UTILITIES, WEIGHTS, OFFSETS)
    assert with_missing.num_missing == 4
    assert (with_missing.num_prompts, with_missing.num_samples) == (3, 8)
    differing = {
        name
        for name in GapEstimate.__dataclass_fields__
        if getattr(with_missing, name) != getattr(plain, name)
    }
    assert differing == {"num_missing"}


def test_nothing_graded_is_unknown_throughout() -> None:
    estimate = estimate_gap(np.array([NAN, NAN]), np.ones(2), np.array([0, 2]))
    assert np.isnan([estimate.gap, estimate.expected_utility, estimate.relative_gap, estimate.coverage]).all()
    assert (estimate.num_prompts, estimate.num_samples, estimate.num_missing) == (0, 0, 2)


def test_ratio_of_means_uses_the_prompts_that_have_a_gap() -> None:
    # skip leaves prompts 1 and 3: gap (.5 + 0) / 2 over 1 - (.5 + 1) / 2 = .25 / .25 = 1.
    estimate = estimate_gap(UTILITIES, WEIGHTS, OFFSETS, no_survivors="skip")
    assert estimate.relative_gap_ratio_of_means == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("utilities", "weights", "offsets", "match"),
    [
        ([2.0, 0.0], [1.0, 1.0], [0, 2], "utilities"),
        ([1.0, 0.0], [-1.0, 1.0], [0, 2], "weights"),
        ([1.0, 0.0], [NAN, 1.0], [0, 2], "weights"),
        ([1.0, 0.0], [1.0], [0, 2], "shape"),
        ([1.0, 0.0], [1.0, 1.0], [0, 3], "offsets"),
    ],
)
def test_bad_samples_are_refused(utilities, weights, offsets, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        estimate_gap(np.array(utilities), np.array(weights), np.array(offsets))


def test_unknown_conventions_are_refused() -> None:
    with pytest.raises(ValueError, match="no_survivors"):
        estimate_gap(UTILITIES, WEIGHTS, OFFSETS, no_survivors="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="saturated"):
        estimate_gap(UTILITIES, WEIGHTS, OFFSETS, saturated="one")  # type: ignore[arg-type]


# Properties.


@st.composite
def weighted_samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ragged binary utilities and weights in 0..5, prompts without samples and without survivors included."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=8))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    num_samples = int(offsets[-1])
    row = st.lists(st.integers(0, 5).map(float), min_size=num_samples, max_size=num_samples)
    return np.minimum(np.array(draw(row)), 1.0), np.array(draw(row)), offsets


@given(weighted_samples())
@settings(deadline=None)
def test_oracle_weights_give_the_headroom(samples) -> None:
    utilities, _, offsets = samples
    expected = expected_utility(utilities, offsets)
    gaps = gap_per_prompt(utilities, utilities, offsets)
    solved = expected > 0
    np.testing.assert_allclose(gaps[solved], 1.0 - expected[solved], atol=1e-12)
    assert not gaps[expected == 0.0].any()


@given(weighted_samples(), st.floats(0.01, 100.0))
@settings(deadline=None)
def test_uniform_weights_give_no_gap(samples, weight: float) -> None:
    utilities, _, offsets = samples
    gaps = gap_per_prompt(utilities, np.full(len(utilities), weight), offsets)
    np.testing.assert_allclose(np.nan_to_num(gaps), 0.0, atol=1e-12)


@given(weighted_samples(), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_scaling_a_prompts_weights_changes_nothing(samples, factor: float) -> None:
    utilities, weights, offsets = samples
    scaled = weights.copy()
    scaled[: offsets[1]] *= factor
    np.testing.assert_allclose(
        gap_per_prompt(utilities, scaled, offsets), gap_per_prompt(utilities, weights, offsets), atol=1e-12
    )


@given(weighted_samples())
@settings(deadline=None)
def test_gap_is_covariance_over_mean_weight(samples) -> None:
    utilities, weights, offsets = samples
    np.testing.assert_allclose(
        covariance_gap_per_prompt(utilities, weights, offsets),
        gap_per_prompt(utilities, weights, offsets, no_survivors="skip"),
        atol=1e-12,
    )


@given(weighted_samples(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_samples_and_prompts_changes_nothing(samples, random) -> None:
    utilities, weights, offsets = samples
    rows = [list(range(a, b)) for a, b in pairwise(offsets)]
    prompts = list(range(len(rows)))
    random.shuffle(prompts)
    for prompt_rows in rows:
        random.shuffle(prompt_rows)
    order = np.array([row for i in prompts for row in rows[i]], dtype=int)
    shuffled_offsets = np.concatenate([[0], np.cumsum([len(rows[i]) for i in prompts])]).astype(np.int64)
    np.testing.assert_allclose(
        gap_per_prompt(utilities[order], weights[order], shuffled_offsets),
        gap_per_prompt(utilities, weights, offsets)[prompts],
        atol=1e-12,
    )


@given(weighted_samples())
@settings(deadline=None)
def test_gaps_stay_in_their_ranges(samples) -> None:
    utilities, weights, offsets = samples
    gaps = gap_per_prompt(utilities, weights, offsets)
    relative = relative_gap_per_prompt(gaps, expected_utility(utilities, offsets))
    sizes = np.diff(offsets)
    assert np.all(np.isnan(gaps) | (np.abs(gaps) <= 1.0))
    assert np.all(np.isnan(relative) | ((relative <= 1 + 1e-9) & (relative >= -(sizes - 1) - 1e-9)))


@given(weighted_samples())
@settings(deadline=None)
def test_temperature_runs_from_best_of_n_to_nothing(samples) -> None:
    utilities, scores, offsets = samples
    hot = exponential_weights(scores, offsets, beta=1e9)
    np.testing.assert_allclose(np.nan_to_num(gap_per_prompt(utilities, hot, offsets)), 0.0, atol=1e-7)
    cold = exponential_weights(scores, offsets, beta=1e-3)
    # q = 1 keeps the best of each prompt, all ties.
    best = quantile_weights(scores, offsets, 1.0)
    np.testing.assert_allclose(
        gap_per_prompt(utilities, cold, offsets), gap_per_prompt(utilities, best, offsets), atol=1e-12
    )


def test_permuted_scores_give_an_interval_over_zero_and_true_scores_do_not() -> None:
    rng = np.random.default_rng(3)
    num_prompts, num_samples = 400, 16
    p = rng.random(num_prompts)
    utilities = (rng.random((num_prompts, num_samples)) < p[:, None]).astype(float)
    scores = utilities + rng.normal(size=utilities.shape)
    permuted = rng.permuted(scores, axis=1)
    offsets = np.arange(num_prompts + 1) * num_samples
    real = estimate_gap(utilities.ravel(), quantile_weights(scores.ravel(), offsets, 0.75), offsets)
    noise = estimate_gap(utilities.ravel(), quantile_weights(permuted.ravel(), offsets, 0.75), offsets)
    assert real.gap_low > 0.05
    assert noise.gap_low < 0.0 < noise.gap_high
    assert noise.relative_gap_low < 0.0 < noise.relative_gap_high
