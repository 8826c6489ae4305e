"""A task of small sums and verifier policies for it whose every reply is written down."""

from collections.abc import Callable, Iterable
from typing import ClassVar

from si_dagster.core.verdict import neutralised
from si_dagster.engines.scripted import ScriptedEngine
from si_dagster.tasks.base import Grade, TaskDataError, TaskRow
from si_dagster.verification.base import Item

METHODS = ("multiple_choice", "cot_binary", "cot_score")


class Sums:
    """Has prompts for every method, and reads the last word as the answer."""

    name: ClassVar[str] = "sums"
    grader_version: ClassVar[str] = "1"

    def rows(self, split, num_rows, seed):
        return [TaskRow(f"p{i}", split, f"{i}+1", "never look here") for i in range(num_rows)]

    def generation_prompt(self, row, style):
        return f"{row.question}="

    def stop(self, style):
        return ()

    def verification_prompt(self, row, completion, method, style):
        if method not in METHODS:
            raise TaskDataError(f"no prompt for {method}")
        return f"{row.question}: {neutralised(completion)}; {method}?"

    def comparison_prompt(self, row, first, second, style):
        return f"{row.question}: A {neutralised(first)}, B {neutralised(second)}?"

    def verdict_labels(self, style):
        return (" correct", " incorrect")

    def extract(self, completion):
        return completion.split()[-1] if completion.split() else None

    def grade(self, references, completions):
        return [Grade(0.0, 0.0, "scored", c, "literal") for c in completions]


class Plain(Sums):
    """A task with multiple choice alone."""

    name: ClassVar[str] = "plain"
    comparison_prompt = None  # type: ignore[assignment]
    extract = None  # type: ignore[assignment]

    def verification_prompt(self, row, completion, method, style):
        if method != "multiple_choice":
            raise TaskDataError("only multiple_choice")
        return super().verification_prompt(row, completion, method, style)


def items_of(*fields: Iterable[str]) -> list[Item]:
    """Items of one prompt after another, from the completions of each."""
    rows = Sums().rows("train", len(fields), 0)
    return [
        Item(f"{row.prompt_id}/{j}", row, completion)
        for row, completions in zip(rows, fields, strict=True)
        for j, completion in enumerate(completions)
    ]


def replying(
    items: list[Item], method: str, replies: dict[str, float] | Callable[[str], str]
) -> ScriptedEngine:
    """A policy with these replies, or the reply to each completion, to every question about the items."""
    return ScriptedEngine(
        script={
            Sums().verification_prompt(item.row, item.completion, method, "text"): (
                replies if isinstance(replies, dict) else {replies(item.completion): 1.0}
            )
            for item in items
        }
    )


def comparing(items: list[Item], reply: Callable[[str, str], str]) -> ScriptedEngine:
    """A policy that gives `reply(first, second)` to every comparison."""
    return ScriptedEngine(
        script={
            Sums().comparison_prompt(a.row, a.completion, b.completion, "text"): {
                reply(a.completion, b.completion): 1.0
            }
            for a in items
            for b in items
            if a.row == b.row
        }
    )
