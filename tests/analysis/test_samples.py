"""Rows in the order of their prompts, wherever they lay."""

import numpy as np
import polars as pl

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
