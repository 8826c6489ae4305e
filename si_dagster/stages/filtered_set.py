"""The filtered set: the weighted rows the next policy is distilled from, f_t[w] as data.

Nothing here sees a utility: rows stay because the verifier scored them, never because they are right. A
truncated generation is left out whatever its score, since training on it would teach an early end.
"""

import numpy as np
import polars as pl

from si_dagster.core import weighting
from si_dagster.core.samples import offsets_from_sorted_ids
from si_dagster.stages.weighting import UnparsedPolicy, proxy_utilities, sample_weights
from si_dagster.store.layout import Address, training_row_id
from si_dagster.study import WeightingSpec


def filtered_table(
    prompts: pl.DataFrame,
    generations: pl.DataFrame,
    verifications: pl.DataFrame,
    spec: WeightingSpec,
    on_unparsed: UnparsedPolicy,
    seed: int,
    address: Address,
) -> tuple[pl.DataFrame, weighting.WeightingSummary]:
    """Training rows with positive weight, and what the rule kept before caps and collapsing.

    Args:
        prompts: Columns prompt_id, prompt.
        generations: Columns generation_id, completion, finish_reason.
        verifications: Of one verification of the study; columns as in `proxy_utilities`.
        spec: Rule, cap and what happens to duplicates.
        on_unparsed: What stands for a score that could not be read.
        seed: For ties and caps.
        address: Of the filtered set; ids of training rows begin with it.

    Returns:
        The table, columns as the schema of `filtered_set`, and the summary of the rule's weights.
    """
    rows = proxy_utilities(verifications).join(
        generations.select("generation_id", "completion", "finish_reason"), on="generation_id", how="left"
    )
    rows = rows.sort("prompt_id", "sample_index")
    offsets = offsets_from_sorted_ids(rows["prompt_id"].to_numpy())
    weights = sample_weights(rows, spec, on_unparsed, seed)
    summary = weighting.summarise_weights(weights, offsets)
    weights = np.where((rows["finish_reason"] == "length").to_numpy(), 0.0, weights)
    if spec.duplicates == "collapse":
        codes = rows["completion"].rank("dense").to_numpy().astype(np.int64)
        weights = weighting.collapse_duplicates(weights, offsets, codes, "sum")
    if spec.max_per_prompt is not None:
        weights = weighting.cap_per_prompt(weights, offsets, spec.max_per_prompt, seed)
    kept = (
        rows.with_columns(
            weight=pl.Series(weights, dtype=pl.Float64),
            num_duplicates=pl.len().over("prompt_id", "completion").cast(pl.Int32),
        )
        .filter(pl.col("weight") > 0)
        .join(prompts.select("prompt_id", "prompt"), on="prompt_id", how="left")
    )
    ids = [training_row_id(address, generation) for generation in kept["generation_id"]]
    table = kept.with_columns(training_row_id=pl.Series(ids, dtype=pl.String))
    return table.select(*FILTERED_COLUMNS), summary


FILTERED_COLUMNS = (
    "training_row_id",
    "generation_id",
    "prompt_id",
    "sample_index",
    "prompt",
    "completion",
    "proxy_utility",
    "weight",
    "num_duplicates",
)
