"""How pico policies are asked about an answer, by every verification method, and the text that teaches it.

A policy of a few hundred thousand parameters reads no instructions: a method is one letter, its question the
bare characters of prompt and answer, and pre-training text shows what is expected.

    multiple_choice  V<question>=<answer>:            Y or N
    cot_binary       B<question>=<answer>:            <check>, newline, Verdict:correct
    cot_score        S<question>=<answer>:            <check>, newline, Score:7
    tournament       T<question>=<answer>|<other>:    <check>|<check>, newline, Winner:A

A check goes through the answer part by part and marks each y or n, so that a reply has its reasons before
its verdict. The score is 1 + the whole part of 9 x (share of y), and 10 for a right answer alone (ours). In
the text verdicts, scores and winners are always right; between two answers of one score a coin decides.

It does not know any task: answers come in cleaned (only characters an answer can have), so that no completion
can end its own question or bring a verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from si_dagster.tasks.base import PromptStyle, TaskDataError, TaskRow
from si_dagster.tasks.prompts import METHODS, Example, comparison_text, generation_text, verification_text

OPENERS = {"multiple_choice": "V", "cot_binary": "B", "cot_score": "S", "tournament": "T"}
SHARES = {"multiple_choice": 0.4, "cot_binary": 0.2, "cot_score": 0.2, "tournament": 0.2}
"""Of verification examples, where all are taught. Multiple choice learns from one token an example."""

LABELS = ("Y", "N")
BOTH_WRONG = 0.2
"""Share of taught matches in which no answer is right."""


@dataclass(frozen=True)
class Checked:
    """An answer and what there is to say about it.

    Attributes:
        answer: The answer, in the characters an answer can have.
        check: The reasoning, part by part.
        share: Share of parts marked y.
        is_right: Whether the answer has utility 1.
    """

    answer: str
    check: str
    share: float
    is_right: bool

    @property
    def score(self) -> int:
        """1 to 10, 10 for right answers alone.

        >>> Checked("7", "y", 1.0, True).score, Checked("8", "yn", 0.5, False).score
        (10, 5)
        """
        return 10 if self.is_right else min(9, 1 + int(9 * self.share))


def question(method: str, asked: str, *answers: str) -> str:
    """The prompt by which a pico verifier is asked.

    >>> question("tournament", "3+4+1", "7#8", "8#9")
    'T3+4+1=7#8|8#9:'
    """
    return f"{OPENERS[method]}{asked}={'|'.join(answers)}:"


def lesson(method: str, asked: str, answers: Sequence[Checked], rng: np.random.Generator) -> tuple[str, str]:
    """A question and the reply that is right about it.

    >>> good, bad = Checked("7", "y", 1.0, True), Checked("8", "n", 0.0, False)
    >>> lesson("cot_score", "q", [good], np.random.default_rng(0))
    ('Sq=7:', 'y\\nScore:10')
    >>> lesson("tournament", "q", [bad, good], np.random.default_rng(0))
    ('Tq=8|7:', 'n|y\\nWinner:B')
    """
    prompt = question(method, asked, *(checked.answer for checked in answers))
    first = answers[0]
    if method == "multiple_choice":
        return prompt, LABELS[0] if first.is_right else LABELS[1]
    check = "|".join(checked.check for checked in answers)
    if method == "cot_binary":
        return prompt, f"{check}\nVerdict:{'correct' if first.is_right else 'incorrect'}"
    if method == "cot_score":
        return prompt, f"{check}\nScore:{first.score}"
    lead = first.score - answers[1].score
    winner = "AB"[int(rng.integers(2))] if lead == 0 else "A" if lead > 0 else "B"
    return prompt, f"{check}\nWinner:{winner}"


def drawn_method(methods: Sequence[str], rng: np.random.Generator) -> str:
    """Which method an example teaches, by `SHARES` among those taught."""
    shares = np.array([SHARES[method] for method in methods])
    return methods[int(rng.choice(len(methods), p=shares / shares.sum()))]


def verification_lesson(
    methods: Sequence[str], asked: str, answer_of: Callable[[bool], Checked], rng: np.random.Generator
) -> tuple[str, str]:
    """One verification example: half of single answers are right, and of matches mostly one side.

    Args:
        methods: The methods taught.
        asked: The bare question.
        answer_of: A right (`True`) or a corrupted (`False`) answer to it, with its check.
        rng: Decides method, which answers are right, and sides.
    """
    method = drawn_method(methods, rng)
    if method != "tournament":
        return lesson(method, asked, [answer_of(bool(rng.random() < 0.5))], rng)
    sides = [answer_of(bool(rng.random() >= BOTH_WRONG)), answer_of(False)]
    return lesson(method, asked, [sides[i] for i in rng.permutation(2)], rng)


def taught_methods(task: str, methods: Sequence[str]) -> tuple[str, ...]:
    """The methods a task is told to teach, checked.

    Raises:
        TaskDataError: If there is none, or one that no pico text teaches.
    """
    unknown = [method for method in methods if method not in OPENERS]
    if unknown or not methods:
        raise TaskDataError(f"{task}: methods is {list(methods)}, allowed are some of {', '.join(METHODS)}")
    return tuple(methods)


class PicoTask:
    """What tasks made for pico policies share: how a policy is spoken to, in every style.

    Other styles are those of data set tasks, for policies that were not pre-trained here.

    Attributes:
        methods: Verification methods that pre-training text teaches and pico prompts exist for.
        examples: Few-shot examples of the other styles.
    """

    name: ClassVar[str]
    methods: tuple[str, ...]
    examples: tuple[Example, ...] = ()

    def cleaned(self, completion: str) -> str:
        """An untrusted completion, reduced to the characters and the length an answer can have."""
        raise NotImplementedError

    def generation_prompt(self, row: TaskRow, style: PromptStyle) -> str:
        """The text a policy answers."""
        if style == "pico":
            return f"?{row.question}A"
        return generation_text(self.name, row.question, self.examples, style)

    def verification_prompt(self, row: TaskRow, completion: str, method: str, style: PromptStyle) -> str:
        """Question and answer as the verifier reads them.

        Raises:
            TaskDataError: If the method compares answers, or was not taught to pico policies.
        """
        if method == "tournament" or method not in METHODS:
            raise TaskDataError(f"task {self.name} has no single-answer prompt for method {method!r}")
        if style != "pico":
            return verification_text(self.name, row.question, completion, method, self.examples, style)
        self._refuse_untaught(method)
        return question(method, row.question, self.cleaned(completion))

    def comparison_prompt(self, row: TaskRow, first: str, second: str, style: PromptStyle) -> str:
        """Two answers of one question as the verifier of a tournament reads them."""
        if style != "pico":
            return comparison_text(self.name, row.question, first, second, self.examples, style)
        self._refuse_untaught("tournament")
        return question("tournament", row.question, self.cleaned(first), self.cleaned(second))

    def _refuse_untaught(self, method: str) -> None:
        if method not in self.methods:
            raise TaskDataError(
                f"task {self.name} teaches pico policies {', '.join(self.methods)} and not {method}: "
                "add it to the task's option `methods`"
            )

    def verdict_labels(self, style: PromptStyle) -> tuple[str, str]:
        """The continuations that mean (correct, incorrect)."""
        return LABELS if style == "pico" else (" correct", " incorrect")

    def stop(self, style: PromptStyle) -> tuple[str, ...]:
        """Where an answer ends beside the end token."""
        return ("\nQuestion:",) if style == "text" else ()
