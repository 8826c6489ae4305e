"""The graders by name: number, math, exact_match, choice, code; each turns completions into `Grade` rows.

A grader reads text only: it knows no prompts and no task. Comparison runs once for each distinct pair
of reference and answer; a pair that could not be decided is `grader_error` with the reason, never 0.
Code is graded by `code_grader`.
"""

import os
import re
import string
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from json import JSONDecodeError, loads
from typing import Protocol

from si_dagster.tasks.base import Grade
from si_dagster.tasks.grading.comparison import Comparison, Shape, compare, shape_of
from si_dagster.tasks.grading.extraction import (
    Extraction,
    choice_letter,
    first_line,
    flexible_math,
    flexible_number,
    strict_math,
    strict_number,
)
from si_dagster.tasks.grading.normal_form import find_boxes, normal_form
from si_dagster.tasks.grading.quantity import MULTIPLIERS, parse_number_words, parse_quantity
from si_dagster.tasks.grading.worker_pool import WorkerFailure, WorkerPool, shared_pool

MATH_WORKER = "si_dagster.tasks.grading.math_worker"
MAX_CACHED_PAIRS = 500_000


class Grader(Protocol):
    """Grades completions against references, row by row."""

    version: str

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """One grade a row, in order; never raises for a bad completion."""
        ...

    def extract(self, completion: str) -> str | None:
        """The answer of a completion as `Grade.extracted` holds it, without a reference."""
        ...

    def gold_text(self, reference: str) -> str | None:
        """A completion that says the reference in the strict format; `None` where it is no answer."""
        ...


@dataclass(frozen=True)
class _Outcome:
    equal: bool | None
    tier: str
    reason: str | None = None


@dataclass
class AnswerComparer:
    """Decides pairs (reference, answer) in tiers, each distinct pair once.

    Attributes:
        time_limit_s: CPU seconds for a pair that needs math-verify.
        pool: Worker processes; the shared ones by default.
    """

    time_limit_s: float = 5.0
    pool: WorkerPool | None = None
    _decided: dict[tuple[str, str], _Outcome] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, pairs: set[tuple[str, str]]) -> dict[tuple[str, str], _Outcome]:
        """The outcome of each pair of normal forms."""
        with self._lock:
            if len(self._decided) > MAX_CACHED_PAIRS:
                self._decided.clear()
            outcomes = {pair: self._decided.get(pair) or self._cheap(pair) for pair in pairs}
            hard = sorted(pair for pair, outcome in outcomes.items() if outcome.equal is None)
            outcomes.update(self._by_math_verify(hard))
            self._decided.update((pair, out) for pair, out in outcomes.items() if out.reason is None)
        return outcomes

    def _cheap(self, pair: tuple[str, str]) -> _Outcome:
        try:
            outcome: Comparison = compare(*pair)
        except RecursionError:
            return _Outcome(None, "literal")
        return _Outcome(outcome.equal, outcome.tier)

    def _by_math_verify(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], _Outcome]:
        if not pairs:
            return {}
        pool = self.pool or shared_pool(MATH_WORKER, os.cpu_count() or 1, self.time_limit_s)
        results = pool.map([{"reference": reference, "answer": answer} for reference, answer in pairs])
        return {
            pair: _Outcome(None, "math-verify", result.reason)
            if isinstance(result, WorkerFailure)
            else _Outcome(result["equal"], result["tier"])
            for pair, result in zip(pairs, results, strict=True)
        }


Finder = Callable[[str], Extraction | None]


