"""Utilities: the true u(x, y) of every generation, by the task's grader.

Ground truth begins and ends here: only metrics and reports read what this makes. A truncated generation
has u = 0 and stays; a grader that failed leaves a null, never a zero.
"""

import polars as pl

from si_dagster.tasks.base import Grade, Task

UTILITY_COLUMNS = {
    "generation_id": pl.String,
    "prompt_id": pl.String,
    "split": pl.String,
    "sample_index": pl.Int32,
    "utility": pl.Float64,
    "strict_utility": pl.Float64,
    "status": pl.String,
    "extracted": pl.String,
    "rule": pl.String,
    "detail": pl.String,
}


def utility_table(task: Task, prompts: pl.DataFrame, generations: pl.DataFrame) -> pl.DataFrame:
    """One row a generation, columns as the schema of `utilities`.

    Args:
        task: Grades.
        prompts: Columns prompt_id, reference.
        generations: Columns generation_id, prompt_id, split, sample_index, completion, finish_reason.
    """
    rows = generations.join(prompts.select("prompt_id", "reference"), on="prompt_id", how="left")
    grades = task.grade(rows["reference"].to_list(), rows["completion"].to_list())
    keys = rows.select("generation_id", "prompt_id", "split", "sample_index", "finish_reason")
    graded = [
        (*key, *_truncated(grade, reason))
        for (*key, reason), grade in zip(keys.iter_rows(), grades, strict=True)
    ]
    return pl.DataFrame(graded, schema=UTILITY_COLUMNS, orient="row")


def _truncated(grade: Grade, finish_reason: str) -> tuple[object, ...]:
    """The values of a grade, with the rule for generations that hit the token limit applied."""
    values = (grade.utility, grade.strict_utility, grade.status, grade.extracted, grade.rule, grade.detail)
    if finish_reason != "length" or grade.status == "grader_error":
        return values
    return (0.0, 0.0, "truncated", *values[3:])
