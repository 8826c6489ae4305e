"""Arithmetic: sums and differences worked out step by step, the small brother of GSM8K.

Catalogue card
    Source: made by rule, no file: a first number of one or two digits, then operands 1 to 9 that are added or
        subtracted, with every running total in 0 to 99 (option `largest`). Answers are worked, total by
        total: 27+8-6+9 is 35;29#38, the number behind # being the answer.
    Size: 25 million expressions of 3 to 6 terms.
    Splits: by a hash of the expression: eval 1/8, train 3/8, pre-training text 1/2; none is in two.
    Utility: 1 where the answer equals the value of the expression. Flexible reading takes the number behind
        the last #, else the last number; strict wants the totals before it as well, and nothing else.
    Difficulty: column `num_terms`, 3 to 6 unless the options say otherwise.
    In the paper (arXiv 2412.02674): stands for GSM8K, worked steps that can be checked one at a time.
    Few-shot: 4 of our own for styles other than `pico`, none on the evaluation side.

What it does not do: words, multiplication, negative numbers, or parentheses.
"""

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import ClassVar, Literal

import numpy as np

from si_dagster.tasks.base import Grade, Split, TaskDataError, TaskRow
from si_dagster.tasks.pico_text import Checked, PicoTask, taught_methods, verification_lesson
from si_dagster.tasks.prompts import METHODS, Example

LARGEST = 99
MOST_TERMS = 9
NUM_BUCKETS = 16
BUCKETS: dict[str, range] = {"eval": range(2), "train": range(2, 8), "pretrain": range(8, 16)}
Side = Literal["train", "eval", "pretrain"]

NOT_AN_ANSWER = re.compile(r"[^0-9;#]")
_WORKED = re.compile(r"[0-9]+(?:;[0-9]+)*#[0-9]+")
_MARKED = re.compile(r"#+\s*([0-9]{1,18})(?![0-9])")
_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,18}(?![0-9])")

CORRUPTIONS = (0.55, 0.2, 0.25)
"""Shares of: a step off by some, a sign misread, a last number that is not the last total."""


def side_of(expression: str) -> Side:
    """Which side an expression belongs to: a matter of its text alone, in every run and version.

    >>> side_of("27+8-6")
    'pretrain'
    """
    bucket = blake2b(expression.encode("ascii"), digest_size=1).digest()[0] % NUM_BUCKETS
    return next(side for side, buckets in BUCKETS.items() if bucket in buckets)  # pyright: ignore


def terms_of(expression: str) -> tuple[int, list[tuple[str, int]]]:
    """The first number and the signed operands after it.

    >>> terms_of("27+8-6")
    (27, [('+', 8), ('-', 6)])
    """
    first, *rest = re.findall(r"[+-]?[0-9]+", expression)
    return int(first), [(term[0], int(term[1:])) for term in rest]


def value_of(expression: str) -> int:
    """The value of an expression.

    >>> value_of("27+8-6")
    29
    """
    first, rest = terms_of(expression)
    return first + sum(number if sign == "+" else -number for sign, number in rest)


def worked(expression: str, errors: Sequence[int] = (), last: int | None = None) -> str:
    """The worked answer.

    Args:
        expression: What to work out.
        errors: Added to the result of each step, later steps going on from there; none for a right answer.
        last: Written behind the # in place of the last total.

    Examples:
        >>> worked("27+8-6+9")
        '35;29#38'
        >>> worked("27+8-6+9", errors=[1, 0, 0])
        '36;30#39'
    """
    total, rest = terms_of(expression)
    totals = []
    for index, (sign, number) in enumerate(rest):
        total += (number if sign == "+" else -number) + (errors[index] if errors else 0)
        totals.append(str(total))
    return f"{';'.join(totals[:-1])}#{totals[-1] if last is None else last}"


def checked(expression: str, answer: str) -> Checked:
    """An answer's totals as they should be, each beside what was written and marked y or n.

    Quoting sets the two numbers side by side, so that a mark compares neighbours (docs/log.md).

    Examples:
        The second step is off, and with it the last:

        >>> checked("27+8-6+9", "35;30#39").check
        '35=35y29=30n38=39n'
    """
    should = _totals(worked(expression))
    written = dict(enumerate(_totals(answer)))
    marks = [written.get(index) == total for index, total in enumerate(should)]
    check = "".join(
        f"{total}={written.get(index, '')}{'y' if mark else 'n'}"
        for index, (total, mark) in enumerate(zip(should, marks, strict=True))
    )
    return Checked(answer, check, sum(marks) / len(marks), marks[-1])


def _totals(answer: str) -> list[str]:
    return answer.replace("#", ";").split(";")


def _example(question: str, wrong: str) -> Example:
    value, (said,) = value_of(question), _MARKED.findall(wrong)
    return Example(question, worked(question), wrong, f"It is {value}.", f"It is {value} and not {said}.")


