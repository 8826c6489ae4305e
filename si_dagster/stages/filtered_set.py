"""The filtered set: the weighted rows the next policy is distilled from, f_t[w] as data.

Nothing here sees a utility: rows stay because the verifier scored them, never because they are right. A
truncated generation is left out whatever its score, since training on it would teach an early end. For
preference methods a row is a pair, and its id is that of the accepted generation, which is in one pair at
most.
"""

from typing import Literal

import numpy as np
import polars as pl

from si_dagster.core import weighting
from si_dagster.core.pairing import Pairs, accepted_rejected_pairs, any_pairs
from si_dagster.core.samples import offsets_from_sorted_ids
from si_dagster.store.layout import Address, training_row_id
from si_dagster.study import WeightingSpec


def filtered_table(
    prompts: pl.DataFrame,
    generations: pl.DataFrame,
    scores: pl.DataFrame,
    spec: WeightingSpec,
    seed: int,
    address: Address,
    pairing: Literal["accepted_rejected", "any"] | None = None,
) -> tuple[pl.DataFrame, weighting.WeightingSummary]:
    """Training rows with positive weight, and what the rule kept before caps and collapsing.

    Args:
        prompts: Columns prompt_id, prompt.
        generations: Columns generation_id, completion, finish_reason.
        scores: With their weights, as from `weighted_scores`.
        spec: Cap and what happens to duplicates.
        seed: For caps and pairs.
        address: Of the filtered set; ids of training rows begin with it.
        pairing: Rows are pairs, weight 1 each: of an accepted generation and a rejected one, or of any two.

    Returns:
        The table, columns as the schema of `filtered_set`, and the summary of the rule's weights.
    """
    rows = scores.join(
        generations.select("generation_id", "completion", "finish_reason"), on="generation_id", how="left"
    )
    rows = rows.sort("prompt_id", "sample_index").with_columns(
        num_duplicates=pl.len().over("prompt_id", "completion").cast(pl.Int32)
    )
    offsets = offsets_from_sorted_ids(rows["prompt_id"].to_numpy())
    weights = rows["weight"].to_numpy()
    summary = weighting.summarise_weights(weights, offsets)
    if pairing == "any":
        kept = _any_pairs(rows, spec, offsets, seed)
    else:
        whole = np.where((rows["finish_reason"] == "length").to_numpy(), 0.0, weights)
        thinned = _thinned(whole, rows, spec, offsets, seed)
        kept = rows.with_columns(weight=pl.Series(thinned, dtype=pl.Float64)).filter(pl.col("weight") > 0)
        if pairing:
            kept = _accepted_rejected_pairs(rows, weights, thinned, offsets, seed)
    kept = kept.join(prompts.select("prompt_id", "prompt"), on="prompt_id", how="left")
    ids = [training_row_id(address, generation) for generation in kept["generation_id"]]
    table = kept.with_columns(training_row_id=pl.Series(ids, dtype=pl.String))
    return table.select(*FILTERED_COLUMNS, *(REJECTED_COLUMNS if pairing else ())), summary


def _thinned(
    weights: np.ndarray, rows: pl.DataFrame, spec: WeightingSpec, offsets: np.ndarray, seed: int
) -> np.ndarray:
    """Weights after duplicates are collapsed and each prompt is capped."""
    if spec.duplicates == "collapse":
        weights = weighting.collapse_duplicates(weights, offsets, _codes(rows), "sum")
    if spec.max_per_prompt is not None:
        weights = weighting.cap_per_prompt(weights, offsets, spec.max_per_prompt, seed)
    return weights


def _accepted_rejected_pairs(
    rows: pl.DataFrame, weights: np.ndarray, thinned: np.ndarray, offsets: np.ndarray, seed: int
) -> pl.DataFrame:
    """Pairs of what is left after thinning with what the rule itself gave no weight."""
    scores = _known_scores(rows)
    rejected = (weights == 0.0) & ~np.isnan(scores)
    return _side_by_side(
        rows, accepted_rejected_pairs(thinned > 0.0, rejected, scores, _codes(rows), offsets, seed)
    )


def _any_pairs(rows: pl.DataFrame, spec: WeightingSpec, offsets: np.ndarray, seed: int) -> pl.DataFrame:
    """Pairs of any two scored generations, at most `max_per_prompt` a prompt."""
    pairs = _side_by_side(rows, any_pairs(_known_scores(rows), _codes(rows), offsets, seed))
    if spec.max_per_prompt is None:
        return pairs
    return pairs.filter(pl.int_range(pl.len()).over("prompt_id") < spec.max_per_prompt)


def _known_scores(rows: pl.DataFrame) -> np.ndarray:
    """Scores, NaN where unread or where the generation was cut short."""
    known = pl.when(pl.col("finish_reason") != "length").then(pl.col("proxy_utility"))
    return rows.select(known.cast(pl.Float64).fill_null(np.nan)).to_series().to_numpy()


def _codes(rows: pl.DataFrame) -> np.ndarray:
    return rows["completion"].rank("dense").to_numpy().astype(np.int64)


def _side_by_side(rows: pl.DataFrame, pairs: Pairs) -> pl.DataFrame:
    """One row a pair: the accepted generation, weight 1, and the rejected one in columns of its own."""
    accepted, rejected = (rows[side] for side in pairs)
    others = rejected.select(
        rejected_generation_id="generation_id",
        rejected_completion="completion",
        rejected_proxy_utility=pl.col("proxy_utility").cast(pl.Float64),
    )
    return pl.concat([accepted.with_columns(weight=pl.lit(1.0)), others], how="horizontal")


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

REJECTED_COLUMNS = ("rejected_generation_id", "rejected_completion", "rejected_proxy_utility")
