"""Prompt texts of data set tasks: templates by name, few-shot examples, and untrusted text made harmless.

Templates are files under `si_dagster/templates/tasks/<task>/`, with those of `common/` where a task has none
of its own. It renders text only: special tokens and chat markup come from the chat template of a model.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import cycle
from typing import Any

from si_dagster.core.verdict import neutralised
from si_dagster.tasks.base import PromptStyle, TaskDataError

METHODS = ("multiple_choice", "cot_binary", "cot_score", "tournament")
"""Verification methods that data set tasks have prompts for."""

_Slots = Mapping[str, str]
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


class Conversation(str):
    """A prompt in turns: user, assistant, user, and so on; the last one is the user's.

    As a string it is a transcript, for people and fingerprints. What a tuned model reads is made from `turns`
    by its own chat template; see `stages.chat`.

    >>> print(Conversation(["2 + 2?", "4", "2 + 3?"]))
    user:
    2 + 2?
    <BLANKLINE>
    assistant:
    4
    <BLANKLINE>
    user:
    2 + 3?
    """

    turns: tuple[str, ...]

    def __new__(cls, turns: Iterable[str]) -> "Conversation":
        """From what is said, in order."""
        kept = tuple(turns)
        roles = cycle(("user", "assistant"))
        found = super().__new__(
            cls, "\n\n".join(f"{role}:\n{turn}" for role, turn in zip(roles, kept, strict=False))
        )
        found.turns = kept
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Conversation, (self.turns,)


def _prompt(task: str, name: str, style: PromptStyle, shots: Sequence[_Slots], asked: _Slots) -> str:
    """Examples, then what is asked: turns of a conversation, or one text.

    In a conversation the template of an example is the assistant's turn; in a text it holds both sides.
    """
    ask, shown = (
        template(task, f"{name}.{style}"),
        template(task, f"{_EXAMPLE.get(name, f'{name}.example')}.{style}"),
    )
    if style == "chat":
        turns = [fill(side, **shot) for shot in shots for side in (ask, shown)]
        return Conversation([*turns, fill(ask, **asked)])
    return fill(ask, fewshot="".join(fill(shown, **shot) for shot in shots), **asked)


_EXAMPLE = {"generation": "example"}


def generation_text(task: str, question: str, examples: tuple[Example, ...], style: PromptStyle) -> str:
    """The prompt a policy answers: few-shot examples, then the question."""
    shots = [{"question": e.question, "solution": e.solution} for e in examples]
    return _prompt(task, "generation", style, shots, {"question": question})


def bait_text(task: str, questions: Sequence[str], style: PromptStyle) -> str:
    """The prompt by which a policy is brought to make up one more question like these.

    Raises:
        TaskDataError: If the task has no such prompt in the style, or no question to show.
    """
    if not questions and style == "text":
        raise TaskDataError(f"task {task}: few-shot questions are needed to bait a base model with")
    shown = "".join(f"Question: {question}\n\n" for question in questions)
    text = fill(template(task, f"bait.{style}"), fewshot=shown)
    return Conversation([text]) if style == "chat" else text


def verification_text(
    task: str, question: str, completion: str, method: str, examples: tuple[Example, ...], style: PromptStyle
) -> str:
    """The prompt of a single-answer method, ordered [few-shot][question][answer][method].

    Examples alternate right and wrong, so an even number of them is balanced.
    """
    judged = template(task, f"judged.{style}")
    shots = [_judged_example(judged, e, index % 2 == 0) for index, e in enumerate(examples)]
    asked = {"judged": fill(judged, question=question, completion=neutralised(completion))}
    return _prompt(task, method, style, shots, asked)


def _judged_example(judged: str, example: Example, right: bool) -> _Slots:
    answer = neutralised(example.solution if right else example.wrong)
    return {
        "judged": fill(judged, question=example.question, completion=answer),
        "critique": example.right_check if right else example.wrong_check,
        "verdict": "correct" if right else "incorrect",
        "score": "10" if right else "1",
    }


def comparison_text(
    task: str, question: str, first: str, second: str, examples: tuple[Example, ...], style: PromptStyle
) -> str:
    """The prompt of a tournament match; the right answer is A in every other example."""
    shots = [_match_example(e, index % 2 == 0) for index, e in enumerate(examples)]
    asked = {"question": question, "completion": neutralised(first), "second": neutralised(second)}
    return _prompt(task, "tournament", style, shots, asked)


def _match_example(example: Example, right_first: bool) -> _Slots:
    pair = (example.solution, example.wrong) if right_first else (example.wrong, example.solution)
    return {
        "question": example.question,
        "completion": neutralised(pair[0]),
        "second": neutralised(pair[1]),
        "critique": f"Answer {'B' if right_first else 'A'} is wrong. {example.wrong_check}",
        "winner": "A" if right_first else "B",
    }
