"""Tournament (To): answers of one prompt meet in pairs, the better one goes on.

    score(x, y) = rounds that y survived in a single elimination over the generations of x

as in "Mind the Gap" (arXiv 2412.02674, Section 3), where the survivors of k rounds are kept: of N = 2^m
answers N / 2^k remain, here those with score >= k. Ours: who meets whom is a seeded shuffle; with an odd
count one answer goes on without a match; equal answers are decided by lot unasked, and so is a match whose
reply names no winner; a generation none of whose matches could be read has a null score. Each of M
verifications is a tournament of its own. `tournament_swapped` asks each pair in both orders, at twice the
cost, and draws where the two disagree, which cancels a preference for a position: such a match was read, so
it scores as any other, and is stored as decided by `disagreement`. It does not rank the answers that leave in
one round.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np

from si_dagster.core.fingerprint import derive_seed
from si_dagster.core.verdict import Winner, read_winner
from si_dagster.engines.base import Prompt
from si_dagster.tasks.base import ComparesAnswers, PromptStyle, Task, TaskDataError, TaskRow
from si_dagster.verification.asking import draw_replies
from si_dagster.verification.base import Batch, Item, Judgement, UnaskableError, VerificationMethod

DecidedBy = Literal["verifier", "equal", "disagreement", "lot"]
"""What settled a match: a winner that replies named; or a lot, since the answers are equal, since the two
orders name different winners, or since no reply could be read (`lot`)."""

Decision = tuple[Winner | None, DecidedBy, str | None]
"""The winner (`None`: a lot decides), what settled it, and the replies as one text (`None`: not asked)."""


@dataclass
class Bracket:
    """One tournament of one prompt.

    Attributes:
        index: Which of the M tournaments.
        standing: Who is still in, in the order of the next round.
        rng: Draws lots.
        survived: Generation id -> rounds survived.
        matches: Generation id -> its matches so far, as stored.
        round: Rounds played.
    """

    index: int
    standing: list[Item]
    rng: np.random.Generator
    survived: dict[str, int]
    matches: dict[str, list[dict]]
    round: int = 0

    def pairs(self) -> list[tuple[Item, Item]]:
        """The matches of the next round; with an odd count the last one standing has a bye."""
        return list(zip(self.standing[0::2], self.standing[1::2], strict=False))

    def play(self, decided: Sequence[Decision]) -> None:
        """One round, a decision a pair."""
        self.round += 1
        # The bye goes to the front, so that nobody has it twice in a row.
        going_on = self.standing[-1:] if len(self.standing) % 2 else []
        for (first, second), (winner, by, reply) in zip(self.pairs(), decided, strict=True):
            named = winner or ("A", "B")[int(self.rng.integers(2))]
            going_on.append(first if named == "A" else second)
            match = {
                "round": self.round,
                "A": first.generation_id,
                "B": second.generation_id,
                "winner": named,
                "by": by,
                "reply": reply,
            }
            self.matches[first.generation_id].append(match)
            self.matches[second.generation_id].append(match)
        for item in going_on:
            self.survived[item.generation_id] += 1
        self.standing = going_on


class Tournament(VerificationMethod):
    """Rounds survived against the other answers to the same prompt."""

    name: ClassVar[str] = "tournament"
    version: ClassVar[str] = "1"
    samples: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    both_orders: ClassVar[bool] = False

    def question(self, task: Task, row: TaskRow, completion: str, style: PromptStyle) -> str:
        """See `VerificationMethod.question`; the completion is posed against itself."""
        return self._comparison(task, row, completion, completion, style)

    def _comparison(self, task: Task, row: TaskRow, first: str, second: str, style: PromptStyle) -> str:
        if not isinstance(task, ComparesAnswers):
            raise UnaskableError(task, self.name, "it has no prompt that compares two answers")
        try:
            return task.comparison_prompt(row, first, second, style)
        except TaskDataError as error:
            raise UnaskableError(task, self.name, error) from error

    def first_prompt(self, batch: Batch) -> str | None:
        """See `VerificationMethod.first_prompt`: the first match of the first bracket."""
        pair = next((pair for bracket in self._brackets(batch) for pair in bracket.pairs()), None)
        return self._ordered(batch, pair, "AB") if pair else None

    def verify(self, batch: Batch) -> list[Judgement]:
        """See `VerificationMethod.verify`; the rounds of all prompts are asked together.

        All generations of a prompt must be handed in together: they are its field.
        """
        brackets = list(self._brackets(batch))
        while playing := [bracket for bracket in brackets if len(bracket.standing) > 1]:
            self._play_round(batch, playing)
        found = {
            (generation_id, bracket.index): self._judgement(generation_id, bracket)
            for bracket in brackets
            for generation_id in bracket.survived
        }
        return [found[item.generation_id, m] for item, m in batch.verifications()]

    def _brackets(self, batch: Batch) -> Iterator[Bracket]:
        ordered = sorted(batch.items, key=lambda item: (item.row.prompt_id, item.generation_id))
        for prompt_id, group in groupby(ordered, key=lambda item: item.row.prompt_id):
            entrants = list(group)
            for index in range(batch.num_verifications):
                rng = np.random.default_rng(derive_seed(batch.seed, self.name, prompt_id, index))
                yield Bracket(
                    index,
                    [entrants[i] for i in rng.permutation(len(entrants))],
                    rng,
                    {item.generation_id: 0 for item in entrants},
                    {item.generation_id: [] for item in entrants},
                )

    def _play_round(self, batch: Batch, playing: Sequence[Bracket]) -> None:
        """One round of every bracket, all matches in one call of the engine."""
        orders = ("AB", "BA") if self.both_orders else ("AB",)
        prompts = [
            Prompt(_key(bracket, pair, order), self._ordered(batch, pair, order))
            for bracket in playing
            for pair in bracket.pairs()
            if pair[0].completion != pair[1].completion
            for order in orders
        ]
        drawn = draw_replies(batch, prompts, 1, lambda reply: read_winner(reply.text) is not None)
        replies = {prompt.key: rows[0].text for prompt, rows in zip(prompts, drawn, strict=True)}
        for bracket in playing:
            bracket.play(
                [
                    decision(
                        [
                            (order, replies[key])
                            for order in orders
                            if (key := _key(bracket, pair, order)) in replies
                        ]
                    )
                    for pair in bracket.pairs()
                ]
            )

    def _ordered(self, batch: Batch, pair: tuple[Item, Item], order: str) -> str:
        first, second = pair if order == "AB" else pair[::-1]
        return self._comparison(batch.task, first.row, first.completion, second.completion, batch.style)

    def _judgement(self, generation_id: str, bracket: Bracket) -> Judgement:
        matches = bracket.matches[generation_id]
        reply = json.dumps(matches, ensure_ascii=False)
        if matches and all(match["by"] == "lot" for match in matches):
            return Judgement(generation_id, bracket.index, self.name, reply, None, None, "unparsed")
        survived = bracket.survived[generation_id]
        verdict = f"survived {survived} of {bracket.round}"
        return Judgement(generation_id, bracket.index, self.name, reply, verdict, float(survived), "scored")


class SwappedTournament(Tournament):
    """A tournament whose matches are asked in both orders."""

    name: ClassVar[str] = "tournament_swapped"
    version: ClassVar[str] = "2"
    """Until 2, a generation whose matches all ended in disagreement counted as unparsed."""
    both_orders: ClassVar[bool] = True


def decision(replies: Sequence[tuple[str, str]]) -> Decision:
    """The winner that the replies to one match agree on, in the order of the bracket.

    Where one of two replies cannot be read, the other decides.

    Args:
        replies: (`AB` or `BA`, reply) of each time the match was asked; none for equal answers.

    Examples:
        A verifier that always prefers the first answer has not decided:

        >>> decision([("AB", "Winner: A"), ("BA", "Winner: A")])[:2]
        (None, 'disagreement')
        >>> decision([("AB", "Winner: A"), ("BA", "Winner: B")])[:2]
        ('A', 'verifier')
        >>> decision([("AB", "Both are fine.")])[:2], decision([])
        ((None, 'lot'), (None, 'equal', None))
    """
    if not replies:
        return None, "equal", None
    named: set[Winner] = set()
    for order, reply in replies:
        if (winner := read_winner(reply)) is not None:
            named.add(winner if order == "AB" else "B" if winner == "A" else "A")
    text = "\n---\n".join(reply for _, reply in replies)
    if len(named) == 1:
        return named.pop(), "verifier", text
    return None, "disagreement" if named else "lot", text


def _key(bracket: Bracket, pair: tuple[Item, Item], order: str) -> str:
    return f"{bracket.index}/{pair[0].generation_id}/{pair[1].generation_id}/{order}"
