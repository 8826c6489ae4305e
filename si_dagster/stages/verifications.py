"""Verifications: a verifier policy scores every generation, chunk by chunk, by one method of the study.

The method renders, asks and reads; this only cuts the work and names the rows. It never sees a reference
answer: rows go to the method without one.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, replace

import polars as pl

from si_dagster.engines.base import Engine
from si_dagster.stages.prompts import task_rows
from si_dagster.store.layout import verification_id
from si_dagster.study import VerificationSpec
from si_dagster.tasks.base import PromptStyle, Task
from si_dagster.verification.base import Item, VerificationMethod

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


def verification_chunks(
    prompts: pl.DataFrame,
    generations: pl.DataFrame,
    method: VerificationMethod,
    engine: Engine,
    task: Task,
    style: PromptStyle,
    spec: VerificationSpec,
    verifier: str,
    seed: int,
    chunk_prompts: int,
) -> Iterator[pl.DataFrame]:
    """Verifications of all generations of `chunk_prompts` prompts at a time.

    Args:
        prompts: Table of prompts; the references in it are withheld from the method.
        generations: Those still to verify.
        method: How to verify.
        engine: Holds the verifier policy.
        task: Renders the verification prompts.
        style: How the verifier is spoken to.
        spec: Name, number of verifications a response.
        verifier: Artifact id of the policy that verifies.
        seed: For methods that sample or shuffle.
        chunk_prompts: Prompts a chunk; all generations of one prompt stay together.

    Yields:
        Columns as the schema of `verifications`.
    """
    rows = {key: replace(row, reference="") for key, row in task_rows(prompts).items()}
    ordered = prompts.sort("prompt", "prompt_id").filter(
        pl.col("prompt_id").is_in(generations["prompt_id"].unique().to_list())
    )
    for chunk in ordered.iter_slices(chunk_prompts):
        part = chunk.select("prompt_id").join(generations, on="prompt_id", maintain_order="left_right")
        items = [
            Item(generation_id, rows[prompt_id], completion)
            for generation_id, prompt_id, completion in part.select(
                "generation_id", "prompt_id", "completion"
            ).iter_rows()
        ]
        judgements = method.verify(engine, task, style, items, seed, spec.num_verifications)
        yield _table(part, [asdict(judgement) for judgement in judgements], spec, verifier)


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
