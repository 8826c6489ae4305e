"""Crescent: training questions made up by the policy itself, labelled by its own majority vote.

Catalogue card
    Source: training prompts by the policy of the iteration (with `splits.fresh_train: false`, all by the
        base); evaluation prompts, templates and grader of another task, option `task`, whose options stand
        beside it.
    Paper: Sun et al. 2025, "The Self-Improvement Paradox", arXiv 2502.13441: a bait prompt,
        self-deduplication by rejection, majority vote.
    Licence: that of the other task, for evaluation.
    Size: as many as the study asks for; a policy that repeats itself is told so and stops.
    Bait: the paper's sentence for chat models and word problems; a base model, which follows no instruction,
        reads the few-shot questions of the task and goes on with one more (ours). Temperature 1 (ours).
    Deduplication: by shared word 5-grams where the paper compares embeddings (ours); questions near an
        evaluation prompt or an example go as well.
    Reference: the most frequent of `num_votes` answers. It is no ground truth: utilities on training prompts
        measure agreement with it, those on evaluation prompts are real.

What it does not do: check that a question makes sense, or make up programming tasks, which have no vote.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from si_dagster.tasks import prompts
from si_dagster.tasks.base import Grade, PromptStyle, Split, TaskDataError, TaskRow
from si_dagster.tasks.catalogue import load_task
from si_dagster.tasks.dataset_task import DatasetTask

MIN_QUESTION_LENGTH = 10
MAX_QUESTION_LENGTH = 2000


class Crescent:
    """Another task, with training prompts of the policy's own making.

    Args:
        task: Name of the other task: one over a data set whose answers can be voted on.
        num_votes: Answers a made-up question gets.
        options: Options of the other task.

    Raises:
        TaskDataError: If the other task has answers that cannot be voted on.
    """

    name: ClassVar[str] = "crescent"

    def __init__(self, task: str, num_votes: int = 8, **options: Any) -> None:
        other = load_task(task, options)
        if not isinstance(other, DatasetTask) or task == "mbpp" or options.get("grader") == "code":
            raise TaskDataError(f"task crescent: no majority vote over answers of task {task!r}")
        if num_votes < 1:
            raise TaskDataError(f"task crescent: num_votes is {num_votes}, at least 1 is needed")
        self.task, self.num_votes = other, num_votes
        self.grader_version, self.path_options = other.grader_version, other.path_options

    def rows(self, split: Split, num_rows: int, seed: int) -> list[TaskRow]:
        """Evaluation rows of the other task.

        Raises:
            TaskDataError: For training rows, which only a policy can make.
        """
        if split == "train":
            raise TaskDataError("task crescent: its training prompts are made by a policy, in a study")
        return self.task.rows(split, num_rows, seed)

    def data_files(self) -> list[Path]:
        """Files of the other task."""
        return self.task.data_files()

    def bait_prompt(self, style: PromptStyle) -> str:
        """See `MakesPrompts.bait_prompt`."""
        shown = [example.question for example in self.task.examples]
        return prompts.bait_text(self.task.templates, shown, style)

    def bait_stop(self, style: PromptStyle) -> tuple[str, ...]:
        """A base model would go on with a question after the next."""
        return ("\n\n",) if style == "text" else ()

    def made_question(self, completion: str) -> str | None:
        """What was made up, without a label in front; too short or too long a text is no question."""
        text = completion.strip().removeprefix("Question:").removeprefix("Problem:").strip()
        return text if MIN_QUESTION_LENGTH <= len(text) <= MAX_QUESTION_LENGTH else None

    def made_row(self, question: str, reference: str, agreement: float) -> TaskRow:
        """See `MakesPrompts.made_row`; the id is made from the question, the same wherever it comes up."""
        key = blake2b(question.encode(), digest_size=8).hexdigest()
        return TaskRow(f"crescent-train-{key}", "train", question, reference, {"agreement": agreement})

    def shown_questions(self) -> list[str]:
        """Questions that none made up may nearly repeat: the examples, and all of the evaluation split."""
        held = [row.question for row in self.task.all_rows("eval")]
        return [*(example.question for example in self.task.examples), *held]

    def generation_prompt(self, row: TaskRow, style: PromptStyle) -> str:
        """That of the other task."""
        return self.task.generation_prompt(row, style)

    def stop(self, style: PromptStyle) -> tuple[str, ...]:
        """Those of the other task."""
        return self.task.stop(style)

    def verification_prompt(self, row: TaskRow, completion: str, method: str, style: PromptStyle) -> str:
        """That of the other task."""
        return self.task.verification_prompt(row, completion, method, style)

    def comparison_prompt(self, row: TaskRow, first: str, second: str, style: PromptStyle) -> str:
        """That of the other task."""
        return self.task.comparison_prompt(row, first, second, style)

    def verdict_labels(self, style: PromptStyle) -> tuple[str, str]:
        """Those of the other task."""
        return self.task.verdict_labels(style)

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """By the grader of the other task."""
        return self.task.grade(references, completions)

    def extract(self, completion: str) -> str | None:
        """As the other task does."""
        return self.task.extract(completion)
