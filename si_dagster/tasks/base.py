"""What a task is: prompts with references, their rendering for each role, and how an answer is graded.

A task never sees a model. It does not sample, does not batch and does not know how a policy is
served; graders that need isolation or time limits live beside the task that needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

Split = Literal["train", "eval"]
PromptStyle = Literal["pico", "text", "chat"]
"""How prompts are written: `pico` for policies pre-trained here, `text` for base models, `chat` for tuned."""

Status = Literal["scored", "unparsed", "truncated", "engine_error", "grader_error"]
"""Why a value is there or missing. Only `scored` and `truncated` rows carry a utility (truncated: 0)."""


@dataclass(frozen=True)
class TaskRow:
    """One prompt of a task before rendering.

    Attributes:
        prompt_id: Natural key, unique within task and split, stable over runs and iterations.
        split: Which split the row belongs to; a row never changes its split.
        question: The bare question, as the task states it.
        reference: The gold answer in the form `Task.grade` reads; never rendered into a generation prompt.
        columns: Further columns for slices (difficulty, subject, level); plain scalars.
    """

    prompt_id: str
    split: Split
    question: str
    reference: str
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """The verdict of a grader on one completion.

    Attributes:
        utility: u(x, y) in [0, 1] under flexible extraction; `None` where the grader failed.
        strict_utility: The same under strict extraction (the format the prompt asked for).
        status: `scored`, `unparsed` (no answer found, utility 0.0) or `grader_error` (utility `None`).
        extracted: The answer that was graded, normalised so that equal answers are equal strings
            (majority votes and distinct-answer counts use it); `None` where none was found.
        rule: Name of the extraction rule and grading tier that decided, e.g. `boxed/numeric`.
        detail: What went wrong, for `grader_error`.
    """

    utility: float | None
    strict_utility: float | None
    status: Status
    extracted: str | None
    rule: str
    detail: str | None = None


@runtime_checkable
class Task(Protocol):
    """A data set with its prompts and its utility."""

    name: ClassVar[str]
    grader_version: ClassVar[str]
    """Raised when a grade may change; part of the fingerprint of utilities."""

    def rows(self, split: Split, num_rows: int, seed: int) -> list[TaskRow]:
        """`num_rows` distinct rows of one split, the same for the same seed.

        Raises:
            TaskDataError: If the data is missing or holds fewer rows; says which file and what to do.
        """
        ...

    def generation_prompt(self, row: TaskRow, style: PromptStyle) -> str:
        """The text a policy answers."""
        ...

    def stop(self, style: PromptStyle) -> tuple[str, ...]:
        """Stop strings that end an answer in this style, beside the end-of-sequence token."""
        ...

    def verification_prompt(self, row: TaskRow, completion: str, method: str, style: PromptStyle) -> str:
        """The text by which a verifier judges one completion, for one verification method.

        Ordered [few-shot][question][answer][method], so that verifications of one prompt share a prefix.
        The completion is untrusted: implementations neutralise delimiters and markers inside it.
        """
        ...

    def verdict_labels(self, style: PromptStyle) -> tuple[str, str]:
        """The continuations that mean (correct, incorrect) for multiple choice."""
        ...

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """Grade completions against their references, row by row; never raises for a bad completion."""
        ...


@runtime_checkable
class ComparesAnswers(Protocol):
    """A task that can also pose two completions against each other; tournaments need it."""

    def comparison_prompt(self, row: TaskRow, first: str, second: str, style: PromptStyle) -> str:
        """The text by which a verifier says which of two untrusted completions, A or B, is better."""
        ...


@runtime_checkable
class ExtractsAnswers(Protocol):
    """A task whose answers can be read without a reference; majority votes need it."""

    def extract(self, completion: str) -> str | None:
        """The answer of a completion, as `Grade.extracted` holds it; `None` where none is found."""
        ...


@runtime_checkable
class DealsRows(Protocol):
    """A task with a finite pool of rows, dealt to iterations like cards: none twice while the pool lasts."""

    def dealt_rows(self, split: Split, num_rows: int, seed: int, deal: int) -> list[TaskRow]:
        """Hand number `deal`, counted from 0, of `num_rows` distinct rows; hand 0 is `Task.rows`.

        When the pool runs out it is shuffled anew and dealt on, so later hands repeat rows of earlier ones,
        never within a hand.

        Raises:
            TaskDataError: If the data is missing or the pool is smaller than one hand.
        """
        ...

    def pool_size(self, split: Split) -> int:
        """Rows of a split that can be dealt."""
        ...


@runtime_checkable
class MakesPrompts(Protocol):
    """A task whose training prompts the policy makes up; its evaluation prompts are given."""

    num_votes: int
    """Answers a made-up question gets; the most frequent one becomes its reference."""

    def bait_prompt(self, style: PromptStyle) -> str:
        """The text by which a policy is brought to make up a question."""
        ...

    def bait_stop(self, style: PromptStyle) -> tuple[str, ...]:
        """Where a made-up question ends, beside the end token."""
        ...

    def shown_questions(self) -> list[str]:
        """Questions that none made up may nearly repeat: those for evaluation, and the examples."""
        ...

    def made_question(self, completion: str) -> str | None:
        """The question in what the policy made up; `None` where there is none."""
        ...

    def made_row(self, question: str, reference: str, agreement: float) -> TaskRow:
        """A training row of a made-up question and the answer its votes agree on most."""
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A task whose rows come from local files: their bytes, not their place, belong to the fingerprint."""

    path_options: ClassVar[tuple[str, ...]]
    """Names of the options that say where the files are."""

    def data_files(self) -> list[Path]:
        """Every local file the rows or examples are read from; none where a hub is asked.

        Raises:
            TaskDataError: If a file that would be read is missing.
        """
        ...


def data_files(task: Task) -> list[Path]:
    """The local files a task reads; none for a task that reads none."""
    return task.data_files() if isinstance(task, ReadsFiles) else []


@runtime_checkable
class ShowsGold(Protocol):
    """A task that can write a right answer down; verifiers are shown it, never policies that generate."""

    def gold_completion(self, row: TaskRow) -> str | None:
        """A completion that gives the reference as its answer; `None` where the reference is no answer."""
        ...


class TaskDataError(ValueError):
    """The data of a task is missing, unreadable or too small; the message says where and what to do."""
