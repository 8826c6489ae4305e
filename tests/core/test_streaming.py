"""Streamed prompts give what all at once give, wherever the batches are cut."""

import numpy as np
import pytest

from si_dagster.core.streaming import stream_gaps, whole_prompts
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
    for name in scores:
        whole = gap_by_quantile(utilities, scores[name], offsets, QUANTILES)
        np.testing.assert_array_equal(found.gaps[name], whole.gap_per_prompt)
    assert found.expected.shape == (60,)


def test_no_rows_are_no_prompts() -> None:
    found = stream_gaps(whole_prompts([]), QUANTILES)
    assert found.expected.shape == (0,)
    assert found.gaps == {}
