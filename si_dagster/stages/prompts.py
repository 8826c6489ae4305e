"""Prompts: rows of a task, rendered for the generator.

It does not shuffle, balance or deduplicate: which rows a split holds is the task's business.
"""

import json
from collections.abc import Callable, Sequence

import polars as pl

from si_dagster.tasks.base import DealsRows, PromptStyle, Split, Task, TaskRow

Render = Callable[[str], str]


def prompt_table(
    task: Task,
    split: Split,
    num_rows: int,
    seed: int,
    style: PromptStyle,
    deal: int | None = None,
    render: Render = str,
) -> pl.DataFrame:
    """The prompts of one split.

    Args:
        task: The task.
        split: `train` or `eval`; ids carry it, so prompts of the two never share one.
        num_rows: Rows to draw.
        seed: Decides which rows, where the task has more than asked for.
        style: How the policy is spoken to.
        deal: Which hand of a finite pool is drawn, for a task that deals; by default the first.
        render: Turns a prompt of the task into what the policy reads: the chat template of a tuned model.

    Returns:
        One row a prompt, columns as the schema of `prompts`.

    Raises:
        TaskDataError: If the task has no data or fewer rows.
    """
    if deal is None:
        return rendered_table(task, split, task.rows(split, num_rows, seed), style, render)
    assert isinstance(task, DealsRows)
    return rendered_table(task, split, task.dealt_rows(split, num_rows, seed, deal), style, render)


def rendered_table(
    task: Task, split: Split, rows: Sequence[TaskRow], style: PromptStyle, render: Render = str
) -> pl.DataFrame:
    """Rows of a task as prompts; see `prompt_table`."""
    return pl.DataFrame(
        {
            "prompt_id": [f"{split}-{row.prompt_id.removeprefix(f'{split}-')}" for row in rows],
            "split": [split] * len(rows),
            "position": list(range(len(rows))),
            "question": [row.question for row in rows],
            "reference": [row.reference for row in rows],
            "prompt": [render(task.generation_prompt(row, style)) for row in rows],
            "slices": [json.dumps(row.columns, sort_keys=True) for row in rows],
        }
    )


def num_dealt_before(task: Task, split: Split, num_rows: int, deal: int | None) -> int:
    """How many rows of a hand were in earlier hands: none while the pool lasts.

    The first shuffle is dealt out before any row comes again, so all rows beyond it are old ones.
    """
    if deal is None or not isinstance(task, DealsRows):
        return 0
    return min(num_rows, max(0, (deal + 1) * num_rows - task.pool_size(split)))


def task_rows(prompts: pl.DataFrame) -> dict[str, TaskRow]:
    """Rows of the task by prompt id, from the table: the inverse of `prompt_table`."""
    return {
        row["prompt_id"]: TaskRow(
            row["prompt_id"], row["split"], row["question"], row["reference"], json.loads(row["slices"])
        )
        for row in prompts.iter_rows(named=True)
    }
