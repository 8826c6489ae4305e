"""Streamed prompts give what all at once give, wherever the batches are cut."""

import numpy as np
import pytest

from si_dagster.core.intervals import bootstrap_means
from si_dagster.core.streaming import _COUNT_OF_LOT, Block, stream_gaps, whole_prompts
from si_dagster.core.sweep import gap_by_quantile

QUANTILES = np.array([0.25, 0.75])


@pytest.mark.parametrize("batch", [1, 3, 7, 100, 1000])
def test_any_cut_into_batches_gives_the_same(batch: int) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, size=60)
    prompts = np.repeat(np.arange(60), sizes)
    utilities = (rng.random(len(prompts)) < 0.5).astype(float)
    scores = {"a": rng.random(len(prompts)), "b": rng.integers(0, 3, len(prompts)).astype(float)}
    cuts = [slice(start, start + batch) for start in range(0, len(prompts), batch)]
    batches = ((prompts[c], utilities[c], {n: s[c] for n, s in scores.items()}) for c in cuts)
    found = stream_gaps(whole_prompts(batches), QUANTILES)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    at_once = stream_gaps([Block(utilities, scores, offsets)], QUANTILES)
    assert found.num_prompts == at_once.num_prompts == 60
    for name in scores:
        whole = gap_by_quantile(utilities, scores[name], offsets, QUANTILES)
        for i, (streamed, other) in enumerate(zip(found.gaps[name], at_once.gaps[name], strict=True)):
            assert streamed.estimate == pytest.approx(whole.gap[i])
            assert (streamed.low, streamed.high) == pytest.approx((other.low, other.high))


def test_intervals_are_those_of_resampled_prompts() -> None:
    """Ends of both bootstraps over 4,000 prompts, against the width of their interval."""
    rng = np.random.default_rng(1)
    chances = np.repeat(rng.random(4000), 8)
    u = (rng.random(chances.size) < chances).astype(float)
    u[:8], scores = np.nan, u + rng.normal(size=u.size)  # a prompt whose grader failed
    offsets = np.arange(4001) * 8
    found = stream_gaps([Block(u, {"a": scores}, offsets)], QUANTILES)
    curve = gap_by_quantile(u, scores, offsets, QUANTILES)
    for mine, plain in zip(found.gaps["a"], bootstrap_means(curve.gap_per_prompt), strict=True):
        tolerance = 0.15 * (plain.high - plain.low)
        assert (mine.low, mine.high) == pytest.approx((plain.low, plain.high), abs=tolerance)
        assert mine.estimate == pytest.approx(plain.estimate)


def test_lots_are_poissons() -> None:
    counts = _COUNT_OF_LOT
    assert counts.mean() == pytest.approx(1.0, abs=1e-3)
    assert counts.var() == pytest.approx(1.0, abs=1e-2)
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=1e-4)


def test_no_rows_are_no_prompts() -> None:
    found = stream_gaps(whole_prompts([]), QUANTILES)
    assert found.num_prompts == 0
    assert np.isnan(found.expected.estimate)
    assert found.gaps == {}
    with pytest.raises(ValueError, match="at least 1000"):
        stream_gaps([], QUANTILES, num_resamples=10)
