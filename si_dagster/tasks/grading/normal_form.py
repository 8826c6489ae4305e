r"""One spelling for each way of writing the same mathematical answer.

Removes what carries no meaning in a final answer (math delimiters, spacing, `\left`, units, degree
signs, a leading `x =`, a base subscript) and spells the rest one way. It rewrites text only: nothing is
evaluated or reordered, and two different spellings may still be equal.
"""

import re
from functools import lru_cache

MAX_ANSWER_LENGTH = 1000
"""Characters; a longer answer is cut, since no reference is near it and pattern time grows with it."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ",
        "∞": r"\infty ", "°": "", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
        "∈": r"\in ", "±": r"\pm ", "√": r"\sqrt ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "²": "^2", "³": "^3", "θ": r"\theta ",
        "’": "'", "“": '"', "”": '"', "£": "", "€": "", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    }
)  # fmt: skip
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ('"', '"'))
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|ensuremath)(?![A-Za-z])\.?"
)
_SPACING = re.compile(r"\\(?:[,;:! ]|q?quad(?![a-z])|hspace\{[^{}]*\}|phantom\{[^{}]*\}|hfill|null)|~")
_THIN_GROUP = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\!,|\\,|\\!|,\s)\s*(?=\d{3}(?!\d))")
_FRAC_NAME = re.compile(r"\\[dtc](frac|binom)(?![a-z])")
_LOG_E = re.compile(r"\\log_\s*(?:\{\s*e\s*\}|e)")
_BARE_SQRT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_PLAIN_SQRT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_FONT = re.compile(r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathcal|bold|bf|rm|operatorname\*?)\s*\{([^{}]*)\}")  # fmt: skip  # noqa: E501
_BARE_FONT = re.compile(r"\\(?:rm|bf|it|sf|cal)(?![a-zA-Z])")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-z])|(?<=[\d})])\s*degrees?\b)")
_BASE = re.compile(r"(?<=[0-9A-F])_\s*(?:\{\s*(?:\\text\s*\{)?\s*[a-z0-9]+\s*\}?\s*\}|\d+)")
_BASE_NUMBER = re.compile(r"[-+]?[0-9A-F]+(?:\.[0-9A-F]+)?_\s*(?:\{[^{}]*(?:\{[^{}]*\})?\}|\d+)")
_LABEL = re.compile(r"\\?[A-Za-z]+'?(?:_\{?\w+\}?)?(?:\([a-zA-Z](?:,[a-zA-Z])*\))?")
_UNIT_WORD = (
    r"(?:square|cubic|sq\.?|cu\.?)?\s*(?:units?|inch(?:es)?|in\.?|feet|foot|ft\.?|yards?|yd|miles?|mi|mph|mm|cm|dm|km|"
    r"(?:centi|milli|kilo|deci)?(?:meters?|metres?|grams?|lit(?:er|re)s?)|kg|gm|mg|lbs?\.?|pounds?|ounces?|oz|"
    r"tons?|gallons?|seconds?|secs?|minutes?|mins?|hours?|hrs?|hr|days?|weeks?|months?|years?|dollars?|cents?|USD|"
    r"degrees?|radians?|percent|points?|ways?|people|students?|times|items?)"
)
_UNIT = re.compile(
    rf"(?<=[\d}})\]!a-z])\s+{_UNIT_WORD}(?:\s*\^\s*\{{?[23]\}}?|\s*[23])?(?:\s*(?:/|per)\s*[a-z]+(?:\^\{{?2\}}?)?)?\s*\.?$",
    re.IGNORECASE,
)
_PHRASE_UNIT = re.compile(
    r"(?<=[\d}])\s+(?!(?:and|or|to|sin|cos|tan|log|sec|csc|cot|sqrt|mod)\b)"
    r"[a-z][a-z.]{2,}(?:[ /-]+[a-z.]+){0,3}(?:\^\{?[23]\}?)?$",
    re.IGNORECASE,
)
_FONT_UNIT = re.compile(r"(?<=[\d}a-z%])\s*\\(?:text(?:rm|bf)?|mbox|hbox|mathrm|rm)\s*\{(?!\s*(?:and|or|i)\s*\})([^{}\d]*)\}(?:\s*\^\s*\{?\s*-?[1-4]\s*\}?)?\s*\.?$")  # fmt: skip  # noqa: E501
_JOINED_UNIT = re.compile(r"(?<=\d)(?:cm|mm|km|kg|mph|ft|lbs?|inches|hours?|minutes?)(?:\^\{?[23]\}?)?$")
_AND_OR = re.compile(r",?\s*(?<![a-z\\])(?:and|or)(?![a-z])\s*", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][A-Za-z'.]+(?:[ -][A-Za-z][A-Za-z'.]*)*|[A-Za-z]")
_TIME = re.compile(r"(\d{1,2}:\d{2})\s*([ap])\.?\s*m\.?", re.IGNORECASE)
_COMMAND = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])")


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Start, end and content of each `\boxed{...}` with balanced braces, outermost only, in order.

    A box that never closes (a completion that ran out of tokens) is left out.

    >>> find_boxes(r"so \boxed{\frac{1}{2}}.")
    [(3, 22, '\\frac{1}{2}')]
    """
    boxes, position = [], 0
    while match := _BOX.search(text, position):
        end = closing_brace(text, match.end() - 1)
        if end < 0:
            position = match.end()
            continue
        boxes.append((match.start(), end + 1, text[match.end() : end]))
        position = end + 1
    return boxes