class Arithmetic(PicoTask):
    """Sums and differences as a task.

    Args:
        min_terms: Fewest numbers of an expression, at least 3.
        max_terms: Most numbers of an expression, at most 9.
        largest: Largest running total, 20 to 99.
        methods: Verification methods that the pre-training text teaches.
    """

    name: ClassVar[str] = "arithmetic"
    grader_version: ClassVar[str] = "1"
    examples = (
        _example("8+5+9", "13#23"),
        _example("31-7-2", "26#24"),
        _example("58+6-9", "54#45"),
        _example("90-5+4", "85#90"),
    )

    def __init__(
        self,
        min_terms: int = 3,
        max_terms: int = 6,
        largest: int = LARGEST,
        methods: Sequence[str] = METHODS,
    ) -> None:
        if not 3 <= min_terms <= max_terms <= MOST_TERMS:
            raise TaskDataError(
                f"arithmetic: min_terms is {min_terms} and max_terms {max_terms}; "
                f"allowed are 3 to {MOST_TERMS}, in order"
            )
        if not 20 <= largest <= LARGEST:
            raise TaskDataError(f"arithmetic: largest is {largest}, allowed are 20 to {LARGEST}")
        self.min_terms, self.max_terms, self.largest = min_terms, max_terms, largest
        self.methods = taught_methods(self.name, methods)

    def rows(self, split: Split, num_rows: int, seed: int) -> list[TaskRow]:
        """Distinct expressions of one split; see `Task.rows`."""
        rng = np.random.default_rng([seed, ("train", "eval").index(split)])
        found: dict[str, None] = {}
        news = num_rows
        # Where a round of draws brings next to nothing new, the pool is about empty.
        while len(found) < num_rows and news > num_rows // 100:
            before = len(found)
            found |= dict.fromkeys(self._of_side(split, num_rows, rng))
            news = len(found) - before
        if len(found) < num_rows:
            raise TaskDataError(
                f"arithmetic: found only {len(found)} different {split} expressions, {num_rows} were asked "
                "for; ask for fewer or for more terms"
            )
        return [
            TaskRow(f"{split}-{e}", split, e, str(value_of(e)), {"num_terms": len(terms_of(e)[1]) + 1})
            for e in list(found)[:num_rows]
        ]

    def _of_side(self, side: Side, count: int, rng: np.random.Generator) -> list[str]:
        """Expressions of one side, repetition allowed."""
        kept: list[str] = []
        while len(kept) < count:
            expression = self._draw(rng)
            if side_of(expression) == side:
                kept.append(expression)
        return kept

    def _draw(self, rng: np.random.Generator) -> str:
        total = int(rng.integers(1, self.largest + 1))
        expression = str(total)
        for _ in range(int(rng.integers(self.min_terms, self.max_terms + 1)) - 1):
            number = int(rng.integers(1, 10))
            signs = [s for s, fits in (("+", total + number <= self.largest), ("-", total >= number)) if fits]
            sign = signs[int(rng.integers(len(signs)))]
            total += number if sign == "+" else -number
            expression += f"{sign}{number}"
        return expression

    def cleaned(self, completion: str) -> str:
        """Digits, signs and the marks of a worked answer, as long as the longest answer can be."""
        return NOT_AN_ANSWER.sub("", completion)[: 3 * self.max_terms]

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """See `Task.grade`."""
        return [_grade(*pair) for pair in zip(references, completions, strict=True)]

    def gold_completion(self, row: TaskRow) -> str:
        """The worked answer."""
        return worked(row.question)

    def extract(self, completion: str) -> str | None:
        """The number a completion gives as its answer, without leading zeros; `None` where it has none."""
        return _read(completion)[0]

    def pretraining_text(
        self,
        rng: np.random.Generator,
        num_examples: int,
        verification_fraction: float,
        error_rate: float = 0.0,
    ) -> Iterator[tuple[str, str]]:
        """(prompt, completion) pairs that teach both roles, from expressions of the pre-training side alone.

        Args:
            rng: Decides everything.
            num_examples: Pairs to yield; expressions repeat only by chance.
            verification_fraction: Share of pairs that teach verification, by all of `methods`.
            error_rate: Share of worked answers that are corrupted. Verdicts are always right.
        """
        for expression in self._of_side("pretrain", num_examples, rng):

            def answer_of(right: bool, expression: str = expression) -> Checked:
                answer = worked(expression) if right else corrupted(expression, rng)
                return checked(expression, answer)

            if rng.random() < verification_fraction:
                yield verification_lesson(self.methods, expression, answer_of, rng)
            else:
                yield f"?{expression}A", answer_of(bool(rng.random() >= error_rate)).answer


def corrupted(expression: str, rng: np.random.Generator) -> str:
    """A worked answer with one mistake, going on from it; its last number is wrong and not negative."""
    _, rest = terms_of(expression)
    value = value_of(expression)
    for _ in range(100):
        kind = int(rng.choice(len(CORRUPTIONS), p=CORRUPTIONS))
        off = int(rng.choice([-10, -2, -1, 1, 2, 10]))
        place = int(rng.integers(len(rest)))
        if kind == 1:
            sign, number = rest[place]
            off = -2 * number if sign == "+" else 2 * number
        errors = [off if index == place and kind < 2 else 0 for index in range(len(rest))]
        answer = worked(expression, errors, last=value + off if kind == 2 else None)
        if value + off >= 0 and "-" not in answer:
            return answer
    return worked(expression, last=value + 1)


def _read(completion: str) -> tuple[str | None, str]:
    """The answer and the rule that found it."""
    marked = _MARKED.findall(completion)
    if marked:
        return str(int(marked[-1])), "marked"
    numbers = _NUMBER.findall(completion)
    return (str(int(numbers[-1])), "last_number") if numbers else (None, "last_number")


def _grade(reference: str, completion: str) -> Grade:
    answer, rule = _read(completion)
    if answer is None:
        return Grade(0.0, 0.0, "unparsed", None, rule)
    right = float(answer == reference)
    strict = right if _WORKED.fullmatch(completion.strip()) else 0.0
    return Grade(right, strict, "scored", answer, f"{rule}/exact")
