"""Rows in the order of their prompts, wherever they lay."""

import numpy as np
import polars as pl
import pytest

from si_dagster.stages.samples import PolicySamples, by_prompt


def test_rows_in_any_order_are_sorted_as_polars_sorts_them() -> None:
    rng = np.random.default_rng(0)
    rows = pl.DataFrame(
        {
            "prompt_id": [f"eval-{i}" for i in rng.integers(0, 30, 500)],  # eval-10 before eval-2
            "sample_index": rng.integers(0, 12, 500),
            "row": np.arange(500),
        }
    )
    expected = rows.sort("prompt_id", "sample_index", maintain_order=True)
    assert by_prompt(rows).equals(expected)
    assert by_prompt(rows.clear()).is_empty()


def test_offsets_and_prompt_ids_of_ragged_prompts() -> None:
    rows = pl.DataFrame({"prompt_id": ["b", "a", "b", "b"], "sample_index": [1, 0, 0, 2]})
    samples = PolicySamples.of(rows)
    assert samples.offsets.tolist() == [0, 1, 4]
    assert samples.prompt_ids.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("prompts", "samples"),
    [
        (["a", "a", "b", "b"], [0, 1, 0, 1]),  # in order: nothing moves
        (["a", "a", "a", "b"], [0, 10, 2, 0]),  # as text orders them: samples move, prompts do not
        (["b", "b", "a", "a"], [1, 0, 0, 1]),
        (["b", "a", "b", "a"], [0, 0, 1, 1]),
    ],
)
def test_rows_are_sorted_however_they_lie(prompts: list[str], samples: list[int]) -> None:
    rows = pl.DataFrame({"prompt_id": prompts, "sample_index": samples, "text": list("wxyz")})
    sorted_rows = rows.sort("prompt_id", "sample_index")
    assert by_prompt(rows).equals(sorted_rows)
    assert by_prompt(rows, keep_index=False).equals(sorted_rows.drop("sample_index"))
