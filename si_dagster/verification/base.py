"""What a verification method is: how a verifier policy is asked about completions, and how it is read.

A method never sees references; true utilities are shown to the oracle alone. It does not weight, threshold
or store: it returns one judgement for each verification that was asked for, unreadable ones included.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, ClassVar

from si_dagster.engines.base import Engine
from si_dagster.tasks.base import PromptStyle, Status, Task, TaskDataError, TaskRow


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
        utility: Its true utility, where the method is the oracle; `None` for every other.
    """

    generation_id: str
    row: TaskRow
    completion: str
    utility: float | None = None


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


@dataclass(frozen=True)
class Batch:
    """Completions to verify together, and everything a method may use for it.

    Attributes:
        task: Renders the questions.
        style: How the verifier is spoken to.
        items: What to verify; generations of one prompt need not be adjacent.
        engine: Holds the verifier policy; `None` for methods that call none.
        seed: Root seed of methods that sample or shuffle.
        num_verifications: Verifications a generation, M.
        sampling: What the study says of the verifier's sampling in place of the method's own values:
            `temperature`, `top_p`, `max_tokens`.
        num_resamples: How often an unreadable reply is drawn again.
    """

    task: Task
    style: PromptStyle
    items: Sequence[Item] = ()
    engine: Engine | None = None
    seed: int = 0
    num_verifications: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    num_resamples: int = 0

    @property
    def verifier(self) -> Engine:
        """The engine.

        Raises:
            TypeError: If there is none, which is a fault of the caller.
        """
        if self.engine is None:
            raise TypeError("this verification method calls a verifier, and was given no engine")
        return self.engine

    def verifications(self) -> Iterator[tuple[Item, int]]:
        """(item, verification index) of each judgement that is asked for, in order."""
        return ((item, index) for item in self.items for index in range(self.num_verifications))


class VerificationMethod(ABC):
    """A way to turn a policy into a proxy utility."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Raised when a score may change; part of the fingerprint of verifications."""
    asks: ClassVar[bool] = True
    """Whether the verifier is asked in words; if not, `question` is not to be called."""
    samples: ClassVar[bool] = False
    """Whether replies are drawn, so that the sampling fields of the study mean something."""
    calls_verifier: ClassVar[bool] = True
    """Whether a policy is needed at all."""
    compares: ClassVar[bool] = False
    """Whether a score depends on the other responses to the prompt, which must be handed in with it."""
    sees_truth: ClassVar[bool] = False
    """Whether items come with their true utility: the oracle, which bounds all others."""
    accepts_from: ClassVar[float | None] = None
    """The score from which on the verifier says that an answer is right; `None` where scores only rank."""
    is_probability: ClassVar[bool] = False
    """Whether a score is meant as the chance that the answer is right, so that calibration is a question."""

    @abstractmethod
    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """The text by which the verifier is asked about one completion; part of the fingerprint.

        Raises:
            UnaskableError: If the task has no prompt for the method.
        """

    def first_prompt(self, batch: Batch) -> str | None:
        """The first text the engine is given, for people to look at; `None` where it is given none."""
        item = next(iter(batch.items), None)
        if item is None or not self.asks:
            return None
        return self.question(batch.task, item.row, item.completion, batch.style)

    @abstractmethod
    def verify(self, batch: Batch) -> list[Judgement]:
        """Judge completions.

        Returns:
            M judgements for each item, in the order of the items, then by verification index.
        """


class SingleAnswerMethod(VerificationMethod):
    """A method that asks about one answer at a time."""

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """See `VerificationMethod.question`."""
        try:
            return task.verification_prompt(row, completion, self.name, style)
        except TaskDataError as error:
            raise UnaskableError(task, self.name, error) from error

    def questions(self, batch: Batch) -> list[str]:
        """The question about each item."""
        return [self.question(batch.task, i.row, i.completion, batch.style) for i in batch.items]


class UnaskedMethod(VerificationMethod):
    """A method that asks nothing in words: it only has scores."""

    asks: ClassVar[bool] = False

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """There is none: look at `asks` first."""
        raise TypeError(f"verification method {self.name} asks the verifier nothing")

    @abstractmethod
    def scores(self, batch: Batch) -> Iterable[float | None]:
        """The score of each of `batch.verifications()`, `None` where there is none; see `each_time`."""

    def verify(self, batch: Batch) -> list[Judgement]:
        """See `VerificationMethod.verify`; a score of `None` is `unparsed`."""
        return [
            Judgement(
                item.generation_id, m, self.name, None, None, score, "unparsed" if score is None else "scored"
            )
            for (item, m), score in zip(batch.verifications(), self.scores(batch), strict=True)
        ]


def each_time(scores: Iterable[float | None], num_verifications: int) -> Iterator[float | None]:
    """The same score for all M verifications of an item, for methods that draw nothing.

    Examples:
        >>> list(each_time([0.5, None], 2))
        [0.5, 0.5, None, None]
    """
    return chain.from_iterable(repeat(score, num_verifications) for score in scores)
