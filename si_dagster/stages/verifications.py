"""Verifications: a verifier policy scores every generation, chunk by chunk, by one method of the study.

The method renders, asks and reads; this only cuts the work and names the rows. It never sees a reference
answer: rows go to the method without one. Utilities come in for the oracle alone.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from si_dagster.engines.base import num_lanes
from si_dagster.stages.chunks import as_finished
from si_dagster.stages.prompts import task_rows
from si_dagster.store.layout import verification_id
from si_dagster.study import VerificationSpec
from si_dagster.verification.asking import NUM_RESAMPLES
from si_dagster.verification.base import Batch, Item, VerificationMethod

KEYS = ("generation_id", "prompt_id", "split", "sample_index")

VERIFICATION_COLUMNS = {
    "verification_id": pl.String,
    "generation_id": pl.String,
    "prompt_id": pl.String,
    "split": pl.String,
    "sample_index": pl.Int32,
    "verification": pl.String,
    "method": pl.String,
    "verifier": pl.String,
    "verification_index": pl.Int32,
    "proxy_utility": pl.Float64,
    "verdict": pl.String,
    "reply": pl.String,
    "status": pl.String,
}


def missing_generations(generations: pl.DataFrame, done: Collection[str]) -> pl.DataFrame:
    """Generations that no stored chunk verifies."""
    return generations.filter(~pl.col("generation_id").is_in(list(done)))


def batch_fields(spec: VerificationSpec, seed: int) -> dict[str, Any]:
    """What a verification of the study says to its method, as fields of `Batch`."""
    return {
        "seed": seed,
        "num_verifications": spec.num_verifications,
        "sampling": spec.sampling,
        "num_resamples": NUM_RESAMPLES if spec.resamples else 0,
    }


def first_prompt(
    prompts: pl.DataFrame, generations: pl.DataFrame, method: VerificationMethod, batch: Batch
) -> str | None:
    """The first text the verifier is given, whole; `None` where the method gives it none."""
    _, items = next(_item_chunks(prompts, generations, 1), (None, []))
    return method.first_prompt(replace(batch, items=items))


def verification_chunks(
    prompts: pl.DataFrame,
    generations: pl.DataFrame,
    method: VerificationMethod,
    batch: Batch,
    spec: VerificationSpec,
    verifier: str,
    chunk_prompts: int,
) -> Iterator[pl.DataFrame]:
    """Verifications of all generations of `chunk_prompts` prompts at a time, as they finish.

    Args:
        prompts: Table of prompts; the references in it are withheld from the method.
        generations: Those still to verify; for the oracle with a column `utility`.
        method: How to verify.
        batch: Engine, task and all else a method may use, without items.
        spec: Name of the verification and of its method.
        verifier: Artifact id of the policy that verifies.
        chunk_prompts: Prompts a chunk; all generations of one prompt stay together.

    Returns:
        Columns as the schema of `verifications`.
    """

    def verified(chunk: tuple[pl.DataFrame, list[Item]]) -> pl.DataFrame:
        part, items = chunk
        judgements = method.verify(replace(batch, items=items))
        return _table(part, [asdict(judgement) for judgement in judgements], spec, verifier)

    chunks = _item_chunks(prompts, generations, chunk_prompts)
    return as_finished(verified, chunks, num_lanes(batch.engine))


def _item_chunks(
    prompts: pl.DataFrame, generations: pl.DataFrame, chunk_prompts: int
) -> Iterator[tuple[pl.DataFrame, list[Item]]]:
    """Generations of some prompts at a time, as rows and as items, in the order of the prompts' text."""
    rows = {key: replace(row, reference="") for key, row in task_rows(prompts).items()}
    ordered = prompts.sort("prompt", "prompt_id").filter(
        pl.col("prompt_id").is_in(generations["prompt_id"].unique().to_list())
    )
    columns = [
        name for name in ("generation_id", "prompt_id", "completion", "utility") if name in generations
    ]
    for chunk in ordered.iter_slices(chunk_prompts):
        part = chunk.select("prompt_id").join(generations, on="prompt_id", maintain_order="left_right")
        yield (
            part,
            [
                Item(generation_id, rows[prompt_id], *shown)
                for generation_id, prompt_id, *shown in part.select(columns).iter_rows()
            ],
        )


def _table(
    generations: pl.DataFrame, judgements: list[dict], spec: VerificationSpec, verifier: str
) -> pl.DataFrame:
    ids = [verification_id(row["generation_id"], spec.name, row["verification_index"]) for row in judgements]
    return (
        pl.DataFrame(judgements, infer_schema_length=None)
        .with_columns(
            verification_id=pl.Series(ids, dtype=pl.String),
            verification=pl.lit(spec.name),
            verifier=pl.lit(verifier),
            method=pl.lit(spec.method),
        )
        .join(generations.select(KEYS), on="generation_id", how="left")
        .select(pl.col(name).cast(dtype) for name, dtype in VERIFICATION_COLUMNS.items())
    )
