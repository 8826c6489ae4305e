"""verifications: the policy's own judgement of every generation, by each verification of the study."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.analysis.plots import histogram, to_markdown
from si_dagster.stages.verifications import missing_generations, verification_chunks
from si_dagster.verification.catalogue import load_method

CARD = """Proxy utilities: the score a verifier policy gives to every generation.

The verifier is the policy itself unless the study names another. It never sees a reference answer.

Reads: prompts, generations; verifier: the checkpoint that verifies.

Writes: verification_id, generation_id, prompt_id, split, sample_index, verification, method, verifier,
verification_index, proxy_utility, verdict, reply, status; one part a split and verification.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Verify what is missing, chunk by chunk."""
    prompts, generations = run.read("prompts"), run.read("generations")
    missing = missing_generations(
        generations, run.writer.existing(["generation_id"])["generation_id"].unique()
    )
    num_prompts = missing["prompt_id"].n_unique()
    cost: dict[str, Any] = {}
    if missing.height:
        with (
            run.engine_cost("verifier") as (engine, cost),
            run.progress(prompts.height, "prompts", prompts.height - num_prompts) as progress,
        ):
            for chunk in verification_chunks(
                prompts,
                missing,
                load_method(run.verification.method),
                engine,
                run.task,
                run.style_of("verifier"),
                run.verification,
                run.node.inputs["verifier"].artifact_id,
                run.seed,
                run.chunk_prompts,
            ):
                run.writer.write_part(chunk)
                progress.advance(chunk["prompt_id"].n_unique())
    rows = run.writer.existing(["proxy_utility", "status"])
    scores = rows["proxy_utility"].drop_nulls()
    return {
        **cost,
        "num_verifications": rows.height,
        "num_unparsed": int(rows["proxy_utility"].null_count()),
        "mean_proxy_utility": scores.mean(),
        "plot": to_markdown(histogram(scores.to_list(), "proxy utility"), "proxy utilities"),
    }
