r"""Whether two answers are the same, by spelling and exact numbers, part by part.

Lists compare without order, tuples and intervals with it, matrices row by row; a part that neither
spelling nor arithmetic can decide is handed to a judge of leaves (math-verify, in another process) or
left undecided. It evaluates nothing itself: roots, pi and letters are the judge's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from si_dagster.tasks.grading.normal_form import normal_form
from si_dagster.tasks.grading.quantity import Quantity, parse_number_words, parse_quantity, quantities_agree

Kind = Literal["leaf", "list", "set", "bracket", "union", "matrix"]
Tier = Literal["literal", "numeric", "math-verify"]
LeafJudge = Callable[[str, str], bool]
"""Decides a pair (reference, answer) of normal forms that the cheap tiers cannot."""

_DEPTH: dict[Tier, int] = {"literal": 0, "numeric": 1, "math-verify": 2}
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?%?")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt)(?![a-z])")
_WORDS = re.compile(r"[a-z][a-z'. -]{3,}|[A-Za-z]")
_LABELLED = re.compile(r"([A-Za-z](?:_\{?\w\}?)?)=([^=<>]+)")
_TIME = re.compile(r"(\d{1,2}:\d{2})(?: ([ap]m))?")
_OPEN, _CLOSE = "([{", ")]}"
MAX_PARTS = 64


@dataclass(frozen=True)
class Shape:
    """An answer taken apart: what it is, its brackets where it has them, and its parts (text for a leaf)."""

    kind: Kind
    parts: tuple["Shape", ...] = ()
    text: str = ""
    brackets: str = ""
    width: int = 0
    """Columns of a matrix."""


@lru_cache(maxsize=50_000)
def shape_of(text: str) -> Shape:
    r"""Take a normal form apart at its outermost commas, brackets and unions.

    >>> [part.text for part in shape_of(r"(3,\frac{1}{2})").parts], shape_of("(3,4]").brackets
    (['3', '\\frac{1}{2}'], '(]')
    >>> shape_of("10,000").kind, shape_of("10,20").kind
    ('leaf', 'list')
    """
    if _THOUSANDS.fullmatch(text) or text.count("(") + text.count("[") > MAX_PARTS:
        return Shape("leaf", text=text)
    if match := _MATRIX.fullmatch(_bare_array(text)):
        return _matrix(match[1], match[2])
    if "\\cup" in text:
        pieces = _split(text, r"\cup")
        if len(pieces) > 1:
            return Shape("union", tuple(shape_of(piece) for piece in pieces))
    if text.startswith(r"\langle") and text.endswith(r"\rangle") and text.count(r"\langle") == 1:
        text = f"({text[7:-7].strip()})"
    pieces = _split(text, ",") if "," in text else [text]
    if len(pieces) > 1 and all(pieces):
        return _listed(pieces)
    return _enclosed(text)


def _bare_array(text: str) -> str:
    r"""`(\begin{array}...\end{array})` without its brackets; with bars it is a determinant and no matrix."""
    opens, closes = ("(\\begin{array", "[\\begin{array"), ("\\end{array})", "\\end{array}]")
    return text[1:-1] if text.startswith(opens) and text.endswith(closes) else text


def _listed(pieces: list[str]) -> Shape:
    """`x=1,x=2` lists two values; `y=2,x=1` is the point (1,2), by the order of its labels."""
    labels = [_LABELLED.fullmatch(piece) for piece in pieces]
    if all(labels):
        named = sorted((match[1], match[2]) for match in labels if match)
        if len({label for label, _ in named}) == len(named):
            return Shape("bracket", tuple(shape_of(value) for _, value in named), brackets="()")
        pieces = [value for _, value in named]
    return Shape("list", tuple(part for piece in pieces for part in _values(piece)))


def _enclosed(text: str) -> Shape:
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inner = shape_of(text[2:-2])
        return Shape("set", inner.parts if inner.kind == "list" else (inner,))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _matching(text) and "," in text:
        pieces = _split(text[1:-1], ",")
        if len(pieces) > 1 and all(pieces):
            return Shape("bracket", tuple(map(shape_of, pieces)), brackets=text[0] + text[-1])
    values = _plus_minus(text)
    return Shape("list", values) if values else Shape("leaf", text=text)


def _plus_minus(text: str) -> tuple[Shape, ...]:
    r"""Both values of `a \pm b`, nothing for other texts; brackets are not looked into."""
    if text.count(r"\pm") != 1 or text[:1] in ("(", "["):
        return ()
    head, _, tail = text.partition(r"\pm")
    tail = tail.strip()
    return Shape("leaf", text=f"{head}+{tail}" if head else tail), Shape("leaf", text=f"{head}-{tail}")


def _values(piece: str) -> tuple[Shape, ...]:
    return _plus_minus(piece) or (shape_of(piece),)


def _matrix(name: str, body: str) -> Shape:
    rows = [row.split("&") for row in body.split(r"\\") if row.strip()]
    cells = tuple(Shape("leaf", text=normal_form(cell)) for row in rows for cell in row)
    brackets = "|" if name in ("vmatrix", "Vmatrix") else ""
    return Shape("matrix", cells, brackets=brackets, width=len(rows[0]) if rows else 0)


def _split(text: str, mark: str) -> list[str]:
    """Split where the mark stands outside all brackets; half-open intervals count as brackets."""
    pieces, depth, start, position = [], 0, 0, 0
    while position < len(text):
        char = text[position]
        if char == "\\" and text.startswith((r"\{", r"\}"), position):
            depth += 1 if text[position + 1] == "{" else -1
            position += 2
            continue
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif depth == 0 and text.startswith(mark, position):
            pieces.append(text[start:position].strip())
            position = start = position + len(mark)
            continue
        position += 1
    return [*pieces, text[start:].strip()]


def _matching(text: str) -> bool:
    """Whether the first bracket closes only at the last character."""
    depth = 0
    for position, char in enumerate(text):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth == 0:
            return position == len(text) - 1
    return False


@dataclass
class Comparison:
    """The outcome of comparing two answers.

    Attributes:
        equal: `None` where a leaf needed the judge and none was given.
        tier: The deepest tier that was used.
    """

    equal: bool | None
    tier: Tier = "literal"


def compare(reference: str, answer: str, judge: LeafJudge | None = None) -> Comparison:
    r"""Compare two normal forms.

    Args:
        reference: Normal form of the gold answer; its shape rules (a tuple wants its order).
        answer: Normal form of the extracted answer.
        judge: Decides leaves that spelling and numbers cannot; without one they stay undecided.

    Examples:
        >>> compare("1,-2", "-2,1"), compare("(1,-2)", "(-2,1)").equal
        (Comparison(equal=True, tier='literal'), False)
        >>> compare(r"\frac{1}{2}", "0.5")
        Comparison(equal=True, tier='numeric')
        >>> compare(r"2\sqrt{3}", r"\sqrt{12}").equal is None
        True
    """
    if reference == answer:
        return Comparison(bool(reference))
    if not reference or not answer:
        return Comparison(False)
    return _compare_shapes(shape_of(reference), shape_of(answer), (reference, answer), judge)


def _compare_shapes(left: Shape, right: Shape, whole: tuple[str, str], judge: LeafJudge | None) -> Comparison:
    if left.kind == right.kind == "leaf":
        return _compare_leaves(left.text, right.text, judge)
    if max(len(left.parts), len(right.parts)) > MAX_PARTS:
        return Comparison(False)
    left, right = _reconciled(left, right)
    if left.kind != right.kind:
        if any(_RELATION.search(text) for text in whole) or "\\cup" in "".join(whole):
            return _judged(*whole, judge)
        return Comparison(False)
    if left.kind in ("list", "set", "union"):
        return _compare_unordered(left.parts, right.parts, judge)
    brackets_count = len(left.parts) == 2 or left.kind == right.kind == "matrix"
    if (left.brackets != right.brackets and brackets_count) or left.width != right.width:
        return Comparison(False)
    return _compare_ordered(left.parts, right.parts, judge)


def _reconciled(left: Shape, right: Shape) -> tuple[Shape, Shape]:
    r"""Let `1,2` answer `(1,2)` and `\{1,2\}`, a column a tuple, and a set of one its element."""
    kinds = {left.kind, right.kind}
    if kinds == {"list", "set"}:
        return Shape("set", left.parts), Shape("set", right.parts)
    if kinds == {"list", "bracket"}:
        open_tuple = left.brackets + right.brackets == "()" or len(left.parts) > 2
        if open_tuple:
            return Shape("bracket", left.parts), Shape("bracket", right.parts)
    if kinds == {"matrix", "bracket"}:
        matrix = left if left.kind == "matrix" else right
        if matrix.width == 1 or matrix.width == len(matrix.parts):
            return Shape("bracket", left.parts), Shape("bracket", right.parts)
    if kinds == {"set", "leaf"}:
        return Shape("set", left.parts or (left,)), Shape("set", right.parts or (right,))
    return left, right


def _compare_ordered(
    lefts: tuple[Shape, ...], rights: tuple[Shape, ...], judge: LeafJudge | None
) -> Comparison:
    if len(lefts) != len(rights):
        return Comparison(False)
    outcomes = []
    for left, right in zip(lefts, rights, strict=True):
        outcomes.append(_compare_shapes(left, right, (_text(left), _text(right)), judge))
        if outcomes[-1].equal is False:
            return outcomes[-1]
    return _together(outcomes)


def _compare_unordered(
    lefts: tuple[Shape, ...], rights: tuple[Shape, ...], judge: LeafJudge | None
) -> Comparison:
    """Match each part of the reference with a part not yet taken; greedy, since equality is transitive."""
    if len(lefts) != len(rights):
        return Comparison(False)
    free, outcomes, undecided = list(rights), [], []
    for left in lefts:
        found = _take(left, free, None)
        if found is None:
            undecided.append(left)
        else:
            outcomes.append(found)
    if undecided and judge is None:
        hopeless = any(all(_pair(left, right, None).equal is False for right in free) for left in undecided)
        return Comparison(False, "numeric") if hopeless else Comparison(None)
    for left in undecided:
        found = _take(left, free, judge)
        if found is None:
            return Comparison(False, "math-verify")
        outcomes.append(found)
    return _together(outcomes)


def _take(left: Shape, free: list[Shape], judge: LeafJudge | None) -> Comparison | None:
    for position, right in enumerate(free):
        outcome = _pair(left, right, judge)
        if outcome.equal:
            del free[position]
            return outcome
    return None


def _pair(left: Shape, right: Shape, judge: LeafJudge | None) -> Comparison:
    return _compare_shapes(left, right, (_text(left), _text(right)), judge)


def _together(outcomes: list[Comparison]) -> Comparison:
    tiers: list[Tier] = [outcome.tier for outcome in outcomes]
    tier: Tier = sorted(tiers, key=_DEPTH.__getitem__)[-1] if tiers else "literal"
    return Comparison(None if any(outcome.equal is None for outcome in outcomes) else True, tier)


def _text(shape: Shape) -> str:
    if shape.kind == "leaf":
        return shape.text
    inner = ",".join(map(_text, shape.parts))
    opening, closing = {"set": (r"\{", r"\}"), "bracket": tuple(shape.brackets or "()")}.get(
        shape.kind, ("", "")
    )
    return f"{opening}{inner}{closing}"


def _compare_leaves(reference: str, answer: str, judge: LeafJudge | None) -> Comparison:
    if reference == answer:
        return Comparison(True)
    times = _TIME.fullmatch(reference), _TIME.fullmatch(answer)
    if times[0] and times[1]:
        # math-verify calls any two times equal; half a day that one side leaves out is let pass.
        same_half = not (times[0][2] and times[1][2]) or times[0][2] == times[1][2]
        return Comparison(times[0][1] == times[1][1] and same_half)
    left, right = parse_quantity(reference), parse_quantity(answer)
    if left is not None and right is not None:
        return Comparison(quantities_agree(left, right), "numeric")
    left, right = left or _spelled(reference), right or _spelled(answer)
    if left is not None and right is not None:
        return Comparison(quantities_agree(left, right), "numeric")
    if left is None and right is None and _WORDS.fullmatch(reference) and _WORDS.fullmatch(answer):
        return Comparison(_same_words(reference, answer))
    return _judged(reference, answer, judge)


def _spelled(text: str) -> Quantity | None:
    value = parse_number_words(text) if text[-1:].isalpha() and len(text) < 60 else None
    return None if value is None else Quantity(value)


def _same_words(reference: str, answer: str) -> bool:
    """Articles, spaces and hyphens aside; `the circle` is `circle`."""

    def bare(text: str) -> str:
        return re.sub(r"^(?:an?|the)(?= )|[ '.-]", "", text)

    return bare(reference) == bare(answer)


def _judged(reference: str, answer: str, judge: LeafJudge | None) -> Comparison:
    if judge is None:
        return Comparison(None, "math-verify")
    return Comparison(judge(reference, answer), "math-verify")
