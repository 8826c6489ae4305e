"""Facts: a random table to be known by heart, some entries seen often and most seldom.

Catalogue card
    Source: made by rule, no file: `num_facts` keys of three letters, each with a value of two out of eight
        letters, drawn once by `table_seed` and the same in every study and seed.
    Size: 600 facts by default; the fact of rank r stands in pre-training text in proportion to
        1 / r**exponent (Zipf), in statements and in verification examples alike.
    Splits: by a hash of the key: eval 3/8, train 5/8; no fact is in both. The pre-training text holds *all*
        of them, since a fact that was never told cannot be known: what is held out is that no update is
        trained on an evaluation prompt.
    Utility: 1 where the value is that of the table. Strict wants the two letters and nothing else.
    Difficulty: columns `rank` (1 is the most frequent) and `log2_rank`.
    In the paper (arXiv 2412.02674): stands for Natural Questions. Checking an answer takes the same memory as
        giving it, so the generation-verification gap should be near zero.
    Few-shot: none; only a policy pre-trained on the table can know it.

What it does not do: questions that need two facts, or several right values of one key.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from string import ascii_lowercase
from typing import ClassVar

import numpy as np

from si_dagster.tasks.base import Grade, Split, TaskDataError, TaskRow
from si_dagster.tasks.dataset_task import dealt
from si_dagster.tasks.pico_text import Checked, PicoTask, taught_methods, verification_lesson
from si_dagster.tasks.prompts import METHODS

LETTERS = "bcdfghjk"
VALUES = tuple(a + b for a in LETTERS for b in LETTERS)
MOST_FACTS = 10_000
NUM_BUCKETS = 8
EVAL_BUCKETS = range(3)

NOT_A_VALUE = re.compile(rf"[^{LETTERS}]")
_WORD = re.compile(rf"(?<![A-Za-z0-9])[{LETTERS}]{{2}}(?![A-Za-z0-9])")


def split_of(key: str) -> Split:
    """Which split a fact belongs to: a matter of its key alone, in every run and version.

    >>> split_of("abc")
    'train'
    """
    bucket = blake2b(key.encode("ascii"), digest_size=1).digest()[0] % NUM_BUCKETS
    return "eval" if bucket in EVAL_BUCKETS else "train"


def checked(value: str, answer: str) -> Checked:
    """An answer beside the value as it should be.

    >>> checked("bd", "bc").check
    'bdn'
    """
    is_right = answer == value
    return Checked(answer, f"{value}{'y' if is_right else 'n'}", float(is_right), is_right)


class Facts(PicoTask):
    """A random table as a task.

    Args:
        num_facts: Entries of the table.
        exponent: Of Zipf's law; 0 tells all facts alike.
        table_seed: Draws the table. Not the seed of the study: replicates ask about the same table.
        methods: Verification methods that the pre-training text teaches.
    """

    name: ClassVar[str] = "facts"
    grader_version: ClassVar[str] = "1"

    def __init__(
        self,
        num_facts: int = 600,
        exponent: float = 1.0,
        table_seed: int = 0,
        methods: Sequence[str] = METHODS,
    ) -> None:
        if not 2 <= num_facts <= MOST_FACTS:
            raise TaskDataError(f"facts: num_facts is {num_facts}, allowed are 2 to {MOST_FACTS}")
        if exponent < 0:
            raise TaskDataError(f"facts: exponent is {exponent}, it is 0 or more")
        self.num_facts, self.exponent, self.table_seed = num_facts, exponent, table_seed
        self.methods = taught_methods(self.name, methods)

    @cached_property
    def table(self) -> dict[str, str]:
        """Key -> value, the most frequent first."""
        rng = np.random.default_rng([self.table_seed, 0xFAC7])
        codes = rng.permutation(len(ascii_lowercase) ** 3)[: self.num_facts]
        values = rng.integers(len(VALUES), size=self.num_facts)
        return {_key(int(code)): VALUES[value] for code, value in zip(codes, values, strict=True)}

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Share of the text that is about each fact, by rank; shape (num_facts,)."""
        raw = np.arange(1, self.num_facts + 1) ** -self.exponent
        return raw / raw.sum()

    def rows(self, split: Split, num_rows: int, seed: int) -> list[TaskRow]:
        """Distinct facts of one split, of all ranks alike; see `Task.rows`."""
        return self.dealt_rows(split, num_rows, seed, 0)

    def pool_size(self, split: Split) -> int:
        """Facts of a split."""
        return len(self._pool(split))

    def dealt_rows(self, split: Split, num_rows: int, seed: int, deal: int) -> list[TaskRow]:
        """See `DealsRows.dealt_rows`."""
        pool = self._pool(split)
        if num_rows > len(pool):
            raise TaskDataError(
                f"facts: {num_rows} {split} facts wanted, the table has {len(pool)}; ask for fewer or for "
                "more num_facts"
            )
        return [pool[index] for index in dealt([row.prompt_id for row in pool], num_rows, seed, deal)]

    def _pool(self, split: Split) -> list[TaskRow]:
        return [
            TaskRow(f"{split}-{key}", split, key, value, {"rank": rank, "log2_rank": rank.bit_length() - 1})
            for rank, (key, value) in enumerate(self.table.items(), 1)
            if split_of(key) == split
        ]

    def cleaned(self, completion: str) -> str:
        """The letters of values, at most three: one more than a value, so that a longer answer shows."""
        return NOT_A_VALUE.sub("", completion)[:3]

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """See `Task.grade`."""
        return [_grade(*pair) for pair in zip(references, completions, strict=True)]

    def gold_completion(self, row: TaskRow) -> str:
        """The value."""
        return row.reference

    def extract(self, completion: str) -> str | None:
        """The last value in a completion; `None` where it has none."""
        found = _WORD.findall(completion)
        return found[-1] if found else None

    def pretraining_text(
        self,
        rng: np.random.Generator,
        num_examples: int,
        verification_fraction: float,
        error_rate: float = 0.0,
    ) -> Iterator[tuple[str, str]]:
        """(prompt, completion) pairs that teach both roles, facts by their frequency.

        Args:
            rng: Decides everything.
            num_examples: Pairs to yield.
            verification_fraction: Share of pairs that teach verification, by all of `methods`.
            error_rate: Share of statements with another fact's value. Verdicts are always right.
        """
        keys, values = list(self.table), list(self.table.values())
        for rank in rng.choice(self.num_facts, size=num_examples, p=self.frequencies):
            value = values[rank]

            def answer_of(right: bool, value: str = value) -> Checked:
                return checked(value, value if right else _another(value, values, rng))

            if rng.random() < verification_fraction:
                yield verification_lesson(self.methods, keys[rank], answer_of, rng)
            else:
                yield f"?{keys[rank]}A", answer_of(bool(rng.random() >= error_rate)).answer


def _key(code: int) -> str:
    base = len(ascii_lowercase)
    return "".join(ascii_lowercase[code // base**place % base] for place in (2, 1, 0))


def _another(value: str, values: Sequence[str], rng: np.random.Generator) -> str:
    """The value of another fact, or any other where the table has one value only."""
    for _ in range(20):
        other = values[int(rng.integers(len(values)))]
        if other != value:
            return other
    return VALUES[(VALUES.index(value) + 1) % len(VALUES)]


def _grade(reference: str, completion: str) -> Grade:
    found = _WORD.findall(completion)
    if not found:
        return Grade(0.0, 0.0, "unparsed", None, "last_value")
    right = float(found[-1] == reference)
    return Grade(right, right if completion.strip() == found[-1] else 0.0, "scored", found[-1], "last_value")
