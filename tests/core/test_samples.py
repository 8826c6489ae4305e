"""The flat layout: offsets from ids, and sums over prompts that may be empty."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.core.samples import (
    answer_codes,
    blocks_of_equal_size,
    check_layout,
    max_per_prompt,
    mean_or_nan,
    mean_per_prompt,
    offsets_from_sorted_ids,
    offsets_of_subset,
    sum_per_prompt,
)

SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def test_offsets_from_ids_of_any_type() -> None:
    assert offsets_from_sorted_ids(["b", "b", "a"]).tolist() == [0, 2, 3]  # grouped is enough
    assert offsets_from_sorted_ids(np.array([3, 3, 3])).tolist() == [0, 3]
    assert offsets_from_sorted_ids([]).tolist() == [0]
    assert offsets_from_sorted_ids(np.array(["p1", "p2"], dtype=object)).dtype == np.int64


def test_scattered_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="not adjacent"):
        offsets_from_sorted_ids(["a", "b", "a"])


@given(SIZES)
@settings(deadline=None)
def test_sums_equal_a_loop_with_empty_prompts(sizes: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values = np.arange(1.0, offsets[-1] + 1)
    groups = [values[a:b] for a, b in pairwise(offsets)]
    assert sum_per_prompt(values, offsets).tolist() == [g.sum() for g in groups]
    expected_means = [g.mean() if g.size else np.nan for g in groups]
    np.testing.assert_allclose(mean_per_prompt(values, offsets), expected_means)
    np.testing.assert_array_equal(
        max_per_prompt(values, offsets), [g.max() if g.size else np.nan for g in groups]
    )


@given(SIZES)
@settings(deadline=None)
def test_blocks_hold_each_row_once_in_the_order_of_its_prompt(sizes: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows_of = {}
    for prompts, rows in blocks_of_equal_size(offsets):
        rows_of.update({int(p): r.tolist() for p, r in zip(prompts, rows, strict=True)})
    expected = {i: list(range(offsets[i], offsets[i + 1])) for i in range(len(sizes)) if sizes[i]}
    assert rows_of == expected


def test_subset_keeps_prompts_that_lose_everything() -> None:
    kept = np.array([False, False, True, False])
    assert offsets_of_subset(kept, np.array([0, 2, 4])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], [0, 1], []])
def test_layout_that_does_not_fit_is_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        check_layout(np.array(offsets), np.zeros(2))


def test_codes_are_equal_where_answers_are() -> None:
    assert answer_codes(["x", None, "x", "y", None]).tolist() == [0, -1, 0, 1, -1]


def test_mean_of_nothing_known_is_unknown() -> None:
    assert np.isnan(mean_or_nan(np.array([np.nan, np.nan])))