@dataclass
class _PairGrader:
    """Extract twice, compare each distinct pair once, put the rows together."""

    version: str
    strict: Finder
    flexible: Finder
    read_reference: Callable[[str], str]
    read_answer: Callable[[str], str]
    comparer: AnswerComparer
    gold_format: str = "{}"

    def gold_text(self, reference: str) -> str | None:
        """See `Grader`."""
        return self.gold_format.format(self.read_reference(reference))

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """One grade a row; see `Grader`."""
        flexible, strict = self.flexible, self.strict
        # Samples of one prompt repeat themselves, so all that follows is done once for each distinct row.
        read = {text: (flexible(text), strict(text)) for text in set(completions)}
        found = [(reference, *read[text]) for reference, text in zip(references, completions, strict=True)]
        distinct = set(found)
        golds = {reference: self.read_reference(reference) for reference, _, _ in distinct}
        pairs = {
            (golds[reference], self.read_answer(extraction.answer))
            for reference, *both in distinct
            for extraction in both
            if extraction is not None
        }
        outcomes = self.comparer.decide(pairs)
        grades = {row: self._row(golds[row[0]], row[1], row[2], outcomes) for row in distinct}
        return [grades[row] for row in found]

    def extract(self, completion: str) -> str | None:
        """The flexible answer in canonical form; see `Grader`."""
        found = self.flexible(completion)
        return canonical_answer(self.read_answer(found.answer)) if found else None

    def _row(
        self,
        gold: str,
        flexible: Extraction | None,
        strict: Extraction | None,
        outcomes: dict[tuple[str, str], _Outcome],
    ) -> Grade:
        if flexible is None:
            return Grade(0.0, 0.0, "unparsed", None, "none")
        answer = self.read_answer(flexible.answer)
        outcome = outcomes[gold, answer]
        extracted, rule = canonical_answer(answer), f"{flexible.rule}/{outcome.tier}"
        if outcome.equal is None:
            return Grade(None, None, "grader_error", extracted, rule, outcome.reason)
        strictly = outcomes[gold, self.read_answer(strict.answer)].equal if strict else False
        return Grade(float(outcome.equal), float(bool(strictly)), "scored", extracted, rule)


@lru_cache(maxsize=100_000)
def canonical_answer(form: str) -> str:
    r"""One string for answers that spelling and arithmetic show to be equal; lists are sorted.

    >>> canonical_answer("2,0.5"), canonical_answer(r"\frac{1}{2},2")
    ('1/2,2', '1/2,2')
    """
    return _canonical(shape_of(form)) if form else form


def _canonical(shape: Shape) -> str:
    if shape.kind == "leaf":
        quantity = parse_quantity(shape.text)
        return quantity.canonical() if quantity else shape.text
    parts = [_canonical(part) for part in shape.parts]
    if shape.kind in ("list", "set", "union"):
        return (r"\cup" if shape.kind == "union" else ",").join(sorted(parts))
    opening, closing = shape.brackets if len(shape.brackets) == 2 else "()"
    return f"{opening}{','.join(parts)}{closing}"


@lru_cache(maxsize=100_000)
def number_form(text: str) -> str:
    r"""Normal form of a number in a word problem, multiplier words worked out.

    >>> number_form("$29.00"), number_form("1.2 million"), number_form("15k")
    ('29', '1200000', '15000')
    """
    plain = normal_form(text)
    if re.fullmatch(r"[-\d.,]+k", plain, re.IGNORECASE):
        plain = f"{plain[:-1]} thousand"
    if any(word in text.lower() for word in MULTIPLIERS) or plain.isalpha() or plain.endswith("thousand"):
        value = parse_number_words(
            plain if plain.endswith("thousand") else text.replace("$", "").replace(",", "").strip()
        )
        if value is not None:
            return str(value)
    quantity = parse_quantity(plain)
    return f"{quantity.spelled()}{'%' if quantity.percent else ''}" if quantity else plain


@lru_cache(maxsize=20_000)
def number_reference(text: str) -> str:
    """The gold number: behind `####` where there is one, else in a box, else the text itself."""
    if "####" in text:
        text = text.rpartition("####")[2]
    boxes = find_boxes(text)
    return number_form((boxes[-1][2] if boxes else text).strip())


@lru_cache(maxsize=20_000)
def math_reference(text: str) -> str:
    r"""Normal form of a gold answer given bare, in a box or at the end of a worked solution.

    Boxes of a list are joined as in completions.

    >>> math_reference(r"Thus the area is $\boxed{15\mbox{ cm}^2}$.")
    '15'
    """
    if "\\boxed" in text or "\\fbox" in text:
        found = strict_math(text)
        text = found.answer if found else text
    return normal_form(text)