_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def closing_brace(text: str, opening: int) -> int:
    """Index of the brace that closes the one at `opening`, -1 where none does; escaped braces aside."""
    depth = 0
    for match in _BRACES.finditer(text, opening):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


@lru_cache(maxsize=100_000)
def normal_form(answer: str) -> str:
    r"""The answer in one spelling; empty where nothing is left.

    Args:
        answer: What extraction found, or a reference, LaTeX or plain.

    Returns:
        A string without spaces (words keep one between them). Percent signs stay, as `%`.

    Examples:
        >>> normal_form(r"\$4,\!000"), normal_form(r"\[ \boxed{42} \]"), normal_form(r"15\mbox{ cm}^2")
        ('4,000', '42', '15')
        >>> normal_form(r"x = \dfrac12"), normal_form(r"2516_8"), normal_form(r"90^\circ")
        ('\\frac{1}{2}', '2516', '90')
        >>> normal_form(r"\left( 3, \tfrac{\pi}{2} \right)")
        '(3,\\frac{\\pi}{2})'
    """
    text = _unwrap(answer[:MAX_ANSWER_LENGTH].translate(_UNICODE))
    text = _spell_latex(text)
    text = _drop_units(text)
    text = _take_right_side(text)
    if _WORD.fullmatch(text) or _TIME.fullmatch(text):
        return _spell_words(text)
    return _squeeze(text)


def _unwrap(text: str) -> str:
    """Take off delimiters, boxes, emphasis and closing punctuation, from outside in, as often as needed."""
    for _ in range(8):
        before = text
        text = text.strip().rstrip(".,;:") if not text.rstrip().endswith(r"\right.") else text.strip()
        text = text.removesuffix("\\")
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            if (
                text.startswith(left)
                and text.endswith(right)
                and len(text) > len(left + right) - 1
                and left not in inner
            ):
                text = inner
        boxes = find_boxes(text)
        if len(boxes) == 1 and boxes[0][0] == 0 and boxes[0][1] == len(text):
            text = boxes[0][2]
        if text == before:
            break
    return text.replace("**", "")


def _spell_latex(text: str) -> str:
    text = text.replace("\\\\\n", "\\\\").replace("\n", " ")
    text = _THIN_GROUP.sub(",", text)
    for start, end, content in reversed(find_boxes(text)):
        text = text[:start] + content + text[end:]
    text = _SIZES.sub("", text)
    matrix = r"\begin" in text
    text = text.replace(r"\\ ", r"\\").replace(r"\$", "").replace(r"\%", "%")
    if not matrix:
        text = _SPACING.sub(" ", text)
    text = text.replace(r"\lbrace", r"\{").replace(r"\rbrace", r"\}").replace("{,}", ",")
    text = text.replace("$", "").replace(r"\(", "").replace(r"\)", "").replace(r"\[", "").replace(r"\]", "")
    text = _FRAC_NAME.sub(r"\\\1", text)
    text = _LOG_E.sub(r"\\ln", text)
    text = (
        text.replace(r"\leq", r"\le")
        .replace(r"\geq", r"\ge")
        .replace(r"\neq", r"\ne")
        .replace(r"\le slant", r"\le")
    )
    text = _PLAIN_SQRT.sub(r"\\sqrt{\1}", text)
    text = _BARE_SQRT.sub(r"\\sqrt{\1}", text)
    text = _spell_fractions(text, r"\frac")
    text = _spell_fractions(text, r"\binom") if r"\binom" in text else text
    text = _DEGREES.sub("", text)
    text = re.sub(r"(?<=\d)\s*(?:percent|per cent)\b", "%", text)
    return text.strip()


