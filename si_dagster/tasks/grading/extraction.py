r"""Where the final answer stands in a completion, and by which rule it was found.

Two ways: `strict_*` wants the format the prompt asked for, `flexible_*` takes what a person would. A
completion that goes on to a new question (few-shot echo) is read up to there. It finds text and does
not judge it; a number that no rule finds is not guessed.
"""

import itertools
import re
from typing import NamedTuple

from si_dagster.tasks.grading.normal_form import find_boxes, normal_form
from si_dagster.tasks.grading.quantity import MULTIPLIERS, parse_number_words, parse_quantity


class Extraction(NamedTuple):
    """An answer as it stands in the text, and the rule that found it."""

    answer: str
    rule: str


_ECHO_LINE = re.compile(
    r"\n[ \t]*(?:[#>*_]+[ \t]*)?"
    r"(?:Question|Problem|Q|Exercise|Example|User|Human|Instruction|Student|Input|Passage)"
    r"(?:[ \t]*#?\d+)?[ \t]*(?:\*\*)?[ \t]*[:.)](?!\d)"
)
_ECHO_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|user|im_start|start_header_id|end)\|>|</s>|<eos>|<end_of_turn>"
    r"|\[/?INST\]|I hope (?:it|this) is correct\.?"
)
_TOKEN_SIGNS = ("<", "INST]", "I hope")
"""One of them is in every match of `_ECHO_TOKEN`; looked for first, since most completions have none."""
_MARK = re.compile(r"\\boxed|####|\banswer\b", re.IGNORECASE)
_RETRACTION = re.compile(
    r"\b(?:wait|actually|correction|mistake|sorry|apologi[sz]e|incorrect|"
    r"re-?check|double[- ]check|let me re|oops|"
    r"on second thought|that(?:'s| is) (?:not right|wrong)|should be)\b",
    re.IGNORECASE,
)
_NUMBER = (
    r"[-−+]?\s?(?:\\?\$\s?)?[-−]?(?:\d{1,3}(?:(?:,|\{,\}|\\,|\\!|,\\!)\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    r"(?:[eE][-+]?\d{1,2}(?![a-zA-Z\d]))?|[-−]?(?:\\?\$\s?)?\.\d+"
)
_NUMBERS = re.compile(_NUMBER)
_GOES_ON = re.compile(r"\s?\^|[xyz](?![A-Za-z])")
"""What makes a number a part of an expression: `36^2`, `36x`."""
_MINUS = re.compile(r"\b(?:minus|negative)\s*$", re.IGNORECASE)
_RICH_NUMBER = re.compile(
    r"[-−]?\s?(?:\\?\$)?\d+\s+\d+\s?/\s?\d+"
    r"|\s?\\?\$\s?\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?!\d)"
    r"|[-−]?\s?(?:\\?\$\s?)?\d*\s?\\[dt]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\d)"
    r"|[-−]?\s?(?:\\?\$)?\d+\s?/\s?\d+(?![\d/])"
    rf"|(?:{_NUMBER})(?:\s?(?:\\times|\\cdot|×|\*|x)\s?10\s?\^\s?(?:\{{-?\d+\}}|-?\d+)"
    rf"|\s+(?:{'|'.join(MULTIPLIERS)})\b|\s?\\?%|\s?[kK](?![a-zA-Z]))?"
)
_HASH = re.compile(
    r"####[ \t]*(?:\*\*|\$|\\\(|\\\[)?[ \t]*((?:\\?\$|£|€|\\boxed\{|[-−+.]|\s)*\d[^\n]*|\\[a-z]*frac[^\n]*)"
)
_STRICT_HASH = re.compile(
    r"####[ \t]*\$?[ \t]*([-−]?\$?[ \t]?(?:[\d,]*\.?\d+|\d[\d,]*\.?)(?:/\d+)?)[ \t]*(?=\n|$|\.(?:\s|$))"
)
_SAYS = ("nswer", "esult", "olution", "NSWER")
"""Parts of the words an answer sentence has; looked for first, since most completions have none."""
_IS = re.compile(
    r"(?:[Aa]nswer|ANSWER|[Rr]esult|[Ss]olution)"
    r"(?:[ \t]+(?:to|for|of|in)\b[^.:=\n]{0,80}?)?[ \t]*(?:\*\*)?[ \t]*"
    r"(?:(?:is|are|was|would be|will be|must be|should be|equals|comes to|IS)\b"
    r"(?:[ \t]*(?:therefore|thus|then|simply|just|also))?"
    r"(?![ \t]+(?:not|wrong|right|correct|incorrect|found|given|obtained|a|an|in|by)\b)"
    r"|[:=])"
    r"[ \t]*(?:\*\*)?[ \t]*[:=]?[ \t]*\n?[ \t]*"
)
_A_LINE = re.compile(r"(?:^|\n)[ \t]*(?:\*\*)?A(?:\*\*)?:[ \t]*(?:\*\*)?[ \t]*")
_SENTENCE_GAP = re.compile(r"(?<=[.!?])\s+(?=[A-Z$*])")
_LONE_NUMBER = re.compile(r"[-−]?\$?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?\.?")
_SENTENCE_END = re.compile(r"(?<![A-Z])[.!?](?=\s+[A-Z]|\s*$|\s*\n)|\n\s*\n|\n(?=[ \t]*[A-Z*#-])")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$((?:[^$\\]|\\.)+?)\$", re.DOTALL)
_JOIN = re.compile(
    r"[\s,;$.)(\\\]\[]*(?:(?:and|or|\\text\{\s*(?:and|or)\s*\}|\\quad|[a-zA-Z]\s*=)[\s,$\\(\[]*)*"
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_EXPRESSION = re.compile(r"\\(?:sqrt|cdot|times|pi|frac)|\^|\d\s*[*+]\s*\d")
_LETTER = re.compile(r"\(?([A-Z])\)?(?=[\s.:,)*]|$)")


def answer_part(text: str) -> str:
    r"""The completion up to where it starts another question or ends its turn.

    A marker before which there is nothing is the model repeating the question and is passed over, and so
    is a numbered one (`Question 2:`) before any marked answer, which belongs to the reasoning.

    >>> answer_part("#### 18\n\nQuestion: Tom has 3 pens.\nAnswer: #### 7")
    '#### 18\n'
    """
    echoes = [*_ECHO_LINE.finditer(text)]
    if any(sign in text for sign in _TOKEN_SIGNS):
        echoes = sorted([*echoes, *_ECHO_TOKEN.finditer(text)], key=re.Match.start)
    for match in echoes:
        before = text[: match.start()]
        numbered = match[0].rstrip(" \t:.)*")[-1:].isdigit()
        if before.strip() and (not numbered or _MARK.search(before)):
            return before
    return text


def strict_number(text: str) -> Extraction | None:
    """The number of the first line `#### <number>`, the format of GSM8K's solutions; nothing else counts."""
    start = text.find("####")
    match = _STRICT_HASH.match(text, start) if start >= 0 else None
    return Extraction(match[1], "hash") if match else None


def flexible_number(text: str) -> Extraction | None:
    r"""The number a person would take for the final answer of a word problem.

    In this order: a `#### n` line, a box, "the answer is n" or "Answer: n", a bold number near the end,
    the right side of the last equation of the last sentence with a number, its last number.

    Examples:
        >>> flexible_number("The answer is $29.00. She had 3 left to spend.")
        Extraction(answer='$29.00', rule='answer_is')
        >>> flexible_number(r"So \[ \boxed{42} \]")
        Extraction(answer='42', rule='boxed')
        >>> flexible_number("She has 5 + 3 = 8 eggs after 2 days.")
        Extraction(answer='8', rule='equation')
    """
    part = answer_part(text)
    return (
        _hashed(part) or _boxed_number(part) or _said_number(part) or _bold_number(part) or _last_number(part)
    )


def _hashed(part: str) -> Extraction | None:
    start = part.find("####")
    if start < 0:
        return None
    matches = [match for match in _HASH.finditer(part, start) if not _is_heading(match[1])]
    if not matches:
        return None
    chosen = matches[0]
    for match in matches[1:]:
        if _RETRACTION.search(part, chosen.end(), match.start()):
            chosen = match
    number = _number_of(chosen[1])
    return Extraction(number, "hash") if number else None


def _is_heading(line: str) -> bool:
    """`#### 1. Count the eggs` and `#### 2) Sell them` are markdown headings, `#### 18 eggs a day` is not."""
    return re.match(r"\s*\d+\s*[.):]\s*\S*[A-Za-z]", line) is not None


def _boxed_number(part: str) -> Extraction | None:
    if "\\boxed" not in part and "\\fbox" not in part:
        return None
    for _, _, content in reversed(find_boxes(part)):
        started = _RICH_NUMBER.search(content)
        goes_on = started is not None and _GOES_ON.match(content, started.end()) is not None
        if parse_quantity(normal_form(content)) or _EXPRESSION.search(content) or goes_on:
            return Extraction(content.strip(), "boxed")
        if number := _number_of(content) or _word_number(content):
            return Extraction(number, "boxed")
    return None


def _statements(part: str) -> list[re.Match[str]]:
    """Where the text says what the answer is."""
    places = [place for word in _SAYS if (place := part.find(word)) >= 0]
    return [*_IS.finditer(part, max(0, min(places) - 1))] if places else []


def _said_number(part: str) -> Extraction | None:
    matches = _statements(part)
    if not matches and ("A:" in part or "A**:" in part):
        matches = [*_A_LINE.finditer(part)]
    for match in reversed(_before_new_problem(part, matches)):
        end = _SENTENCE_END.search(part, match.end())
        said = part[match.end() : end.start() if end else len(part)]
        number = _number_of(said) or _word_number(said)
        if number:
            return Extraction(number, "answer_is")
    return None


def _before_new_problem(part: str, matches: list[re.Match[str]]) -> list[re.Match[str]]:
    """Drop answers behind an unmarked new question: a blank line, then a paragraph that asks something."""
    for first, second in itertools.pairwise(matches):
        between = part[first.end() : second.start()]
        gap = between.find("\n\n")
        if gap >= 0 and "?" in between[gap:] and not _RETRACTION.search(between):
            return matches[: matches.index(second)]
    return matches


def _bold_number(part: str) -> Extraction | None:
    if "**" not in part:
        return None
    tail = part.rstrip()
    tail = tail[tail.rfind("\n\n") + 1 :] if "\n\n" in tail else tail
    for content in reversed(_BOLD.findall(tail)):
        if number := _number_of(content):
            return Extraction(number, "bold")
    return None


def _last_number(part: str) -> Extraction | None:
    end = len(part)
    while end > 0:  # line by line from the end, since nearly always the last one has it
        start = part.rfind("\n", 0, end) + 1
        line = part[start:end].strip()
        if _LONE_NUMBER.fullmatch(line):
            return Extraction(line.rstrip("."), "last_number")
        for sentence in _sentences(line):
            if found := _number_in(sentence):
                return found
        end = start - 1
    return None


def _number_in(sentence: str) -> Extraction | None:
    _, equals, tail = sentence.rpartition("=")
    if equals and (match := _RICH_NUMBER.search(tail)):
        return Extraction(match[0].strip(), "equation")
    numbers = [match[0] for match in _RICH_NUMBER.finditer(sentence)]
    return Extraction(numbers[-1].strip(), "last_number") if numbers else None


def _sentences(line: str) -> list[str]:
    """The sentences of a line that hold a digit, last one first."""
    pieces = _SENTENCE_GAP.split(line[-2000:])
    return [piece for piece in reversed(pieces) if any(map(str.isdigit, piece))]


def _number_of(said: str) -> str | None:
    """The number in a few words that state an answer: behind their last `=`, else their first one."""
    said = (
        said.rpartition("=")[2] if "=" in said and any(c.isdigit() for c in said.rpartition("=")[2]) else said
    )
    match = _RICH_NUMBER.search(said)
    if match is None or _GOES_ON.match(said, match.end()):
        return None
    number = match[0].strip()
    return f"-{number}" if _MINUS.search(said, 0, match.start() + 1) and number[0] not in "-−" else number


def _word_number(said: str) -> str | None:
    words = re.findall(r"[A-Za-z-]+", said)[:8]
    for start in range(len(words)):
        for end in range(len(words), start, -1):
            if parse_number_words(" ".join(words[start:end])) is not None:
                return " ".join(words[start:end])
    return None


def strict_math(text: str) -> Extraction | None:
    r"""The answer in the formats the prompts ask for: a box, or Minerva's final sentence.

    >>> strict_math("Final Answer: The final answer is $x=2$. I hope it is correct.")
    Extraction(answer='$x=2$', rule='final_sentence')
    """
    sentence = re.search(r"Final Answer: The final answer is(.*?)\.? I hope it is correct", text, re.DOTALL)
    if sentence:
        return Extraction(sentence[1].strip(), "final_sentence")
    return _boxed_math(answer_part(text)) if "\\boxed" in text else None


def flexible_math(text: str) -> Extraction | None:
    r"""The expression a person would take for the final answer.

    The last of: boxes (several in one sentence are one list), "the final answer is"; then "the answer is",
    a `####` line, a bold answer, the last formula of the last sentence that has one, its last number.

    Examples:
        >>> flexible_math(r"Hence $x=\boxed{1}$ or $x=\boxed{-2}$.")
        Extraction(answer='1, -2', rule='boxed')
        >>> flexible_math(r"The answer is $\frac{1}{2}$ because 3 of 6 are red.")
        Extraction(answer='$\\frac{1}{2}$', rule='answer_is')
    """
    part = answer_part(text)
    boxed = _boxed_math(part) if "\\boxed" in part or "\\fbox" in part else None
    if boxed:
        return boxed
    return _said_math(part) or _hashed_math(part) or _bold_math(part) or _last_math(part)


def _boxed_math(part: str) -> Extraction | None:
    boxes = [box for box in find_boxes(part) if box[2].strip()]
    if not boxes:
        return None
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = part[box[1] : group[0][0]]
        if len(between) > 60 or not _JOIN.fullmatch(between) or "\n\n" in between:
            break
        group.insert(0, box)
    return Extraction(", ".join(dict.fromkeys(content.strip() for _, _, content in group)), "boxed")


def _said_math(part: str) -> Extraction | None:
    for match in reversed(_before_new_problem(part, _statements(part))):
        if found := _stated(part[match.end() :]):
            return Extraction(found, "answer_is")
    return None


def _stated(rest: str) -> str | None:
    """The expression at the beginning of `rest`: the formulas of its first sentence, else its words."""
    first = _MATH_SPAN.search(rest)
    if first and len(rest[: first.start()].split()) <= 6 and not _SENTENCE_END.search(rest[: first.start()]):
        end = first.end()
        while (following := _MATH_SPAN.search(rest, end)) and _JOIN.fullmatch(rest[end : following.start()]):
            end = following.end()
        return rest[first.start() : end].replace("$ and $", "$, $").replace("$ or $", "$, $")
    end = _SENTENCE_END.search(rest)
    said = (rest[: end.start()] if end else rest).strip().strip("*").strip()
    said = re.split(r"(?<=[\w)}\]])\s+(?:because|since|as|when|which|where|for)\b", said)[0]
    return said if said and len(said) <= 200 else None


def _hashed_math(part: str) -> Extraction | None:
    match = re.search(r"####[ \t]+([^\n]+)", part)
    return (
        Extraction(match[1].strip(), "hash")
        if match and len(match[1]) < 60 and not _is_heading(match[1])
        else None
    )


def _bold_math(part: str) -> Extraction | None:
    tail = part.rstrip()
    tail = tail[tail.rfind("\n\n") + 1 :] if "\n\n" in tail else tail
    bold = _BOLD.findall(tail)
    return Extraction(bold[-1].strip(), "bold") if bold and len(bold[-1]) < 60 else None


def _last_math(part: str) -> Extraction | None:
    spans = [*_MATH_SPAN.finditer(part[-2000:])]
    if spans:
        content = next(group for group in spans[-1].groups() if group is not None)
        if "=" in content and "," not in content:
            content = content.rpartition("=")[2]
        return Extraction(content.strip(), "last_formula")
    found = _last_number(part)
    if found:
        return found
    words = part.strip()
    return Extraction(words, "whole") if words and len(words) <= 40 and "\n" not in words else None


def choice_letter(text: str) -> Extraction | None:
    """The letter of a multiple-choice answer: in a box, after "the answer is", or alone.

    >>> choice_letter("I think the answer is (B).")
    Extraction(answer='B', rule='answer_is')
    """
    part = answer_part(text)
    for _, _, content in reversed(find_boxes(part)):
        if match := re.search(r"\(?\b([A-Z])\b\)?", content):
            return Extraction(match[1], "boxed")
    for match in reversed(_statements(part)):
        if letter := _LETTER.match(part[match.end() :].lstrip("*$ \n")):
            return Extraction(letter[1], "answer_is")
    letter = _LETTER.match(part.strip().lstrip("*"))
    return Extraction(letter[1], "alone") if letter else None


def first_line(text: str) -> Extraction | None:
    """A short factual answer: what follows "the answer is" or `A:`, else the first line with a word in it."""
    part = answer_part("\n" + text.strip())
    match = _A_LINE.search(part) or re.match(r"\s*(?:the )?answer(?: is|:)\s*", part, re.IGNORECASE)
    line = next(
        (line.strip() for line in part[match.end() if match else 0 :].split("\n") if line.strip()), ""
    )
    return Extraction(line, "said" if match else "first_line") if line else None
