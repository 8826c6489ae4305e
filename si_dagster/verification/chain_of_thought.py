"""Chain-of-thought verification: the verifier reasons in words, then ends with a line that is read.

What the two methods of this kind share. A reply without a readable last line is `unparsed` with a null score,
never a low one; one cut off in its reasoning is the same. It does not ask again: another try is another
verification of the study (`num_verifications`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from si_dagster.engines.base import Completion, Engine, Prompt, SamplingParams
from si_dagster.tasks.base import PromptStyle, Task, TaskRow
from si_dagster.verification.base import REPLY_STOP, Item, Judgement, single_answer_question


class ChainOfThought(ABC):
    """Reasoning drawn from the verifier policy, and a last line."""

    name: ClassVar[str]
    version: ClassVar[str]
    asks: ClassVar[bool] = True
    sampling: ClassVar[SamplingParams] = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=256)
    """Temperature and top-p with which the paper samples; the length is ours."""

    @abstractmethod
    def read(self, reply: str, truncated: bool) -> tuple[str, float] | None:
        """Verdict and score of a reply; `None` if unreadable."""

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """See `VerificationMethod.question`."""
        return single_answer_question(task, row, completion, self.name, style)

    def verify(
        self,
        engine: Engine,
        task: Task,
        style: PromptStyle,
        items: Sequence[Item],
        seed: int,
        num_verifications: int,
    ) -> list[Judgement]:
        """See `VerificationMethod.verify`; each verification is a draw of its own, equal questions too."""
        prompts = [
            Prompt(item.generation_id, self.question(task, item.row, item.completion, style))
            for item in items
        ]
        sampling = replace(self.sampling, n=num_verifications, seed=seed, stop=REPLY_STOP[style])
        replies = engine.generate(prompts, sampling)
        return [
            self._judgement(item, index, reply)
            for item, drawn in zip(items, replies, strict=True)
            for index, reply in enumerate(drawn)
        ]

    def _judgement(self, item: Item, index: int, reply: Completion) -> Judgement:
        found = self.read(reply.text, reply.finish_reason == "length")
        verdict, score = found or (None, None)
        status = "scored" if found else "unparsed"
        return Judgement(item.generation_id, index, self.name, reply.text, verdict, score, status)