_ARGUMENT = re.compile(r"\s*(\\sqrt\{[^{}]*\}|\\[A-Za-z]+|[0-9A-Za-z])")


def _spell_fractions(text: str, name: str) -> str:
    r"""`\frac12`, `\frac1{72}`, `\frac{\sqrt6}3` and `\frac {1} {2}` all with two braced arguments."""
    position = 0
    while (position := text.find(name, position)) >= 0:
        position += len(name)
        arguments, end = [], position
        for _ in range(2):
            start = end + len(text[end:]) - len(text[end:].lstrip())
            if text[start : start + 1] == "{" and (close := closing_brace(text, start)) >= 0:
                arguments.append(text[start + 1 : close].strip())
                end = close + 1
            elif match := _ARGUMENT.match(text, end):
                arguments.append(match[1])
                end = match.end()
        if len(arguments) == 2:
            text = f"{text[:position]}{{{arguments[0]}}}{{{arguments[1]}}}{text[end:]}"
    return text


def _drop_units(text: str) -> str:
    """Fonts off, units off; a base subscript off where the whole answer is one number."""
    if _BASE_NUMBER.fullmatch(text):
        text = _BASE.sub("", text)
    timed = _TIME.search(_FONT.sub(r" \1 ", text))
    if _FONT_UNIT.search(text) and re.search(r"\d|\\pi|\\sqrt", text) and not timed:
        text = _FONT_UNIT.sub("", text)
    text = _FONT.sub(r" \1 ", text)
    text = _BARE_FONT.sub(" ", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;")
    text = re.sub(r"(?<=[\d}])\s*\^\s*\{?[23]\}?$", lambda m: m[0], text)
    if re.search(r"\d|\\pi|\\sqrt|\}", text):
        text = _AND_OR.sub(", ", text)
        text = _UNIT.sub("", text)
        text = _PHRASE_UNIT.sub("", text) if not _TIME.search(text) else text
        text = _JOINED_UNIT.sub("", text)
    return text.strip()


def _take_right_side(text: str) -> str:
    r"""`x = 5` is 5, `f(x) = 2x` is 2x, `x \in [1,2]` is [1,2], `2+3 = 5` is 5; real equations stay."""
    head, mark, tail = text.partition(r"\in ")
    if mark and _LABEL.fullmatch(head.strip()):
        return tail.strip()
    sides = re.split(r"(?<![<>!\\])=(?!=)", text)
    if len(sides) < 2 or ("," in sides[0] and "(" not in sides[0]):
        return text
    if "," in text and len(sides) > 2:
        return text
    if (
        not _LABEL.fullmatch(sides[0].strip().replace(" ", ""))
        and not _is_arithmetic(sides[0])
        and len(sides) == 2
    ):
        return text
    return sides[-1].strip()


def _is_arithmetic(text: str) -> bool:
    return re.search(r"[a-zA-Z]", text.replace("times", "").replace("frac", "").replace("cdot", "")) is None


def _spell_words(text: str) -> str:
    """Lower case for words; a lone letter keeps its case, since `A` is a choice and `a` a variable."""
    if match := _TIME.fullmatch(text):
        return f"{match[1]} {match[2].lower()}m"
    text = " ".join(text.replace('"', "").split()).rstrip(".")
    return text if len(text) == 1 else text.lower()


def _squeeze(text: str) -> str:
    """Spaces out, except where they part two numbers, two words or a command from a letter."""
    text = _COMMAND.sub(lambda m: m[1] + "\0", text)
    text = re.sub(r"(?<=\d) (?=\d+/\d)", "\0", text)
    text = re.sub(r"(?<=[A-Za-z]{2}) (?=[A-Za-z]{2})", "\0", text)
    text = text.replace(" ", "").replace("\0", " ")
    if re.fullmatch(r"\([A-Za-z]\)", text):
        return text[1:-1]
    return re.sub(r"(?<![\d,.])\.(?=\d)", "0.", text)
