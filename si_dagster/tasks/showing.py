"""A task's card and rendered prompts for people: what `si-dagster tasks` and `tasks show` print.

It formats nothing and reads no model: callers print what they get.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from si_dagster.tasks.base import MakesPrompts, PromptStyle, Split, Task, TaskRow
from si_dagster.tasks.catalogue import TASK_CLASSES, task_names
from si_dagster.tasks.prompts import METHODS

EXAMPLE_COMPLETION = "<a completion of the policy stands here>"


def card(name: str) -> str:
    """The catalogue card of a task: the head of its file."""
    return inspect.cleandoc(import_module(TASK_CLASSES[name][0]).__doc__ or "")


def one_liners() -> dict[str, str]:
    """The first line of every task's card, by name; a task whose file cannot be imported says so.

    >>> one_liners()["gsm8k"]
    'GSM8K: grade-school word problems with one number as the answer.'
    """
    lines = {}
    for name in task_names():
        try:
            lines[name] = card(name).partition("\n")[0]
        except ImportError as error:
            lines[name] = f"cannot be loaded: {error}"
    return lines


def row_at(task: Task, split: Split, index: int, seed: int = 0) -> TaskRow:
    """Row number `index` of a split, counted from 0 in the order in which studies take rows."""
    return task.rows(split, index + 1, seed)[index]


def rendered_prompts(
    task: Task,
    row: TaskRow,
    style: PromptStyle,
    completion: str = EXAMPLE_COMPLETION,
    render: Callable[[str], str] = str,
) -> dict[str, str]:
    """The prompt of every role for one row: `generation`, and `verification/<method>` for each method.

    A task whose prompts the policy makes up has `bait` as well; `render` is a chat template.
    """
    prompts = _prompts(task, row, style, completion)
    return {role: render(prompt) for role, prompt in prompts.items()}


def _prompts(task: Task, row: TaskRow, style: PromptStyle, completion: str) -> dict[str, str]:
    bait = {"bait": task.bait_prompt(style)} if isinstance(task, MakesPrompts) else {}
    rendered = {**bait, "generation": task.generation_prompt(row, style)}
    for method in METHODS:
        try:
            rendered[f"verification/{method}"] = task.verification_prompt(row, completion, method, style)
        except ValueError:
            compare = getattr(task, "comparison_prompt", None)
            if method == "tournament" and compare is not None:
                with suppress(ValueError):  # nor in pairs, in this style
                    rendered[f"verification/{method}"] = compare(row, completion, completion, style)
    return rendered
