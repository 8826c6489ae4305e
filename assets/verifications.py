"""verifications: the policy's own judgement of every generation, by each verification of the study."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from resources.stage_run import StageRun
from si_dagster.analysis.plots import histogram, to_markdown
from si_dagster.engines.base import Engine
from si_dagster.stages.teaching_set import needed_by
from si_dagster.stages.verifications import (
    batch_fields,
    first_prompt,
    missing_generations,
    verification_chunks,
)
from si_dagster.verification.base import Batch, VerificationMethod
from si_dagster.verification.catalogue import load_method

CARD = """Proxy utilities: the score a verifier policy gives to every generation.

The verifier is the policy itself unless the study names another. It never sees a reference answer.

Reads: prompts, generations; verifier: the checkpoint that verifies. The oracle alone reads utilities.

Writes: verification_id, generation_id, prompt_id, split, sample_index, verification, method, verifier,
verification_index, proxy_utility, verdict, reply, status; one part a split and verification.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Verify what is missing, chunk by chunk."""
    method = load_method(run.verification.method)
    prompts, generations = run.read("prompts"), _generations(run, method)
    role = "verifier" if "verifier" in run.node.inputs else "utilities"
    batch = Batch(run.task, run.style_of(role), **batch_fields(run.verification, run.seed))
    shown = first_prompt(prompts, generations, method, batch)
    if shown and run.style_of(role) == "chat":
        shown = run.chat_template(role).render(shown)
    run.context.log.info(f"first prompt as the verifier reads it:\n{shown or 'none: nothing is asked'}")
    missing = missing_generations(
        generations, run.writer.existing(["generation_id"])["generation_id"].unique()
    )
    num_prompts = missing["prompt_id"].n_unique()
    cost = run.earlier_cost
    if missing.height:
        with (
            _verifier(run, method) as (engine, cost),
            run.progress(prompts.height, "prompts", prompts.height - num_prompts) as progress,
        ):
            for chunk in verification_chunks(
                prompts,
                missing,
                method,
                replace(batch, engine=engine),
                run.verification,
                run.node.inputs[role].artifact_id,
                run.chunk_prompts,
            ):
                run.write_part(chunk)
                progress.advance(chunk["prompt_id"].n_unique())
    rows = run.writer.existing(["proxy_utility", "status"])
    scores = rows["proxy_utility"].drop_nulls()
    return {
        **cost,
        "num_verifications": rows.height,
        "num_unparsed": int(rows["proxy_utility"].null_count()),
        "mean_proxy_utility": scores.mean(),
        "first_prompt": shown,
        "plot": to_markdown(histogram(scores.to_list(), "proxy utility"), "proxy utilities"),
    }


def _generations(run: StageRun, method: VerificationMethod) -> pl.DataFrame:
    """What is to be verified; with its utility where the plan lets the oracle read it."""
    rows = run.read("generations")
    if "teaches" in run.node.fields:
        rows = needed_by(rows, run.plan.lessons(run.verification))
    if not method.sees_truth:
        return rows
    return rows.join(run.read("utilities", ["generation_id", "utility"]), on="generation_id", how="left")


@contextmanager
def _verifier(run: StageRun, method: VerificationMethod) -> Iterator[tuple[Engine | None, dict[str, Any]]]:
    """The engine and what it cost; none is started for a method that calls no policy."""
    if not method.calls_verifier:
        yield None, {}
        return
    with run.engine_cost("verifier") as (engine, cost):
        yield run.spoken(engine, "verifier"), cost
