"""Training prompts made up by the policy: bait, self-deduplication, majority vote (arXiv 2502.13441).

Questions are drawn in rounds; one that nearly repeats another, an example or an evaluation prompt is
rejected. What is left is answered several times by the same policy, and the most frequent answer becomes the
reference. No ground truth is read. It does not repair a question or ask for a second opinion.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

from si_dagster.core.fingerprint import derive_seed
from si_dagster.engines.base import Completion, Engine, Prompt, SamplingParams
from si_dagster.tasks.base import ExtractsAnswers, MakesPrompts, PromptStyle, Task, TaskDataError, TaskRow
from si_dagster.tasks.hygiene import Novelty

MAX_DRAWS = 20
"""Draws for each prompt wanted before a policy counts as having nothing new to ask."""

Advance = Callable[[int], None]


@dataclass
class Making:
    """How the prompts came about.

    Attributes:
        num_drawn: Questions drawn.
        num_unreadable: Those that were no question.
        num_repeated: Those that nearly repeat another one, an example or an evaluation prompt.
        num_without_answer: Those of whose answers none could be read.
    """

    num_drawn: int = 0
    num_unreadable: int = 0
    num_repeated: int = 0
    num_without_answer: int = 0


def made_rows(
    task: Task,
    engine: Engine,
    style: PromptStyle,
    num_rows: int,
    voting: SamplingParams,
    seed: int,
    advance: Advance = lambda made: None,
) -> tuple[list[TaskRow], Making]:
    """Training rows of the policy's own making.

    Args:
        task: A task that `MakesPrompts`.
        engine: Holds the policy.
        style: How it is spoken to.
        num_rows: Rows wanted.
        voting: How answers are drawn; `n` and `seed` are set here.
        seed: Decides all draws.
        advance: Told how many rows each round has made.

    Raises:
        TaskDataError: If the policy repeats itself or is unreadable for too long; says how often.
    """
    assert isinstance(task, MakesPrompts)
    novelty, making, rows = Novelty(task.shown_questions()), Making(), list[TaskRow]()
    bait = replace(voting, n=1, temperature=1.0, top_p=1.0, top_k=-1, stop=task.bait_stop(style), seed=seed)
    votes = replace(voting, n=task.num_votes, stop=(*task.stop(style), *voting.stop))
    votes = replace(votes, seed=derive_seed(seed, "votes"))
    keys = (f"bait-{index}" for index in count())
    while len(rows) < num_rows:
        if making.num_drawn >= MAX_DRAWS * num_rows:
            raise TaskDataError(
                f"task {task.name}: the policy made only {len(rows)} of {num_rows} training prompts in "
                f"{making.num_drawn} tries ({making.num_repeated} repeated others, "
                f"{making.num_unreadable} were no questions, {making.num_without_answer} had no readable "
                "answer); ask for fewer"
            )
        wanted = num_rows - len(rows)
        drawn = [Prompt(key, task.bait_prompt(style)) for key in islice(keys, wanted)]
        texts = [completions[0] for completions in engine.generate(drawn, bait)]
        questions = list(_new_questions(task, texts, novelty, making))
        fresh = list(_voted(task, engine, style, questions, votes, making))
        rows += fresh
        advance(len(fresh))
    return rows, making


def _new_questions(
    task: MakesPrompts, drawn: Sequence[Completion], novelty: Novelty, making: Making
) -> Iterator[str]:
    """The readable questions that repeat none before them; a text cut off by the token limit is none."""
    for completion in drawn:
        making.num_drawn += 1
        question = task.made_question(completion.text) if completion.finish_reason == "stop" else None
        if question is None:
            making.num_unreadable += 1
        elif not novelty.admits(question):
            making.num_repeated += 1
        else:
            yield question


def _voted(
    task: Task,
    engine: Engine,
    style: PromptStyle,
    questions: Sequence[str],
    votes: SamplingParams,
    making: Making,
) -> Iterator[TaskRow]:
    """Each question with the answer most of its votes agree on; the first drawn wins a tie."""
    assert isinstance(task, MakesPrompts)
    assert isinstance(task, ExtractsAnswers)
    rows = [task.made_row(question, "", 0.0) for question in questions]
    asked = [Prompt(row.prompt_id, task.generation_prompt(row, style)) for row in rows]
    for question, answers in zip(questions, engine.generate(asked, votes) if asked else [], strict=True):
        found = [task.extract(answer.text) for answer in answers if answer.finish_reason == "stop"]
        counted = Counter(answer for answer in found if answer)
        if not counted:
            making.num_without_answer += 1
            continue
        reference, agreeing = counted.most_common(1)[0]
        yield task.made_row(question, reference, agreeing / len(answers))
