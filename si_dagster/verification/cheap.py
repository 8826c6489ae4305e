"""Cheap: a student that was taught the score differences of a dear verification, asked by multiple choice.

    score(x, y) = log P(correct) - log P(incorrect)

in nats, of the verdict labels behind the question of `multiple_choice`. The difference of two such scores is
what the student was fitted to (`training.comparative`, after comparative distillation, arXiv 2311.02253), so
a score is known up to a constant of the prompt: it ranks the responses to one prompt, and a global threshold
means nothing. The label log-odds are a linear head over the last hidden state that every engine has already
(ours). With a budget of 0 the verifier is the untaught base. It does not train and asks no teacher.
"""

from typing import ClassVar

import numpy as np

from si_dagster.tasks.base import PromptStyle, Task, TaskRow
from si_dagster.verification.base import Judgement
from si_dagster.verification.multiple_choice import MultipleChoice


class Cheap(MultipleChoice):
    """The log-odds of the verdict labels."""

    name: ClassVar[str] = "cheap"
    version: ClassVar[str] = "1"
    accepts_from: ClassVar[float | None] = None
    is_probability: ClassVar[bool] = False

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """See `VerificationMethod.question`: that of multiple choice."""
        return MultipleChoice().question(task, row, completion, style)

    def scores(self, logprobs: np.ndarray) -> np.ndarray:
        """See `MultipleChoice.scores`.

        Examples:
            P(correct) = .3 and P(incorrect) = .1: ln 3

            >>> Cheap().scores(np.log([[0.3, 0.1]])).round(6).tolist()
            [1.098612]
        """
        return logprobs[:, 0] - logprobs[:, 1]

    def _judgement(self, generation_id: str, index: int, score: float) -> Judgement:
        return Judgement(generation_id, index, self.name, None, None, score, "scored")
