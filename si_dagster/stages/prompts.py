"""Prompts: rows of a task, rendered for the generator.

It does not shuffle, balance or deduplicate: which rows a split holds is the task's business.
"""

import json

import polars as pl

from si_dagster.tasks.base import PromptStyle, Split, Task, TaskRow


def prompt_table(task: Task, split: Split, num_rows: int, seed: int, style: PromptStyle) -> pl.DataFrame:
    """The prompts of one split.

    Args:
        task: The task.
        split: `train` or `eval`; ids carry it, so prompts of the two never share one.
        num_rows: Rows to draw.
        seed: Decides which rows, where the task has more than asked for.
        style: How the policy is spoken to.

    Returns:
        One row a prompt, columns as the schema of `prompts`.

    Raises:
        TaskDataError: If the task has no data or fewer rows.
    """
    rows = task.rows(split, num_rows, seed)
    return pl.DataFrame(
        {
            "prompt_id": [f"{split}-{row.prompt_id.removeprefix(f'{split}-')}" for row in rows],
            "split": [split] * len(rows),
            "position": list(range(len(rows))),
            "question": [row.question for row in rows],
            "reference": [row.reference for row in rows],
            "prompt": [task.generation_prompt(row, style) for row in rows],
            "slices": [json.dumps(row.columns, sort_keys=True) for row in rows],
        }
    )


def task_rows(prompts: pl.DataFrame) -> dict[str, TaskRow]:
    """Rows of the task by prompt id, from the table: the inverse of `prompt_table`."""
    return {
        row["prompt_id"]: TaskRow(
            row["prompt_id"], row["split"], row["question"], row["reference"], json.loads(row["slices"])
        )
        for row in prompts.iter_rows(named=True)
    }
