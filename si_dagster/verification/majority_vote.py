"""Majority vote: how many of the prompt's own generations give the same final answer.

    score(x, y) = share of all generations of x whose extracted answer equals that of y

the agreement of self-consistency (arXiv 2203.11171) as a score; generations without a readable answer count
in the denominator and have a null score themselves (ours). Answers are equal where the task's reader gives
them one string; no reference is looked at. Generations of a prompt must be handed in together. It calls no
engine, so the M verifications of a generation are equal. It cannot help where the most frequent answer is
wrong.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

from si_dagster.tasks.base import ExtractsAnswers
from si_dagster.verification.base import Batch, UnaskableError, UnaskedMethod, each_time


class MajorityVote(UnaskedMethod):
    """The share of votes of an answer."""

    name: ClassVar[str] = "majority_vote"
    version: ClassVar[str] = "1"

    calls_verifier: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def scores(self, batch: Batch) -> Iterable[float | None]:
        """See `UnaskedMethod.scores`.

        Raises:
            UnaskableError: If the task cannot read an answer without a reference.
        """
        task = batch.task
        if not isinstance(task, ExtractsAnswers):
            raise UnaskableError(task, self.name, "it has no `extract`, which reads an answer by itself")
        answer_of = {text: task.extract(text) for text in {item.completion for item in batch.items}}
        ballots = [(item.row.prompt_id, answer_of[item.completion]) for item in batch.items]
        return each_time(vote_shares(ballots), batch.num_verifications)


def vote_shares(ballots: Sequence[tuple[str, str | None]]) -> list[float | None]:
    """The share of its prompt's ballots that agree with each; `None` for an empty ballot.

    Args:
        ballots: (prompt id, answer) of each generation, in any order.

    Examples:
        2 of 4 say 7, 1 says 8, 1 says nothing:

        >>> vote_shares([("x", "7"), ("x", "8"), ("x", "7"), ("x", None)])
        [0.5, 0.25, 0.5, None]
    """
    votes, totals = Counter(ballots), Counter(prompt for prompt, _ in ballots)
    return [None if b[1] is None else votes[b] / totals[b[0]] for b in ballots]
