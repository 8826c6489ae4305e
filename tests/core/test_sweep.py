"""Sweeps agree with one estimate at a time, ties, unparsed and ungraded samples included."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.core.gap import estimate_gap, gap_per_prompt
from si_dagster.core.intervals import means_above_zero
from si_dagster.core.sweep import (
    GapCurve,
    gap_by_num_kept,
    gap_by_quantile,
    gap_by_threshold,
    gap_of_kept,
    kept_at_quantiles,
    kept_at_thresholds,
)
from si_dagster.core.weighting import best_of_n_weights, quantile_weights, threshold_weights

NAN = float("nan")
QUANTILES = np.array([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])


@st.composite
def scored_samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ragged utilities and scores in 1..4, both sometimes NaN; at least one graded sample."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    num_samples = sum(sizes) + 1
    offsets = np.concatenate([[0], np.cumsum([1, *sizes])]).astype(np.int64)
    utility, score = st.sampled_from([0.0, 1.0, NAN]), st.sampled_from([1.0, 2.0, 3.0, 4.0, NAN])
    utilities = draw(st.lists(utility, min_size=num_samples, max_size=num_samples))
    scores = draw(st.lists(score, min_size=num_samples, max_size=num_samples))
    return np.array([1.0, *utilities[1:]]), np.array(scores), offsets


def _check(
    curve: GapCurve, column: int, utilities, weights, offsets, no_survivors="identity", saturated="skip"
) -> None:
    np.testing.assert_allclose(
        curve.gap_per_prompt[:, column],
        gap_per_prompt(utilities, weights, offsets, no_survivors),
        atol=1e-12,
    )
    estimate = estimate_gap(utilities, weights, offsets, no_survivors=no_survivors, saturated=saturated)
    ours = (
        *(curve.gap, curve.relative_gap, curve.reweighted_utility),
        *(curve.retained, curve.coverage, curve.pooled_gap),
    )
    theirs = (
        estimate.gap,
        estimate.relative_gap,
        estimate.reweighted_utility,
        estimate.retained,
        estimate.coverage,
        estimate.pooled_gap,
    )
    np.testing.assert_allclose([values[column] for values in ours], theirs, atol=1e-12)


@given(scored_samples(), st.sampled_from(["keep", "random"]))
@settings(deadline=None, max_examples=40)
def test_quantile_sweep_equals_quantile_weights(samples, ties) -> None:
    utilities, scores, offsets = samples
    curve = gap_by_quantile(utilities, scores, offsets, QUANTILES, ties=ties, seed=5)
    for column, q in enumerate(QUANTILES):
        _check(curve, column, utilities, quantile_weights(scores, offsets, q, ties, seed=5), offsets)


@given(scored_samples())
@settings(deadline=None, max_examples=40)
def test_every_k_equals_best_of_n(samples) -> None:
    utilities, scores, offsets = samples
    curve = gap_by_num_kept(utilities, scores, offsets, seed=2)
    assert curve.cuts.tolist() == list(range(1, np.diff(offsets).max() + 1))
    for column, k in enumerate(curve.cuts):
        _check(curve, column, utilities, best_of_n_weights(scores, offsets, int(k), seed=2), offsets)


@given(scored_samples())
@settings(deadline=None, max_examples=40)
def test_threshold_sweep_equals_threshold_weights(samples) -> None:
    utilities, scores, offsets = samples
    thresholds = np.array([0.0, 2.0, 2.5, 4.0, 9.0])
    curve = gap_by_threshold(utilities, scores, offsets, thresholds)
    for column, tau in enumerate(thresholds):
        _check(curve, column, utilities, threshold_weights(scores, tau), offsets)


@given(scored_samples())
@settings(deadline=None, max_examples=40)
def test_masks_equal_the_weights_they_stand_for(samples) -> None:
    utilities, scores, offsets = samples
    kept = kept_at_quantiles(scores, offsets, QUANTILES)
    for row, q in zip(kept, QUANTILES, strict=True):
        np.testing.assert_array_equal(row, quantile_weights(scores, offsets, q) > 0)
    thresholds = np.array([0.0, 2.0, 2.5, 9.0])
    for row, tau in zip(kept_at_thresholds(scores, thresholds), thresholds, strict=True):
        np.testing.assert_array_equal(row, threshold_weights(scores, tau) > 0)
    for no_survivors, saturated in (("identity", "skip"), ("skip", "zero"), ("pooled", "skip")):
        curve = gap_of_kept(utilities, kept, offsets, QUANTILES, no_survivors, saturated)
        for column, row in enumerate(kept):
            _check(curve, column, utilities, row.astype(float), offsets, no_survivors, saturated)


def test_some_of_the_prompts_are_swept_as_if_they_were_all() -> None:
    rng = np.random.default_rng(4)
    utilities, scores = (rng.random(40 * 4) < 0.5).astype(float), rng.normal(size=40 * 4)
    kept, half = kept_at_thresholds(scores, np.array([0.0, 1.5])), np.arange(40) % 3 == 0
    curve = gap_of_kept(utilities, kept, np.arange(41) * 4, np.array([0.0, 1.5]), "pooled")
    rows = np.repeat(half, 4)
    alone = gap_of_kept(utilities[rows], kept[:, rows], np.arange(15) * 4, curve.cuts, "pooled")
    assert curve.on(half).gap.tolist() == alone.gap.tolist()
    assert (curve.gap_per_prompt[half] != alone.gap_per_prompt).any()


def test_where_a_twentieth_is_covered_the_noise_of_the_pooled_utility_is_in_the_intervals() -> None:
    """Of two right and two wrong, one answer by lot is kept of 5% of 400 prompts: every true gap is 0.

    The estimate is a mean of about 20 coins less 1/2. With that mean held fixed over resamples the interval
    is some twenty times too narrow.
    """
    rng, held = np.random.default_rng(0), {"bootstrap": 0, "t": 0, "t, relative": 0, "held fixed": 0}
    utilities, offsets = np.tile([1.0, 1.0, 0.0, 0.0], 400), np.arange(401) * 4
    for _ in range(60):
        kept = np.zeros((400, 4), dtype=bool)
        kept[np.arange(400), rng.integers(4, size=400)] = rng.random(400) < 0.05
        weights = kept.ravel()
        estimate = estimate_gap(utilities, weights.astype(float), offsets, no_survivors="pooled")
        curve = gap_of_kept(utilities, weights[None, :], offsets, np.zeros(1), "pooled")
        values = curve.values_per_prompt()
        assert values["gap"].mean() == pytest.approx(estimate.gap)
        ends = {"bootstrap": (estimate.gap_low, estimate.gap_high)}
        for name, columns in (
            ("t", values["gap"]),
            ("t, relative", values["relative_gap"]),
            ("held fixed", curve.gap_per_prompt),
        ):
            found = means_above_zero(columns)
            ends[name] = (found.low[0], found.high[0])
        for name, (low, high) in ends.items():
            held[name] += low <= 0.0 <= high
    assert held.pop("held fixed") < 20
    assert min(held.values()) >= 50  # .95 · 60 = 57, standard deviation 1.7


def test_t_intervals_under_pooled_are_those_of_the_bootstrap() -> None:
    rng = np.random.default_rng(6)
    utilities = (rng.random((300, 8)) < rng.random((300, 1))).astype(float).ravel()
    scores, offsets = utilities + rng.normal(size=2400), np.arange(301) * 8
    kept = scores >= 2.0
    found = gap_of_kept(utilities, kept[None, :], offsets, np.zeros(1), "pooled").values_per_prompt()
    estimate = estimate_gap(utilities, kept.astype(float), offsets, no_survivors="pooled")
    assert 0.1 < estimate.coverage < 0.9
    for name in ("gap", "relative_gap"):
        low, high = getattr(estimate, f"{name}_low"), getattr(estimate, f"{name}_high")
        ours = means_above_zero(found[name])
        assert ours.mean[0] == pytest.approx(getattr(estimate, name))
        assert (ours.low[0], ours.high[0]) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_choosing_the_best_cut_on_the_same_samples_inflates_the_gap() -> None:
    """Scores are noise, so every cut's true gap is 0; the best of many shows more where it was chosen."""
    rng = np.random.default_rng(0)
    on_itself, on_the_other = [], []
    for _ in range(40):
        utilities, scores = (rng.random(60 * 8) < 0.5).astype(float), rng.random(60 * 8)
        gaps = gap_by_num_kept(utilities, scores, np.arange(61) * 8).gap_per_prompt
        best = gaps[:30].mean(axis=0).argmax()
        on_itself.append(gaps[:30, best].mean())
        on_the_other.append(gaps[30:, best].mean())
    # Standard error of a mean of 40 such gaps is about .01.
    assert np.mean(on_itself) > 0.03
    assert abs(np.mean(on_the_other)) < 0.03


def test_bad_quantiles_are_refused() -> None:
    with pytest.raises(ValueError, match="quantile"):
        gap_by_quantile(np.ones(1), np.ones(1), np.array([0, 1]), np.array([1.5]))


def test_a_million_rows_sweep_interactively() -> None:
    rng = np.random.default_rng(0)
    utilities = (rng.random(1_280_000) < 0.5).astype(float)
    scores, offsets = rng.integers(1, 11, size=1_280_000).astype(float), np.arange(10_001) * 128
    start = time.process_time()
    gap_by_quantile(utilities, scores, offsets, np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert time.process_time() - start < 0.5  # seen: .06 s on an idle core
