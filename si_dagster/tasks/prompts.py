"""Prompt texts of data set tasks: templates by name, few-shot examples, and untrusted text made harmless.

Templates are files under `si_dagster/templates/tasks/<task>/`, with those of `common/` where a task has none
of its own. It renders text only: special tokens and chat markup are the engine's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from si_dagster.core.verdict import neutralised
from si_dagster.tasks.base import PromptStyle, TaskDataError

METHODS = ("multiple_choice", "cot_binary", "cot_score", "tournament")
"""Verification methods that data set tasks have prompts for."""

_SLOT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Example:
    """One few-shot example: a question with a right and a wrong answer and a check of each."""

    question: str
    solution: str
    wrong: str
    right_check: str
    wrong_check: str


@cache
def template(task: str, name: str) -> str:
    """The text of one template, the task's own or the common one.

    Raises:
        TaskDataError: If there is neither.
    """
    root = resources.files("si_dagster") / "templates" / "tasks"
    for folder in (task, "common"):
        file = root / folder / f"{name}.txt"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise TaskDataError(f"no template {name}.txt for task {task}")


@cache
def shipped_examples(task: str) -> tuple[Example, ...]:
    """The few-shot examples that come with a task, none where it has no file."""
    file = resources.files("si_dagster") / "templates" / "tasks" / task / "fewshot.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return tuple(example_of(row) for row in rows)


def example_of(row: Mapping[str, Any]) -> Example:
    """An example from a JSON object; checks may be missing, question and solution may not.

    Raises:
        TaskDataError: If question or solution is missing.
    """
    if not row.get("question") or not row.get("solution"):
        raise TaskDataError(f"a few-shot example needs `question` and `solution`, has {sorted(row)}")
    return Example(
        str(row["question"]),
        str(row["solution"]),
        str(row.get("wrong", "")),
        str(row.get("right_check", "The answer is right.")),
        str(row.get("wrong_check", "The answer is wrong.")),
    )


def fill(text: str, **values: str) -> str:
    """Put values into `{slots}` in one pass, so that braces inside values stay as they are.

    >>> fill("{question} = {answer}", question="{answer}", answer="x")
    '{answer} = x'
    """
    return _SLOT.sub(lambda match: values.get(match[1], match[0]), text)


def generation_text(task: str, question: str, examples: tuple[Example, ...], style: PromptStyle) -> str:
    """The prompt a policy answers: few-shot examples, then the question."""
    shown = template(task, f"example.{style}")
    shots = "".join(fill(shown, question=e.question, solution=e.solution) for e in examples)
    return fill(template(task, f"generation.{style}"), fewshot=shots, question=question)


def verification_text(
    task: str, question: str, completion: str, method: str, examples: tuple[Example, ...], style: PromptStyle
) -> str:
    """The prompt of a single-answer method, ordered [few-shot][question][answer][method].

    Examples alternate right and wrong, so an even number of them is balanced.
    """
    shots = "".join(
        _judged_example(task, e, index % 2 == 0, method, style) for index, e in enumerate(examples)
    )
    judged = fill(template(task, f"judged.{style}"), question=question, completion=neutralised(completion))
    return fill(template(task, f"{method}.{style}"), fewshot=shots, judged=judged)


def _judged_example(task: str, example: Example, right: bool, method: str, style: PromptStyle) -> str:
    answer = example.solution if right else example.wrong
    judged = fill(
        template(task, f"judged.{style}"), question=example.question, completion=neutralised(answer)
    )
    return fill(
        template(task, f"{method}.example.{style}"),
        judged=judged,
        critique=example.right_check if right else example.wrong_check,
        verdict="correct" if right else "incorrect",
        score="10" if right else "1",
    )


def comparison_text(
    task: str, question: str, first: str, second: str, examples: tuple[Example, ...], style: PromptStyle
) -> str:
    """The prompt of a tournament match; the right answer is A in every other example."""
    shots = "".join(_match_example(task, e, index % 2 == 0, style) for index, e in enumerate(examples))
    values = {"question": question, "completion": neutralised(first), "second": neutralised(second)}
    return fill(template(task, f"tournament.{style}"), fewshot=shots, **values)


def _match_example(task: str, example: Example, right_first: bool, style: PromptStyle) -> str:
    pair = (example.solution, example.wrong) if right_first else (example.wrong, example.solution)
    return fill(
        template(task, f"tournament.example.{style}"),
        question=example.question,
        completion=neutralised(pair[0]),
        second=neutralised(pair[1]),
        critique=f"Answer {'B' if right_first else 'A'} is wrong. {example.wrong_check}",
        winner="A" if right_first else "B",
    )
