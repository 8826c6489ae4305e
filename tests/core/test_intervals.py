"""The cluster bootstrap: coverage against a known truth, pairing, one shared set of resamples, speed."""

import time

import numpy as np
import pytest
from scipy import stats

from si_dagster.core.intervals import (
    bootstrap_mean,
    bootstrap_means,
    bootstrap_ratio,
    paired_difference,
    resampled_sums,
)


def test_interval_covers_the_truth_as_often_as_it_says_and_resampling_samples_would_not() -> None:
    """300 studies of 80 prompts x 16 samples, accuracies Beta(1, 2), J = 1/3.

    The share that covers has a standard error of .0126 at .95. Samples taken for independent have a
    design effect of about 1 + 15 · var(p)/(J(1-J)) = 1 + 15/4: their intervals are half as wide as they ought
    to be and cover about 64%.
    """
    rng = np.random.default_rng(11)
    covered, covered_naively = 0, 0
    for study in range(300):
        p = rng.beta(1.0, 2.0, size=80)
        utilities = rng.random((80, 16)) < p[:, None]
        by_prompt = bootstrap_mean(utilities.mean(axis=1), seed=study)
        covered += by_prompt.low <= 1 / 3 <= by_prompt.high
        if study < 100:
            by_sample = bootstrap_mean(utilities.ravel().astype(float), seed=study)
            covered_naively += by_sample.low <= 1 / 3 <= by_sample.high
    assert 0.91 < covered / 300 < 0.985
    assert covered_naively / 100 < 0.85


def test_confidence_is_the_share_that_covers() -> None:
    rng = np.random.default_rng(5)
    intervals = [bootstrap_mean(rng.normal(size=60), confidence=0.5, seed=s) for s in range(300)]
    share = np.mean([i.low <= 0.0 <= i.high for i in intervals])
    assert abs(share - 0.5) < 4 * 0.029  # standard error sqrt(.25 / 300)


def test_interval_of_a_mean_is_about_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    interval = bootstrap_mean(values, num_resamples=4000)
    half_width = 1.96 * values.std() / np.sqrt(2000)
    assert interval.estimate == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.06)


def test_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(2).exponential(size=150)
    ours = bootstrap_mean(values, num_resamples=9999)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_unknown_prompts_are_skipped_not_averaged_in() -> None:
    values = np.array([1.0, np.nan, 0.0, np.nan])
    interval = bootstrap_mean(values)
    assert interval.estimate == 0.5
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_nothing_known_has_no_interval() -> None:
    for values in (np.array([np.nan, np.nan]), np.array([])):
        interval = bootstrap_mean(values)
        assert np.isnan([interval.estimate, interval.low, interval.high]).all()


def test_statistics_of_one_call_share_their_resamples() -> None:
    values = np.random.default_rng(1).random(50)
    first, second, negated = bootstrap_means(np.column_stack([values, values, -values]))
    assert first == second
    assert negated.low == pytest.approx(-first.high)
    # A matrix product may round otherwise for another number of columns, so equal to the last digits only.
    assert bootstrap_mean(values).low == pytest.approx(first.low, rel=1e-12)
    assert bootstrap_mean(values, seed=1).low != pytest.approx(first.low, rel=1e-4)


def test_chunks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(1).random((40, 2))
    whole = resampled_sums(columns, 1000, seed=4)
    monkeypatch.setattr("si_dagster.core.intervals._CHUNK_CELLS", 40 * 7)
    np.testing.assert_allclose(resampled_sums(columns, 1000, seed=4), whole, rtol=1e-12)


def test_ratio_of_sums() -> None:
    numerators, denominators = np.array([1.0, 6.0, np.nan]), np.array([2.0, 2.0, 5.0])
    interval = bootstrap_ratio(numerators, denominators)
    assert interval.estimate == 1.75  # (1 + 6) / (2 + 2); the third is unknown
    assert (interval.low, interval.high) == (0.5, 3.0)


def test_pairing_removes_the_difficulty_of_the_prompts() -> None:
    rng = np.random.default_rng(8)
    difficulty = rng.random(300)
    a, b = difficulty + 0.02 + rng.normal(scale=0.01, size=300), difficulty
    interval = paired_difference(a, b)
    assert 0.0 < interval.low < 0.02 < interval.high < 0.03
    # Unpaired, the same difference drowns: each mean is only known to about ±.033.
    assert bootstrap_mean(a).low < bootstrap_mean(b).estimate


def test_pairs_must_be_of_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize(("num_resamples", "confidence"), [(999, 0.95), (1000, 0.0), (1000, 1.0)])
def test_knobs_out_of_range_are_refused(num_resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"resamples|confidence"):
        bootstrap_mean(np.zeros(3), num_resamples, confidence)


def test_a_thousand_resamples_of_ten_thousand_prompts_are_quick() -> None:
    values = np.random.default_rng(0).random(10_000)
    start = time.process_time()
    bootstrap_mean(values)
    assert time.process_time() - start < 0.5  # seen: .08 s
