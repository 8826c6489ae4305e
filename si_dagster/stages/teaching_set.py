"""The teaching set: the few dear verifications that a student learns to rank by, with what it will be asked.

Which responses are chosen depends on generations and seed alone, so that the teacher need be asked about no
others, and a smaller budget is spent on part of what a larger one is. Nothing here sees a utility. It holds
no comparisons: a student compares all rows of a prompt with each other (`training.comparative`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from si_dagster.stages.prompts import Render, task_rows
from si_dagster.stages.weighting import proxy_utilities
from si_dagster.tasks.base import PromptStyle, Task
from si_dagster.verification.base import VerificationMethod

TEACHING_COLUMNS = (
    "generation_id",
    "prompt_id",
    "sample_index",
    "question",
    "teacher",
    "num_verifications",
    "proxy_utility",
)


def chosen_generations(
    generations: pl.DataFrame, budget: int, responses_per_prompt: int, seed: int
) -> list[str]:
    """The responses that a budget is spent on: prompts in a seeded order, some responses of each.

    Of equal completions the first draw stands for all, and a prompt with a single completion is passed by:
    neither makes a comparison (ours).

    Args:
        generations: Columns generation_id, prompt_id, sample_index, completion.
        budget: Most responses.
        responses_per_prompt: Most responses of one prompt.
        seed: Of the order.

    Returns:
        Generation ids, those of a prompt side by side; the choice of a smaller budget is the beginning of it.

    Examples:
        >>> rows = pl.DataFrame(
        ...     [("a", "p", 0, "1"), ("b", "p", 1, "1"), ("c", "p", 2, "2"), ("d", "q", 0, "3")],
        ...     schema=["generation_id", "prompt_id", "sample_index", "completion"],
        ...     orient="row",
        ... )
        >>> sorted(chosen_generations(rows, budget=9, responses_per_prompt=4, seed=0))
        ['a', 'c']
    """
    rng = np.random.default_rng(seed)
    different = generations.sort("prompt_id", "sample_index").unique(
        ["prompt_id", "completion"], keep="first", maintain_order=True
    )
    of_prompt = different.group_by("prompt_id", maintain_order=True).agg("generation_id")["generation_id"]
    chosen: list[str] = []
    for prompt in rng.permutation(len(of_prompt)).tolist():
        if len(chosen) >= budget:
            break
        candidates = of_prompt[prompt].to_list()
        places = np.random.default_rng((seed, prompt)).permutation(len(candidates))
        if len(candidates) > 1:
            chosen += [candidates[place] for place in places[:responses_per_prompt]]
    return chosen[:budget]


def needed_by(generations: pl.DataFrame, lessons: Iterable[Mapping[str, int]]) -> pl.DataFrame:
    """The generations that a teacher has to verify for all its students; lessons as from `Plan.lessons`."""
    needed = {identifier for lesson in lessons for identifier in chosen_generations(generations, **lesson)}
    return generations.filter(pl.col("generation_id").is_in(list(needed)))


def teaching_table(
    task: Task,
    style: PromptStyle,
    method: VerificationMethod,
    prompts: pl.DataFrame,
    generations: pl.DataFrame,
    verifications: pl.DataFrame,
    render: Render = str,
) -> pl.DataFrame:
    """A row for each chosen response that the teacher's score could be read of.

    Args:
        task: Renders the questions.
        style: How the student is spoken to.
        method: Whose question the student will be asked.
        prompts: Of the training split.
        generations: The chosen ones.
        verifications: The teacher's, of these and perhaps of others.
        render: Turns a question into what the student reads: the chat template of a tuned model.

    Returns:
        Columns as the schema of `teaching_set`.
    """
    asked = verifications.join(generations.select("generation_id"), on="generation_id", how="semi")
    scores = proxy_utilities(asked).join(
        asked.group_by("generation_id").agg(
            num_verifications=pl.len().cast(pl.Int64), teacher=pl.col("verification").first()
        ),
        on="generation_id",
    )
    rows = {key: replace(row, reference="") for key, row in task_rows(prompts).items()}
    scored = scores.drop_nulls("proxy_utility").join(
        generations.select("generation_id", "completion"), on="generation_id", how="left"
    )
    questions = [
        render(method.question(task, rows[prompt_id], completion, style))
        for prompt_id, completion in scored.select("prompt_id", "completion").iter_rows()
    ]
    table = scored.with_columns(question=pl.Series(questions, dtype=pl.String))
    return table.sort("prompt_id", "sample_index").select(TEACHING_COLUMNS)


def num_comparisons(teaching_set: pl.DataFrame) -> int:
    """Pairs of two responses of one prompt: k (k - 1) / 2 of k responses, summed over prompts."""
    sizes = teaching_set["prompt_id"].value_counts()["count"].to_numpy()
    return int((sizes * (sizes - 1) // 2).sum())
