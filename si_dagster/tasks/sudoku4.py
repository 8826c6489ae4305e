"""Sudoku4: 4x4 Sudoku, hard to complete at once and easy to check.

Catalogue card
    Source: made by rule, no file; every valid 4x4 grid (288) under every choice of blank cells.
    Size: unlimited for practice (3.7 million puzzles at 8 blanks).
    Splits: by a hash of the puzzle text: eval 1/8, train 3/8, pre-training text 1/2; no puzzle is in two.
    Utility: 1 where the clues are kept and every row, column and box holds 1 to 4, else 0. A puzzle may
        have several completions, all of which count.
    In the paper (arXiv 2412.02674, Section 3): 288 puzzles, one of each grid. Option `puzzle_set:
        one_per_grid` poses such a set for evaluation: fixed clue patterns (ours), all held out.
    Few-shot: 4 of our own, none on the evaluation side; right and wrong ones balanced for verification.

    Methods: multiple choice; with option `methods`, pico policies are also taught (and asked) to reason and
        conclude, to score, and to compare. They mark clues, then each row, column and box, y or n.

What it does not do: hold out *grids* (all 288 solutions occur on both sides; puzzles are held out), pose
puzzles with one solution only, or offer methods beside multiple choice in other styles than `pico`.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from importlib import resources
from itertools import permutations
from typing import Any, ClassVar, Literal

import numpy as np

from si_dagster.tasks.base import Grade, PromptStyle, Split, TaskDataError, TaskRow
from si_dagster.tasks.pico_text import Checked, question, taught_methods, verification_lesson

BLANK = "_"
SIDE = 4
NUM_CELLS = 16
CELLS = np.arange(NUM_CELLS)
ROW_OF, COLUMN_OF = CELLS // SIDE, CELLS % SIDE
BOX_OF = ROW_OF // 2 * 2 + COLUMN_OF // 2
GROUPS = np.stack(
    [np.flatnonzero(of == index) for of in (ROW_OF, COLUMN_OF, BOX_OF) for index in range(SIDE)]
)
"""Cells of the 4 rows, 4 columns and 4 boxes; int, shape (12, 4)."""

ROWS = np.array(list(permutations((1, 2, 3, 4))))
"""Every row that holds 1 to 4; int, shape (24, 4)."""

NUM_BUCKETS = 16
BUCKETS: dict[str, range] = {"eval": range(2), "train": range(2, 8), "pretrain": range(8, 16)}
Side = Literal["train", "eval", "pretrain"]

EXTRA_CHARACTERS = re.compile(r"[\s,;|.\-+]+")
"""What a flexible reader drops between digits: white space, separators, frames of a drawn grid."""


def all_grids() -> np.ndarray:
    """Every valid grid in lexicographic order; int, shape (288, 16).

    Examples:
        >>> all_grids().shape
        (288, 16)
        >>> "".join(map(str, all_grids()[0]))
        '1234341221434321'
    """
    return _grids().copy()


@cache
def _grids() -> np.ndarray:
    pairs = _side_by_side(ROWS, ROWS)
    first_box = 1 << pairs[:, GROUPS[2 * SIDE]]
    bands = pairs[first_box.sum(axis=1) == 0b11110]  # the second box holds what is left
    grids = _side_by_side(bands, bands)
    return grids[rules_met(grids)]


def _side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Every row of one beside every row of the other, in lexicographic order."""
    first, second = np.meshgrid(np.arange(len(left)), np.arange(len(right)), indexing="ij")
    return np.concatenate([left[first.ravel()], right[second.ravel()]], axis=1)


def rules_met(answers: np.ndarray) -> np.ndarray:
    """Whether every row, column and box holds 1 to 4.

    Args:
        answers: Digits 1 to 4; int, shape (num_answers, 16).

    Returns:
        Bool, shape (num_answers,).
    """
    seen = (1 << answers[:, GROUPS]).sum(axis=-1)  # (num_answers, 12); distinct powers sum to 30
    return (seen == 0b11110).all(axis=-1)