def number_grader(time_limit_s: float = 5.0) -> Grader:
    """Word problems with one number: GSM8K, SVAMP. Strict wants the line `#### n`."""
    return _PairGrader(
        "number-1",
        strict_number,
        flexible_number,
        number_reference,
        number_form,
        AnswerComparer(time_limit_s),
        "#### {}",
    )


def math_grader(time_limit_s: float = 5.0, pool: WorkerPool | None = None) -> Grader:
    """Competition mathematics with LaTeX answers: MATH. Strict wants a box or Minerva's final sentence."""
    return _PairGrader(
        "math-1",
        strict_math,
        flexible_math,
        math_reference,
        normal_form,
        AnswerComparer(time_limit_s, pool),
        "The final answer is $\\boxed{{{}}}$.",
    )


def choice_grader() -> Grader:
    """Multiple choice with a letter. Strict wants the letter alone."""
    return _PairGrader(
        "choice-1", _letter_alone, choice_letter, _reference_letter, str.strip, AnswerComparer()
    )


def _reference_letter(text: str) -> str:
    found = choice_letter(text)
    return found.answer if found else text.strip()


def _letter_alone(text: str) -> Extraction | None:
    match = re.fullmatch(r"\s*\(?([A-Z])\)?\.?\s*", text)
    return Extraction(match[1], "alone") if match else None


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@lru_cache(maxsize=200_000)
def squad_form(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces.

    As in the official evaluation script of SQuAD v1.1 (Rajpurkar et al. 2016). Unicode is composed
    first (ours), so that the two encodings of an accent are one.

    >>> squad_form("The  U.S.A.!")
    'usa'
    """
    text = unicodedata.normalize("NFC", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


@lru_cache(maxsize=50_000)
def accepted_answers(reference: str) -> frozenset[str]:
    """SQuAD forms of a JSON list of accepted answers, or of one plain answer.

    >>> sorted(accepted_answers('["Bobby Scott", "Bob Russell"]'))
    ['bob russell', 'bobby scott']
    """
    try:
        answers = loads(reference)
    except JSONDecodeError:
        answers = reference
    answers = answers if isinstance(answers, list) else [reference]
    return frozenset(squad_form(str(answer)) for answer in answers)


class ExactMatchGrader:
    """Exact match with any accepted answer after SQuAD normalisation: Natural Questions.

    References are JSON lists of accepted answers. Flexible reads the first line, or what follows "the
    answer is" or `A:`; strict takes the completion up to the first line break or stop as it stands.
    """

    version = "exact_match-1"

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """One grade a row; see `Grader`."""
        return [self._one(*row) for row in zip(references, completions, strict=True)]

    def extract(self, completion: str) -> str | None:
        """The first line in SQuAD's form; see `Grader`."""
        found = first_line(completion)
        return squad_form(found.answer) if found else None

    def gold_text(self, reference: str) -> str | None:
        """The first accepted answer; see `Grader`."""
        try:
            answers = loads(reference)
        except JSONDecodeError:
            answers = reference
        return str(answers[0]) if isinstance(answers, list) and answers else reference

    def _one(self, reference: str, completion: str) -> Grade:
        found = first_line(completion)
        form = squad_form(found.answer) if found else ""
        if found is None:
            return Grade(0.0, 0.0, "unparsed", None, "none")
        accepted = accepted_answers(reference)
        strictly = squad_form(completion.strip().partition("\n")[0]) in accepted
        return Grade(float(form in accepted), float(strictly), "scored", form, f"{found.rule}/exact_match")


def code_grader() -> Grader:
    """Programs with tests, in the sandbox; see `code_grader.CodeGrader`."""
    from si_dagster.tasks.grading.code_grader import CodeGrader

    return CodeGrader()


GRADERS: dict[str, Callable[[], Grader]] = {
    "code": code_grader,
    "number": number_grader,
    "math": math_grader,
    "exact_match": ExactMatchGrader,
    "choice": choice_grader,
}
