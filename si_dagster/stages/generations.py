"""Generations: n completions a prompt, drawn from the policy, chunk by chunk.

The natural key (prompt, sample index) decides what is missing, so a broken stage goes on where it was. It
does not grade, filter or repair a completion.
"""

from collections.abc import Collection, Iterator

import polars as pl

from si_dagster.engines.base import Completion, Engine, Prompt, SamplingParams, num_lanes
from si_dagster.stages.chunks import as_finished
from si_dagster.store.layout import Address, generation_id
from si_dagster.study import GenerationSpec


def sampling_params(spec: GenerationSpec, task_stop: tuple[str, ...], seed: int) -> SamplingParams:
    """What the engine is asked for: the study's values, the task's stop strings and the derived seed."""
    return SamplingParams(
        n=spec.n,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        max_tokens=spec.max_tokens,
        stop=tuple(dict.fromkeys([*task_stop, *spec.stop])),
        seed=seed,
    )


def missing_prompts(prompts: pl.DataFrame, done: Collection[str]) -> pl.DataFrame:
    """Prompts of which no generation is stored; a chunk is whole or absent, so one row speaks for all."""
    return prompts.filter(~pl.col("prompt_id").is_in(list(done)))


def generation_chunks(
    prompts: pl.DataFrame,
    engine: Engine,
    sampling: SamplingParams,
    address: Address,
    chunk_prompts: int,
) -> Iterator[pl.DataFrame]:
    """Generations of `chunk_prompts` prompts at a time, columns as the schema of `generations`.

    As many chunks are under way as the engine has lanes; they come as they finish.

    Args:
        prompts: Table of prompts; sorted by prompt text here, so that shared beginnings are neighbours.
        engine: Holds the policy.
        sampling: How to draw; each draw depends on (seed, prompt id, sample index) alone.
        address: Of the artifact; generation ids begin with it.
        chunk_prompts: Prompts a chunk. It changes the clock, not the draws.
    """

    def drawn(chunk: pl.DataFrame) -> pl.DataFrame:
        keys, texts = chunk["prompt_id"].to_list(), chunk["prompt"].to_list()
        completions = engine.generate([Prompt(*pair) for pair in zip(keys, texts, strict=True)], sampling)
        rows = [
            (generation_id(address, key, index), key, address.part, index, *_columns(completion))
            for key, of_prompt in zip(keys, completions, strict=True)
            for index, completion in enumerate(of_prompt)
        ]
        return pl.DataFrame(rows, schema=GENERATION_COLUMNS, orient="row")

    chunks = prompts.sort("prompt", "prompt_id").iter_slices(chunk_prompts)
    return as_finished(drawn, chunks, num_lanes(engine))


def _columns(completion: Completion) -> tuple[str, str, int, float]:
    return (completion.text, completion.finish_reason, completion.num_tokens, completion.logprob)


GENERATION_COLUMNS = {
    "generation_id": pl.String,
    "prompt_id": pl.String,
    "split": pl.String,
    "sample_index": pl.Int32,
    "completion": pl.String,
    "finish_reason": pl.String,
    "num_tokens": pl.Int32,
    "logprob": pl.Float64,
}
