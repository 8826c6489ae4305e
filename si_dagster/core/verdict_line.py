"""What the line behind a marker says: a verdict, a score from 1 to 10, or the name of a winner.

To take a rejection for an acceptance is the worst mistake, so the rules are uneven. "Correct" counts where it
is plainly said of the answer: only known words before it, an end or a reason behind it, and nothing in the
rest of the line that takes it back. "Incorrect", "wrong", "not correct" and a bare "no" count nearly
anywhere. What is in between is unreadable, `None`, never a guess. All of it is ours: the paper is silent.

It finds no markers and knows nothing of markup around them: that is `verdict`. It weighs no arguments, and
knows neither irony nor any language but English.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

Verdict = Literal["correct", "incorrect"]
Winner = Literal["A", "B"]

LOWEST_SCORE, HIGHEST_SCORE = 1, 10
LONGEST_CLAUSE = 30
"""Words before "correct"; who needs more is not plain, and each is looked at against those before it."""
MARKUP = " \t*_`~\"'()[]{}<>|#$"

_ANY_VERDICT = r"(?:(?:in)?correct|right|wrong|true|false)"
_OFFERED = re.compile(
    rf"\b{_ANY_VERDICT}\b\W{{0,6}}(?:\b(?:or|nor|vs)\b|[/|])\W{{0,6}}{_ANY_VERDICT}\b"
    r"|[(\[{<]\s{0,3}(?:in|un|not)\s{0,3}[)\]}>]\s{0,3}correct"
)
"""A choice that is not made: "correct or incorrect", "(in)correct"."""
_STRUCK = re.compile(r"~~[^~]{0,200}~~|<(?:del|strike)>[^<]{0,200}")
_COMMAND = re.compile(r"\\[a-z]{1,20}")
_PREFIXED = re.compile(r"\b(?:in|un|non|mis)[ _\-\u2010-\u2015]{1,3}correct")
_SAME_AS_NOT = re.compile(r"\b(?:far from|anything but|nowhere near|opposite of|less than)\b")
_BEYOND_DOUBT = re.compile(r"\b(?:no|without(?: an?| any)?|beyond(?: an?| any| all)?) (?:doubt|question)\b")
_OF_ALL = re.compile(r"\b(?:everything|all (?:the |of the )?steps are|every step is)\b")
_FULLY = re.compile(r"\b100 ?(?:%|percent\b)")
_TO_ME = re.compile(r"\bto (?:me|us)\b")
_TO_BE = re.compile(r"\b(?:to|must) be\b")
_WITH_NO = re.compile(r"\bwith no\b")
_IN_PART = re.compile(
    r"\b(?:for the most part|in (?:large |small )?part|up to a point|to some extent|to a degree|so far"
    r"|more or less|kind of|sort of|in a (?:sense|way)|at first|at best|in principle|in theory|on paper)\b"
)
_REPHRASED = (
    (_STRUCK, " "),
    (_COMMAND, " "),
    (_PREFIXED, "incorrect"),
    (_BEYOND_DOUBT, "indeed"),
    (_SAME_AS_NOT, "not"),
    (_IN_PART, "partly"),
    (_OF_ALL, "the answer is"),
    (_FULLY, "fully"),
    (_TO_ME, "indeed"),
    (_WITH_NO, "without"),
    (_TO_BE, "is"),
)
_CORRECT_IS_A_VALUE = re.compile(
    r"\bcorrect\b(?:[ *_]{1,4}[a-z]{1,12}){0,2}[ *_\"']{0,4}(?:[:=\u2192]|-{1,2}>?)[ *_\"'$(]{0,4}"
    r"[-+]?[0-9][0-9.,/]{0,20}+(?: {1,3}[a-z]{1,12})?[ *_\"')]{0,4}(?:$|[.;,])"
)
"""What is right instead, as in "correct: 12", and no word on what was judged; "correct: 3 + 2 = 5" is one."""
_CLAUSE_END = re.compile(
    r"[.,](?![0-9])|(?<![0-9])/|/(?![0-9])|[;:!()\[\]{}<>|=\t\u2013\u2014\u2192\u3002\uff0c]|(?<!\S)-{1,3}>?(?!\S)|-{2,3}"
)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[?\u274c\u2717\u2718\u2716\U0001f44e\U0001f6ab]")

_POSITIVE = frozenset(("correct", "right", "true"))
_NEGATIVE = re.compile(r"incorrect|(?:wrong(?:ly)?|false|untrue)$")
_NO = frozenset(
    [
        *(
            "no",
            "nope",
            "nah",
            "not",
            "neither",
            "never",
            "not quite",
            "not really",
            "not exactly",
            "not at all",
        ),
        *(
            "not so",
            "not entirely",
            "not yet",
            "absolutely not",
            "definitely not",
            "certainly not",
            "of course not",
        ),
    ]
)
"""Clauses that reject by themselves."""


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_NEGATORS = _words(
    "not never neither nor no none nothing nobody cannot hardly barely scarcely without",
    "isnt wasnt arent doesnt dont didnt cant wont",
)
_DOUBTS = _words(
    "if whether unless unclear unsure uncertain unable maybe perhaps possibly doubtful doubt would",
    "only merely solely just",
)
"""Before a verdict or a "not": it is not said, or not of the whole answer."""
_KNOWING = _words("sure certain confident clear know tell say confirm verify determine decide see")
"""Behind a "not" the verifier does not know, which is no verdict."""
_NOUNS = _words("answer solution response result one")
_COPULAS = _words("is was are it's that's answer's solution's seems appears looks as")
_BEFORE_CORRECT = (
    _NOUNS
    | _COPULAS
    | _words(
        "a an the this that it its of both and i i'd we am yes yep so thus therefore hence overall also",
        "again proposed given final provided submitted student student's candidate candidate's",
        "model's assistant's user's statement claim considered deemed judged found marked verified confirmed",
        "conclude believe think judge find say agree sure confident likely probably apparently still indeed",
        "mathematically arithmetically numerically logically factually actually clearly definitely certainly",
        "surely absolutely entirely completely fully totally perfectly exactly very quite",
    )
)
_BEHIND_CORRECT = _words(
    "because since as given due so and indeed overall here too again then now thus also therefore hence",
    "without",
)
_CONTRASTS = _words(
    "but however although though except yet despite nevertheless nonetheless while whereas albeit ",
    "otherwise instead apart unclear unsure uncertain maybe perhaps possibly partly partial partially",
    "mostly largely somewhat wait reconsider reconsidering retract",
    "\u274c \u2717 \u2718 \u2716 \U0001f44e \U0001f6ab",
)
"""Beside "correct" they take something of it back."""
_CONDITIONS = _words("if unless provided assuming supposing whether only almost nearly half")
"""The same, where a clause begins with them."""
_FAULT = re.compile(
    r"incorrect|wrong|erron|mistak|inaccura|inconsist|incomplet|flaw|fault|contradict|overlook|disagree|miscalc"
    r"|misread|unsupport|unjustif|refut|disprov|bogus|nonsens"
    r"|(?:false|untrue|errors?|invalid|fail(?:s|ed|ure|ing)?|miss(?:es|ed|ing)|lack(?:s|ed|ing)?|omit(?:s|ted)?"
    r"|forg[eo]t(?:s|ten)?|off|reject(?:s|ed)?|unfortunately|bad|nope)$"
)
_FREE_OF = _words("free zero avoids avoided")
_SOUND = _words(
    "correct right true hold holds follow follows work works match matches agree agrees valid sound enough",
    "complete fit fits solve solves satisfy satisfies add make makes support supported justified accurate",
)
_RETRACTED = re.compile(
    r"\b(?:no,? wait|wait,|second (?:thought|look)|scratch that|correction|take (?:that|it) back|i retract)"
)

_INTEGER = re.compile(r"([0-9]+)(?:\.0+)?(?![0-9a-z%^\u00bc-\u00be]|[.,'][0-9])")
_OUT_OF = re.compile(
    r"[\s*_,(\[{]{0,6}(?:points?|pts|marks?|stars?)?[\s*_,(\[{]{0,6}"
    r"(?:/|out of|(?:of|over|in)\s{0,3}(?=[0-9]))\s{0,3}(?P<top>(?:10(?:\.0+)?|ten)(?![0-9a-z.,]*[0-9%]))?"
)
_NO_PLAIN_NUMBER = re.compile(
    r"\s{0,3}(?:(?:-|\u2013|\u2014|~|/|\+|\*|\u00d7|\.\.|\b(?:x|to|and|vs)\b|\bor\b(?: maybe| perhaps)?)?"
    r"\s{0,3}[0-9]|%|percent|per cent|minus|plus|less|\+(?!\+)|-{1,2}>|\u2192|\u21d2|\?)"
)
"""Behind a number: a range, a sum, a percentage, a second number."""
_CHANGED = re.compile(
    r"\b(?:revis|chang|correct(?:ed|ion)|wait|no,|maybe|perhaps|rather|instead|make (?:it|that)|lower|rais)"
    r"[^0-9\n]{0,25}[0-9]|\b(?:scale|max)[^0-9\n]{0,25}(?:1\s?[-\u2013]\s?)?+(?!10\b)[0-9]"
)
_SCALE = re.compile(
    r"\b1\b.{0,30}\bto\s{1,4}10\b|\b(?:[01]\s?(?:-|\u2013|to)\s?)?+(?!10\b)[0-9]{1,4}[ -](?:points? )?scale"
)
"""The question repeated, or another scale than 1 to 10."""
_LESS_OR_MORE = re.compile(r"[<>]\s{0,3}[0-9]+(?!\s{0,3}[>0-9])")

_WINNER = re.compile(
    r"(?:(?:(?i:the|proposed|answer|option|response|solution|candidate|assistant|model|student|is))\b[\s:*_`(\[{\"']*){0,4}"
    r"(?P<name>[ABab])\b(?P<rest>.*)"
)
_TWO_WINNERS = re.compile(r"\s*(?:and|or|nor|vs|/|&|,|\||=|~)\W{0,6}(?:[Aa]nswer\s+)?[AB]\b")
_BEHIND_WINNER = re.compile(
    r"\W{0,4}$|\s*[.,;:!=)\]}*_`\"'(\u2013\u2014-]"
    r"|\s+(?:because|since|as|for|by|due|over|wins?"
    r"|(?:it )?is (?:the )?(?:correct|right|better|best|winner|more|closer))\b"
)
_LOSES = re.compile(
    r"\W{0,6}(?:ties?|tied|draws?|equal|neither|both|wrong|incorrect|false|loses|fails)\b"
    r"|\W{1,6}(?:answer\s{1,3})?[ab]\W{0,4}$|\s{0,3}(?:[-=]{1,2}>|\u2192)"
)
_OTHER_WINS = {
    name: re.compile(rf"\b{other} (?:is|was) (?:the )?(?:correct|right|better|best|winner)")
    for name, other in (("A", "B"), ("B", "A"))
}


def said_verdict(line: str) -> Verdict | None:
    """The verdict of a line.

    Examples:
        >>> said_verdict("Correct. The steps hold and no error was made"), said_verdict("correct (it is 12)")
        ('correct', 'correct')
        >>> said_verdict("No, the correct number is 12"), said_verdict("neither correct nor complete")
        ('incorrect', 'incorrect')
        >>> said_verdict("correct, but the unit is missing"), said_verdict("the correct answer is 5")
        (None, None)
    """
    text = unicodedata.normalize("NFKC", line).lower()
    if _OFFERED.search(text):
        return None
    clauses = _clauses(text)
    found = [_polarity(clause) for clause in clauses]
    at = next((i for i, polarity in enumerate(found) if polarity), None)
    if at is None or found[at] == "unsure" or _RETRACTED.search(text):
        return None
    if found[at] == "incorrect":
        return "incorrect"
    if _CORRECT_IS_A_VALUE.search(text) or _names_a_value(clauses, at):
        return None
    taken_back = any(map(_hesitates, clauses[:at])) or any(map(_takes_back, clauses[at:]))
    return None if taken_back else "correct"


def _clauses(text: str) -> list[list[str]]:
    """The words of each clause; what is struck out or only markup is gone."""
    for pattern, words in _REPHRASED:
        text = pattern.sub(words, text)
    clauses = (_WORD.findall(clause) for clause in _CLAUSE_END.split(text))
    return [clause for clause in clauses if clause]


def _negates(word: str) -> bool:
    return word in _NEGATORS or word.endswith("n't")


def _polarity(clause: Sequence[str]) -> Verdict | Literal["unsure"] | None:
    """What one clause says of the answer; `None` without such a word, `unsure` where it is not plain."""
    at = next((i for i, word in enumerate(clause) if word in _POSITIVE or _NEGATIVE.match(word)), None)
    if at is None:
        return "incorrect" if " ".join(clause[:4]) in _NO else None
    before, after = clause[:at], clause[at + 1 :]
    negations = sum(map(_negates, before))
    if not _DOUBTS.isdisjoint(before) or (negations and not _KNOWING.isdisjoint(before)):
        return "unsure"
    if clause[at] not in _POSITIVE:
        if not negations:
            return "unsure" if after[:1] in (["?"], ["or"]) else "incorrect"
        without = [word for word in before if word not in ("a", "an", "the")]
        if negations > 1 or not (without[-1] == "not" or without[-1].endswith("n't")):
            return "unsure"  # "not entirely wrong", "nothing wrong"
        return _affirmed([word for word in before if not _negates(word)] + ["is"], after)
    if negations:
        return "incorrect" if negations == 1 else "unsure"
    return _affirmed(before, after)


def _affirmed(before: Sequence[str], after: Sequence[str]) -> Literal["correct", "unsure"]:
    """Whether "correct" between these words is said of the answer, and not of a step or of another answer."""
    if len(before) > LONGEST_CLAUSE or not all(
        word in _BEFORE_CORRECT or _is_number_of_answer(before, i) for i, word in enumerate(before)
    ):
        return "unsure"
    if after and after[0] in _NOUNS:
        if before and _COPULAS.isdisjoint(before):
            return "unsure"  # "the correct answer" names one
        after = after[1:]
    return "correct" if not after or after[0] in _BEHIND_CORRECT else "unsure"


def _is_number_of_answer(words: Sequence[str], at: int) -> bool:
    """Whether a word is the value in "the answer of 12 is": "12 is correct" may well reject another one."""
    return words[at][0].isdigit() and not _NOUNS.isdisjoint(words[:at])


def _names_a_value(clauses: Sequence[Sequence[str]], at: int) -> bool:
    """Whether "correct" seems to be said of a number beside it: "12, correct", "correct answer, 12"."""
    ahead = [word for clause in clauses[:at] for word in clause]
    bare = any(word[0].isdigit() for word in ahead) and _NOUNS.isdisjoint([*ahead, *clauses[at]])
    following = clauses[at + 1][0] if at + 1 < len(clauses) else ""
    names = clauses[at][-1] in _NOUNS and _COPULAS.isdisjoint(clauses[at])
    return (bare and ahead[0] not in _BEHIND_CORRECT) or (names and following[:1].isdigit())


def _hesitates(clause: Sequence[str]) -> bool:
    """Whether a clause before "correct" speaks against it."""
    denies = any(map(_negates, clause)) and not any(map(_FAULT.match, clause))
    return denies or not _DOUBTS.isdisjoint(clause) or _takes_back(clause)


def _takes_back(clause: Sequence[str]) -> bool:
    """Whether a clause at or behind "correct" finds fault with the answer, or leaves the verdict open."""
    if not _CONTRASTS.isdisjoint(clause) or clause[0] in _CONDITIONS or "?" in clause:
        return True
    if not any(map(_FAULT.match, clause)) and (
        _negates(clause[-1]) or (len(clause) == 2 and _negates(clause[0]) and not clause[1][0].isdigit())
    ):
        return True  # "correct, not really", "the answer is not"
    return any(_is_fault(clause, i) or _is_denied(clause, i) for i in range(len(clause)))


def _is_fault(clause: Sequence[str], at: int) -> bool:
    """Whether a fault is named, and not that there is none: "no error was made"."""
    if not _FAULT.match(clause[at]) or clause[at + 1 : at + 2] == ["free"]:
        return False
    near = list(takewhile(lambda word: word not in ("and", "with"), clause[max(0, at - 5) : at][::-1]))
    return sum(_negates(word) or word in _FREE_OF for word in near) % 2 == 0


def _is_denied(clause: Sequence[str], at: int) -> bool:
    """Whether a good word stands behind a "not": "it does not hold"; but "no other digit fits"."""
    near = clause[max(0, at - 4) : at]
    return clause[at] in _SOUND and any(_negates(word) and word not in ("no", "without") for word in near)


def said_score(line: str) -> int | None:
    """The score of a line, a whole number from 1 to 10.

    Examples:
        >>> said_score("8/10"), said_score("8 (out of 10)"), said_score("7, since 3 of 4 steps hold")
        (8, 8, 7)
        >>> said_score("8 (out of 100)"), said_score("4 of 5"), said_score("7-8"), said_score("8 -> 3")
        (None, None, None, None)
    """
    text = line.lower().replace("\\boxed", "")
    if _SCALE.search(text) or _LESS_OR_MORE.match(text.lstrip(" \t*_`")):
        return None
    text = text.strip(MARKUP)
    match = _INTEGER.match(text)
    if match is None:
        return None
    rest = text[match.end() :].lstrip("*_`)]}$\"' ")
    out_of = _OUT_OF.match(text, match.end()) or _OUT_OF.match(rest)
    if out_of and not out_of["top"]:
        return None
    if not out_of and (_NO_PLAIN_NUMBER.match(rest) or _CHANGED.search(rest)):
        return None
    score = int(match[1]) if len(match[1]) < 3 else 0
    return score if LOWEST_SCORE <= score <= HIGHEST_SCORE else None


def said_winner(line: str) -> Winner | None:
    """The answer that a line names; a tie or two names are unreadable.

    Examples:
        >>> said_winner("A because B is wrong"), said_winner("Answer B."), said_winner("A, not B")
        ('A', 'B', 'A')
        >>> said_winner("A tie"), said_winner("A is wrong, so B"), said_winner("A or B")
        (None, None, None)
    """
    match = _WINNER.match(line.replace("\\boxed", "").strip(MARKUP))
    if match is None:
        return None
    name, rest = match["name"], match["rest"]
    if _TWO_WINNERS.match(rest.lstrip(MARKUP)) or not _BEHIND_WINNER.match(rest):
        return None
    words = [word for clause in _clauses(rest.lower()) for word in clause]
    if not _CONTRASTS.isdisjoint(words) or "?" in words or _LOSES.match(rest.lower()):
        return None
    if _OTHER_WINS[name.upper()].search(rest):
        return None
    # A small letter may be an article: "a tie".
    if name.islower() and rest.strip(MARKUP + ".!,;"):
        return None
    return "A" if name in "Aa" else "B"
