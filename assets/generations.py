"""generations: n completions a prompt, drawn from the policy of the iteration."""

from typing import Any

from resources.stage_run import StageRun
from si_dagster.stages.generations import generation_chunks, missing_prompts, sampling_params

CARD = """Completions drawn by the policy f_t, n for each prompt.

From iteration 1 on they wait for the gap of the iteration before: where it is closed, the loop stops here.

Reads: prompts of this iteration; policy: the base checkpoint, or the one the iteration before distilled.

Writes: generation_id, prompt_id, split, sample_index, completion, finish_reason, num_tokens, logprob; one
part a split.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Generate what is missing, chunk by chunk."""
    prompts = run.read("prompts")
    missing = missing_prompts(prompts, run.writer.existing(["prompt_id"])["prompt_id"].unique())
    sampling = sampling_params(run.study.generation, run.task.stop(run.style), run.seed)
    first_prompt = prompts.sort("prompt", "prompt_id")["prompt"][0]
    run.context.log.info(f"first prompt as the policy reads it:\n{first_prompt}")
    cost = run.earlier_cost
    if missing.height:
        with (
            run.engine_cost("policy") as (engine, cost),
            run.progress(prompts.height, "prompts", prompts.height - missing.height) as progress,
        ):
            for chunk in generation_chunks(missing, engine, sampling, run.node.address, run.chunk_prompts):
                run.write_part(chunk)
                progress.advance(chunk["prompt_id"].n_unique())
    rows = run.writer.existing(["completion", "finish_reason", "num_tokens"])
    return {
        **cost,
        "num_generations": rows.height,
        "num_tokens": int(rows["num_tokens"].sum()),
        "mean_tokens": float(rows["num_tokens"].mean()),  # pyright: ignore[reportArgumentType]
        "truncated_share": float((rows["finish_reason"] == "length").mean()),  # pyright: ignore[reportArgumentType]
        "resumed_prompts": prompts.height - missing.height,
        "first_prompt": first_prompt,
    }
