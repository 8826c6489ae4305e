r"""Numbers as people and models write them, read exactly.

Reads integers with separators, decimals, fractions, mixed numbers, scientific notation, repeating
decimals, percent and money, as a `Fraction` with no rounding. It does not evaluate: `2+3`, roots and
pi are left to math-verify.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_GROUPED = r"\d{1,3}(?:,\d{3})+"
_DECIMAL = rf"(?:{_GROUPED}|\d+)?\.\d+|(?:{_GROUPED}|\d+)\.?"
_PLAIN = re.compile(rf"([-+]?)({_DECIMAL})(?:[eE]([-+]?\d{{1,3}}))?")
_TEN_POWER = re.compile(
    rf"([-+]?)(?:({_DECIMAL})(?:\\times|\\cdot|\*|×))?10(?:\^|\*\*)(?:\{{([-+]?\d{{1,3}})\}}|([-+]?\d{{1,3}}))"
)
_FRACTION = re.compile(
    r"([-+]?)(?:(\d+)(?:\+|(?=\\))|(\d+) )?"
    r"(?:\\frac\{([-+]?\d+)\}\{(-?\d+)\}|(\d+)/(-?\d+)|\((-?\d+)\)/\((-?\d+)\))"
)
_DECIMAL_RATIO = re.compile(
    rf"([-+]?)(?:\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}|({_DECIMAL})/({_DECIMAL}))"
)
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}


@dataclass(frozen=True)
class Quantity:
    """One number.

    Attributes:
        value: The exact value as written; for `50%` it is 50.
        percent: Whether a percent sign stood beside it.
        decimals: Digits after the decimal point, 0 for integers and fractions.
    """

    value: Fraction
    percent: bool = False
    decimals: int = 0

    def canonical(self) -> str:
        """`7`, `7/2`; the same string for every way to write the number.

        >>> Quantity(Fraction(7, 2)).canonical()
        '7/2'
        """
        return str(self.value)

    def spelled(self) -> str:
        """As `canonical`, but a decimal stays one: how many places it has decides what it agrees with.

        >>> Quantity(Fraction(1, 2), decimals=2).spelled(), Quantity(Fraction(1, 2)).spelled()
        ('0.5', '1/2')
        """
        if not self.decimals or self.value.denominator == 1:
            return self.canonical()
        scaled = abs(self.value.numerator) * 10**self.decimals // self.value.denominator
        digits = str(scaled).zfill(self.decimals + 1)
        sign = "-" if self.value < 0 else ""
        return f"{sign}{digits[: -self.decimals]}.{digits[-self.decimals :]}".rstrip("0")


@lru_cache(maxsize=100_000)
def parse_quantity(text: str) -> Quantity | None:
    r"""The number that the whole text is, or `None` where it is anything else.

    Args:
        text: Without units and LaTeX spacing, as `normal_form` leaves it. A single space may part
            a mixed number (`3 1/2`).

    Examples:
        >>> parse_quantity("10,000.50").value
        Fraction(20001, 2)
        >>> parse_quantity(r"3\frac{1}{2}").value
        Fraction(7, 2)
        >>> parse_quantity(r"1.5\times10^{3}").value
        Fraction(1500, 1)
        >>> parse_quantity("12,34") is None
        True
    """
    if len(text) > 200:  # int() of a very long digit string is quadratic and refused above 4300 digits
        return None
    percent = text.endswith("%")
    if percent:
        text = text[:-1].removesuffix("\\").rstrip()
    if match := _PLAIN.fullmatch(text):
        return _plain(match, percent)
    while text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    if not any(char.isdigit() for char in text):
        return None
    for reader in (_ten_power, _fraction, _decimal_ratio, _repeating):
        value = reader(text)
        if value is not None:
            return Quantity(value, percent)
    return None


def _plain(match: re.Match[str], percent: bool) -> Quantity:
    sign, digits, exponent = match.groups()
    digits = digits.replace(",", "")
    value = Fraction(int(digits)) if digits.isdecimal() else Fraction(digits.removesuffix("."))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return Quantity(-value if sign == "-" else value, percent, len(digits.partition(".")[2]))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _ten_power(text: str) -> Fraction | None:
    match = _TEN_POWER.fullmatch(text)
    if not match:
        return None
    sign, mantissa, braced, bare = match.groups()
    base = Fraction((mantissa or "1").replace(",", "").removesuffix("."))
    return _signed(sign, base * Fraction(10) ** int(braced or bare))


def _fraction(text: str) -> Fraction | None:
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    sign, joined, spaced, *parts = match.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0:
        return None
    return _signed(sign, int(joined or spaced or 0) + Fraction(top, bottom))


def _decimal_ratio(text: str) -> Fraction | None:
    match = _DECIMAL_RATIO.fullmatch(text)
    if not match:
        return None
    sign, *parts = match.groups()
    top, bottom = (Fraction(part.replace(",", "").removesuffix(".")) for part in parts if part is not None)
    return _signed(sign, top / bottom) if bottom else None


def _repeating(text: str) -> Fraction | None:
    match = _REPEATING.fullmatch(text)
    if not match:
        return None
    sign, whole, head, cycle = match.groups()
    tail = Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(head))
    return _signed(sign, Fraction(f"{whole or 0}.{head or 0}") + tail)


def parse_number_words(text: str) -> Fraction | None:
    """The value of an English number word or of a number with a multiplier word.

    >>> parse_number_words("twenty-five"), parse_number_words("1.2 million")
    (Fraction(25, 1), Fraction(1200000, 1))
    """
    total = Fraction(0)
    words = text.lower().replace("-", " ").split()
    for position, word in enumerate(words):
        number = parse_quantity(word) if word[0].isdigit() and position == 0 else None
        if number is not None:
            total += number.value
        elif word in _WORDS:
            total += _WORDS[word]
        elif word in MULTIPLIERS and position > 0:
            total *= MULTIPLIERS[word]
        else:
            return None
    return total if words else None


def quantities_agree(reference: Quantity, answer: Quantity) -> bool:
    """Whether two numbers are the same answer.

    Equal values agree whether or not one carries a percent sign (a question that asks for percent is
    answered by `50` and by `50%`); `0.5` agrees with `50%`. A decimal of six or more places agrees with
    the exact number it rounds. The conventions are ours.

    Examples:
        >>> third = parse_quantity("1/3")
        >>> [quantities_agree(third, parse_quantity(text)) for text in ("0.333333", "0.33")]
        [True, False]
    """
    if reference.value == answer.value:
        return True
    if reference.percent != answer.percent:
        scaled = 100 * (answer.value if reference.percent else reference.value)
        return scaled == (reference.value if reference.percent else answer.value)
    places = max(reference.decimals, answer.decimals)
    return places >= 6 and abs(reference.value - answer.value) <= Fraction(1, 10**places)
