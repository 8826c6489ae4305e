"""What a verification method is: how a verifier policy is asked about completions, and how it is read.

A method never sees references or utilities. It does not weight, threshold or store: it returns one judgement
for each verification that was asked for, unreadable ones included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from si_dagster.engines.base import Engine
from si_dagster.tasks.base import PromptStyle, Status, Task, TaskDataError, TaskRow

REPLY_STOP: dict[PromptStyle, tuple[str, ...]] = {
    "text": ("\nQuestion:", "\nPuzzle:"),
    "chat": (),
    "pico": (),
}
"""Where a base model would go on to an example of its own; tuned and pico policies end their turn."""


class UnaskableError(TaskDataError):
    """A task that has no prompt for a method, or cannot offer what the method needs; names both."""

    def __init__(self, task: Task, method: str, reason: object) -> None:
        super().__init__(f"verification method {method} cannot be used on task {task.name}: {reason}")


@dataclass(frozen=True)
class Item:
    """One generation to verify.

    Attributes:
        generation_id: Natural key of the generation.
        row: The prompt it answers; methods do not read its reference.
        completion: Its text, which may be empty or cut off.
    """

    generation_id: str
    row: TaskRow
    completion: str


@dataclass(frozen=True)
class Judgement:
    """One verification of one generation.

    Attributes:
        generation_id: What was verified.
        verification_index: Which of the verifications of that generation, from 0.
        method: Name of the method.
        reply: Raw reply of the verifier; `None` where the method reads probabilities and no text.
        verdict: What was read from it, e.g. `correct`; `None` if unreadable.
        proxy_utility: The score; `None` if unreadable, never 0.
        status: `scored`, `unparsed` or `engine_error`.
    """

    generation_id: str
    verification_index: int
    method: str
    reply: str | None
    verdict: str | None
    proxy_utility: float | None
    status: Status


@runtime_checkable
class VerificationMethod(Protocol):
    """A way to turn a policy into a proxy utility."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Raised when a score may change; part of the fingerprint of verifications."""
    asks: ClassVar[bool]
    """Whether the verifier is asked in words; if not, `question` is not to be called."""

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """The text by which the verifier is asked about one completion; part of the fingerprint.

        Raises:
            UnaskableError: If the task has no prompt for the method.
        """
        ...

    def verify(
        self,
        engine: Engine,
        task: Task,
        style: PromptStyle,
        items: Sequence[Item],
        seed: int,
        num_verifications: int,
    ) -> list[Judgement]:
        """Judge completions.

        Args:
            engine: Holds the verifier policy.
            task: Renders the questions.
            style: How the verifier is spoken to.
            items: What to verify; generations of one prompt need not be adjacent.
            seed: Root seed of methods that sample or shuffle.
            num_verifications: Verifications a generation, M.

        Returns:
            M judgements for each item, in the order of the items, then by verification index.
        """
        ...


def single_answer_question(task: Task, row: TaskRow, completion: str, method: str, style: PromptStyle) -> str:
    """The task's verification prompt for a method that judges one answer at a time.

    Raises:
        UnaskableError: If the task has none.
    """
    try:
        return task.verification_prompt(row, completion, method, style)
    except TaskDataError as error:
        raise UnaskableError(task, method, error) from error


def equal_judgements(
    items: Sequence[Item], scores: Sequence[float | None], method: str, num_verifications: int
) -> list[Judgement]:
    """M equal judgements for each item, for methods that draw nothing and read no text.

    A score of `None` is `unparsed`.
    """
    return [
        Judgement(
            item.generation_id, index, method, None, None, score, "unparsed" if score is None else "scored"
        )
        for item, score in zip(items, scores, strict=True)
        for index in range(num_verifications)
    ]