def is_solution(puzzles: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Whether each answer keeps the clues of its puzzle and meets the rules.

    Args:
        puzzles: Digits 1 to 4, 0 for blank; int, shape (num, 16).
        answers: Digits 1 to 4; int, shape (num, 16).

    Returns:
        Bool, shape (num,).
    """
    return ((puzzles == 0) | (puzzles == answers)).all(axis=1) & rules_met(answers)


def to_text(cells: np.ndarray) -> list[str]:
    """16 characters for each row of cells, 0 written as a blank.

    Examples:
        >>> to_text(np.array([[1, 0, 3, 4] * 4]))
        ['1_341_341_341_34']
    """
    characters = np.frombuffer(b"_1234", dtype=np.uint8)[cells]
    return [row.tobytes().decode("ascii") for row in characters]


def to_cells(texts: Sequence[str]) -> np.ndarray:
    """The inverse of `to_text`; int, shape (num_texts, 16)."""
    characters = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8).reshape(-1, NUM_CELLS)
    return np.where(characters == ord(BLANK), 0, characters.astype(np.int64) - ord("0"))


def side_of(puzzle: str) -> Side:
    """Which side a puzzle belongs to: a matter of its text alone, in every run and version.

    Examples:
        >>> side_of("1_341_341_341_34")
        'pretrain'
    """
    bucket = blake2b(puzzle.encode("ascii"), digest_size=1).digest()[0] % NUM_BUCKETS
    return next(side for side, buckets in BUCKETS.items() if bucket in buckets)  # pyright: ignore


class Sudoku4:
    """4x4 Sudoku as a task.

    Args:
        num_blanks: Blank cells of a puzzle, 1 to 15; more are harder. A puzzle has 16 less that many clues.
        puzzle_set: Evaluation puzzles are drawn at `random` by the seed, or are the same 288 for every seed,
            `one_per_grid`. Training puzzles are drawn by the seed either way.
        methods: Verification methods that the pre-training text teaches. A choice of its own, since each
            takes text, and so quality, from the others.
    """

    name: ClassVar[str] = "sudoku4"
    grader_version: ClassVar[str] = "1"

    def __init__(
        self,
        num_blanks: int = 8,
        puzzle_set: Literal["random", "one_per_grid"] = "random",
        methods: Sequence[str] = ("multiple_choice",),
    ) -> None:
        if not 1 <= num_blanks <= 15:
            raise TaskDataError(f"sudoku4: num_blanks is {num_blanks}, allowed are 1 to 15")
        if puzzle_set not in ("random", "one_per_grid"):
            raise TaskDataError(f"sudoku4: puzzle_set is {puzzle_set!r}, allowed are random, one_per_grid")
        self.num_blanks, self.puzzle_set = num_blanks, puzzle_set
        self.methods = taught_methods(self.name, methods)

    def rows(self, split: Split, num_rows: int, seed: int) -> list[TaskRow]:
        """Distinct puzzles of one split; see `Task.rows`."""
        rng = np.random.default_rng([seed, ("train", "eval").index(split)])
        if split == "eval" and self.puzzle_set == "one_per_grid":
            puzzles, grids = self._one_per_grid(num_rows, rng)
        else:
            puzzles, grids = self._distinct(split, num_rows, rng)
        references = [f"{p}={g}" for p, g in zip(to_text(puzzles), to_text(grids), strict=True)]
        return [
            TaskRow(f"{split}-{puzzle}", split, puzzle, reference, {"clues": NUM_CELLS - self.num_blanks})
            for puzzle, reference in zip(to_text(puzzles), references, strict=True)
        ]

    def _distinct(self, side: Side, num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Distinct puzzles of one side and the grids they were cut from; each int, shape (num_rows, 16)."""
        found: dict[str, np.ndarray] = {}
        draws_without_news = 0
        while len(found) < num_rows and draws_without_news < 20:
            before = len(found)
            puzzles, grids = self._draw(max(256, 2 * num_rows), rng)
            for text, grid in zip(to_text(puzzles), grids, strict=True):
                if text not in found and side_of(text) == side:
                    found[text] = grid
            draws_without_news = draws_without_news + 1 if len(found) == before else 0
        if len(found) < num_rows:
            raise TaskDataError(
                f"sudoku4: found only {len(found)} different {side} puzzles with {self.num_blanks} blanks, "
                f"{num_rows} were asked for; ask for fewer or for more blanks"
            )
        texts = list(found)[:num_rows]
        return to_cells(texts), np.stack([found[text] for text in texts])

    def _one_per_grid(self, num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Held-out puzzles of as many grids; the seed decides which and in what order, not their clues."""
        grids = _grids()
        if num_rows > len(grids):
            raise TaskDataError(
                f"sudoku4: {num_rows} evaluation puzzles wanted, one_per_grid has one for each of the "
                f"{len(grids)} grids; ask for fewer or for puzzle_set random"
            )
        chosen = rng.permutation(len(grids))[:num_rows]
        return np.stack(_held_out_puzzles(self.num_blanks))[chosen], grids[chosen]

    def _draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Puzzles of any side, drawn with repetition: a random grid, random cells of it blank."""
        grids = _grids()[rng.integers(len(_grids()), size=count)]
        order = rng.random((count, NUM_CELLS)).argsort(axis=1)
        return np.where(order < self.num_blanks, 0, grids), grids

    def generation_prompt(self, row: TaskRow, style: PromptStyle) -> str:
        """The puzzle as the policy reads it."""
        if style == "pico":
            return f"?{row.question}A"
        return _template("generation").replace("{question}", _drawn(row.question))

    def verification_prompt(self, row: TaskRow, completion: str, method: str, style: PromptStyle) -> str:
        """Puzzle and answer as the verifier reads them.

        Only characters an answer can have pass, so no completion can pose as a verdict.

        Raises:
            TaskDataError: If this task has no prompt for the method.
        """
        if method == "tournament" or method not in self._asked(style):
            raise TaskDataError(
                f"sudoku4: no verification prompt for method {method!r} in style {style}, only "
                f"{', '.join(self._asked(style))}; pico policies know those of option `methods`"
            )
        if style == "pico":
            return question(method, row.question, _cleaned(completion))
        answer = NOT_A_DRAWN_ANSWER.sub("", completion)[: 4 * NUM_CELLS]
        template = _template("multiple_choice").replace("{question}", _drawn(row.question))
        return template.replace("{completion}", answer)

    def comparison_prompt(self, row: TaskRow, first: str, second: str, style: PromptStyle) -> str:
        """Two answers to one puzzle as the verifier of a tournament reads them.

        Raises:
            TaskDataError: Unless `methods` has it and the style is `pico`.
        """
        if "tournament" not in self._asked(style):
            raise TaskDataError(
                f"sudoku4: no prompt compares two answers in style {style}; pico policies know the methods "
                f"of option `methods`: {', '.join(self.methods)}"
            )
        return question("tournament", row.question, _cleaned(first), _cleaned(second))

    def _asked(self, style: PromptStyle) -> tuple[str, ...]:
        return self.methods if style == "pico" else ("multiple_choice",)

    def verdict_labels(self, style: PromptStyle) -> tuple[str, str]:
        """The continuations that mean (correct, incorrect)."""
        return ("Y", "N") if style == "pico" else (" correct", " incorrect")

    def stop(self, style: PromptStyle) -> tuple[str, ...]:
        """Where an answer ends beside the end token."""
        return () if style == "pico" else ("\n\n",)

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """See `Task.grade`; a reference holds its puzzle, since a puzzle may have several solutions."""
        return [_grade(*pair) for pair in zip(references, completions, strict=True)]

    def gold_completion(self, row: TaskRow) -> str:
        """The grid the puzzle was made from."""
        return row.reference.partition("=")[2]

    def extract(self, completion: str) -> str | None:
        """The sixteen digits of a completion; `None` where it has none."""
        return _sixteen_digits(completion)

    def pretraining_text(
        self,
        rng: np.random.Generator,
        num_examples: int,
        verification_fraction: float,
        error_rate: float = 0.0,
    ) -> Iterator[tuple[str, str]]:
        """(prompt, completion) pairs that teach both roles, from puzzles of the pre-training side alone.

        Half of the verification examples carry a right answer, half a corrupted one: cells changed, cells
        swapped, rows filled without regard to columns, or a valid grid that misses clues.

        Args:
            rng: Decides everything.
            num_examples: Pairs to yield; puzzles repeat only by chance.
            verification_fraction: Share of pairs that teach verification.
            error_rate: Share of worked answers that are corrupted: demonstrations in the wild err. Verdicts
                are always right.
        """
        puzzles, grids = self._of_side("pretrain", num_examples, rng)
        if self.methods != ("multiple_choice",):
            yield from self._lessons(puzzles, grids, verification_fraction, error_rate, rng)
            return
        verifies = rng.random(num_examples) < verification_fraction
        wrong = rng.random(num_examples) < np.where(verifies, 0.5, error_rate)
        answers = grids.copy()
        answers[wrong] = corrupted(puzzles[wrong], grids[wrong], rng)
        right = is_solution(puzzles, answers)
        rows = zip(to_text(puzzles), to_text(answers), verifies, right, strict=True)
        for puzzle, answer, verifying, is_right in rows:
            if verifying:
                yield f"V{puzzle}={answer}:", "Y" if is_right else "N"
            else:
                yield f"?{puzzle}A", answer

    def _lessons(
        self,
        puzzles: np.ndarray,
        grids: np.ndarray,
        verification_fraction: float,
        error_rate: float,
        rng: np.random.Generator,
    ) -> Iterator[tuple[str, str]]:
        """Text of all `methods`; puzzles and grids int, shape (num, 16), else as in `pretraining_text`."""
        pairs = [corrupted(puzzles, grids, rng) for _ in range(2)]
        for puzzle, grid, *wrong in zip(puzzles, grids, *pairs, strict=True):
            left = iter(wrong)

            def answer_of(
                right: bool, puzzle: np.ndarray = puzzle, grid: np.ndarray = grid, left: Any = left
            ) -> Checked:
                return checked(puzzle, grid if right else next(left))

            (asked,) = to_text(puzzle[None])
            if rng.random() < verification_fraction:
                yield verification_lesson(self.methods, asked, answer_of, rng)
            else:
                yield f"?{asked}A", answer_of(bool(rng.random() >= error_rate)).answer

    def _of_side(self, side: Side, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Puzzles of one side with repetition allowed; each int, shape (count, 16)."""
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        while not kept or sum(len(puzzles) for puzzles, _ in kept) < count:
            puzzles, grids = self._draw(2 * count + 64, rng)
            chosen = np.array([side_of(text) == side for text in to_text(puzzles)])
            kept.append((puzzles[chosen], grids[chosen]))
        puzzles, grids = (np.concatenate(arrays)[:count] for arrays in zip(*kept, strict=True))
        return puzzles, grids


@cache
def _held_out_puzzles(num_blanks: int) -> tuple[np.ndarray, ...]:
    """One puzzle of the evaluation side for each grid, no two alike; each int, shape (16,).

    Clue patterns come from a generator seeded by the grid's place and the number of blanks alone; the first
    pattern whose puzzle is held out and new is taken. An eighth are held out, so 1,000 draws miss all of 16
    patterns only where none is.
    """
    puzzles: list[np.ndarray] = []
    taken: set[str] = set()
    for place, grid in enumerate(_grids()):
        rng = np.random.default_rng([num_blanks, place])
        for _ in range(1000):
            puzzle = np.where(rng.permutation(NUM_CELLS) < num_blanks, 0, grid)
            (text,) = to_text(puzzle[None])
            if text not in taken and side_of(text) == "eval":
                break
        else:
            raise TaskDataError(
                f"sudoku4: no puzzle of grid {to_text(grid[None])[0]} with {num_blanks} blanks is held out "
                "and not of another grid as well; ask for 2 to 13 blanks"
            )
        taken.add(text)
        puzzles.append(puzzle)
    return tuple(puzzles)


NOT_AN_ANSWER = re.compile(r"[^1-4]")
NOT_A_DRAWN_ANSWER = re.compile(r"[^1-4 \n]")
CORRUPTIONS = (0.45, 0.2, 0.25, 0.1)
"""Shares of: 1 to 3 cells changed, two swapped, rows filled at random, a grid that misses clues."""


def corrupted(puzzles: np.ndarray, grids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An answer like the grid but mostly wrong, for each puzzle; int, shape (num, 16).

    A corrupted answer may by chance be another solution: ask `is_solution`.
    """
    answers = grids.copy()
    kinds = rng.choice(len(CORRUPTIONS), size=len(puzzles), p=CORRUPTIONS)
    for i, kind in enumerate(kinds):
        blanks = np.flatnonzero(puzzles[i] == 0)
        if kind == 0 or len(blanks) < 2:
            cells = rng.choice(blanks, min(int(rng.integers(1, 4)), len(blanks)), replace=False)
            answers[i, cells] = (answers[i, cells] - 1 + rng.integers(1, 4, len(cells))) % 4 + 1
        elif kind == 1:
            a, b = rng.choice(blanks, 2, replace=False)
            answers[i, [a, b]] = answers[i, [b, a]]
        elif kind == 3:
            misses = ((_grids() != puzzles[i]) & (puzzles[i] != 0)).sum(axis=1)
            near = np.flatnonzero((misses > 0) & (misses <= 3))
            answers[i] = _grids()[rng.choice(near if len(near) else len(_grids()))]
    filled = kinds == 2
    answers[filled] = _rows_filled(puzzles[filled], rng)
    return answers


def _rows_filled(puzzles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each row completed by a random permutation that keeps its clues, columns and boxes ignored."""
    rows = puzzles.reshape(-1, SIDE, SIDE)
    fits = ((rows[:, :, None] == 0) | (rows[:, :, None] == ROWS)).all(axis=-1)  # (num, 4, 24)
    return ROWS[(rng.random(fits.shape) * fits).argmax(axis=-1)].reshape(-1, NUM_CELLS)


def checked(puzzle: np.ndarray, answer: np.ndarray) -> Checked:
    """An answer beside what it must keep: the clues, then 4 rows, 4 columns and 4 boxes, each y or n.

    Args:
        puzzle: Digits 1 to 4, 0 for blank; int, shape (16,).
        answer: Digits 1 to 4; int, shape (16,).

    Examples:
        Two digits of the first row exchanged, one of them a clue: the clue, both columns; the box is whole.

        >>> puzzle, answer = to_cells(["1___341221434321", "2134341221434321"])
        >>> checked(puzzle, answer).check
        'nyyyynnyyyyyy'
    """
    groups = (1 << answer[GROUPS]).sum(axis=1) == 0b11110
    marks = [bool(((puzzle == 0) | (puzzle == answer)).all()), *groups.tolist()]
    (text,) = to_text(answer[None])
    check = "".join("y" if mark else "n" for mark in marks)
    return Checked(text, check, sum(marks) / len(marks), all(marks))


def _cleaned(completion: str) -> str:
    return NOT_AN_ANSWER.sub("", completion)[:NUM_CELLS]


def _grade(reference: str, completion: str) -> Grade:
    puzzle, _, _ = reference.partition("=")
    answer = _sixteen_digits(completion)
    if answer is None:
        return Grade(0.0, 0.0, "unparsed", None, "sixteen_digits")
    right = float(is_solution(to_cells([puzzle]), to_cells([answer]))[0])
    strict = right if completion.strip() == answer else 0.0
    return Grade(right, strict, "scored", answer, "sixteen_digits/rules")


def _sixteen_digits(completion: str) -> str | None:
    match = re.search(r"[1-4]{16}", EXTRA_CHARACTERS.sub("", completion))
    return match[0] if match else None


def _drawn(puzzle: str) -> str:
    """The puzzle as four lines of four cells."""
    return "\n".join(" ".join(puzzle[i : i + SIDE]) for i in range(0, NUM_CELLS, SIDE))


@cache
def _template(name: str) -> str:
    file = resources.files("si_dagster") / "templates" / "sudoku4" / f"{name}.txt"
    return file.read_text("utf-8").rstrip("\n")
