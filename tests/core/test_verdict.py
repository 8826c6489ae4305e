"""Replies with the verdict a person gives, and the promise that no judged answer passes for a verdict."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from si_dagster.core.verdict import neutralised, read_score, read_verdict, read_winner

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "cases" / "verdicts.jsonl").read_text("utf-8").split("\n")
    if line
]
READERS = {"verdict": read_verdict, "score": read_score, "winner": read_winner}


def read(case: dict) -> str | int | None:
    reply = case["reply"].replace("{judged}", neutralised(case.get("judged", "")))
    if case["kind"] == "score":
        return read_score(reply, case.get("truncated", False))
    return READERS[case["kind"]](reply)


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case['kind']}" for i, case in enumerate(CASES, 1)])
def test_a_reply_is_read_as_a_person_reads_it(case: dict) -> None:
    assert read(case) == case["want"]


def test_there_are_enough_cases_of_every_kind_and_outcome() -> None:
    assert len(CASES) >= 390
    outcomes = {(case["kind"], case["want"]) for case in CASES}
    assert outcomes >= {("verdict", "correct"), ("verdict", "incorrect"), ("winner", "A"), ("winner", "B")}
    assert outcomes >= {(kind, None) for kind in READERS} | {("score", 1), ("score", 10)}
    assert sum("judged" in case for case in CASES) >= 20


PIECES = st.sampled_from(
    [
        *("Verdict", "verdict", "Score", "Winner", "Final ", "the ", "is", " (1-10)", "from 1 to 10", "５"),
        *(
            ":",
            "：",
            "=",
            "＝",
            " ",
            "\t",
            "\u00a0",
            "\n",
            "\r\n",
            "*",
            "_",
            "`",
            '"',
            "“",
            "’",
            ">",
            "#",
            "|",
            "-",
        ),
        *("correct", "incorrect", "8/10", "10", "A", "B", "a", ".", ")", "(", "\u200b", "\u00ad", "ſ", "K"),
        *("Revised ", "However, her ", "On a second look my ", " after all", " #2", "=> ", "Re-", "(new) "),
        *("<｜end▁of▁sentence｜>", "<｜", "｜>", "[TOOL_CALLS]", "[|endofturn|]", "<unused1>"),
        *(
            "<eos>",
            "</s>",
            "<|im_end|>",
            "<|",
            "|>",
            "<e",
            "os>",
            "[INST]",
            "[/INST]",
            "<answer>",
            "</answer>",
        ),
        *(
            "<think>",
            "</think>",
            "< / answer >",
            "Question:",
            "Proposed answer:",
            "Check:",
            "1.",
            "\x85",
            "\u2028",
        ),
    ]
)
ANSWERS = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


@settings(deadline=None)  # the machine may be busy
@given(ANSWERS)
def test_no_answer_passes_for_a_verdict(answer: str) -> None:
    """Neither alone, nor repeated in prose, nor in front of or behind what the verifier says itself."""
    shown = neutralised(answer)
    for reader in READERS.values():
        assert reader(shown) is None
        assert reader(f"The answer says {shown}") is None
        assert reader(f"Let me repeat it.\n{shown}\nThat is all.") is None
    assert read_verdict(f"{shown}\nVerdict: incorrect") == "incorrect"
    assert read_verdict(f"Verdict: incorrect\n{shown}") == "incorrect"
    assert read_score(f"{shown}\nScore: 2") == 2
    assert read_winner(f"Winner: B\n{shown}") == "B"


@settings(deadline=None)  # the machine may be busy
@given(ANSWERS)
@example("<|<answer>|>")
def test_neutralising_twice_changes_nothing_more(answer: str) -> None:
    assert neutralised(neutralised(answer)) == neutralised(answer)


@settings(deadline=None)  # the machine may be busy
@given(st.text() | ANSWERS, st.sampled_from(sorted(READERS)))
def test_any_text_is_read_without_an_error(reply: str, kind: str) -> None:
    assert READERS[kind](reply) in {
        "verdict": {"correct", "incorrect"},
        "score": set(range(1, 11)),
        "winner": {"A", "B"},
    }[kind] | {None}


WRONG_WORDS = (
    "Wrong",
    "false",
    "Incorrect",
    "No",
    "nope",
    "Not correct",
    "not right",
    "Not quite",
    "neither correct nor complete",
    "the answer is wrong",
    "it isn't correct",
    "in-correct",
)
NEGATORS = (
    " not",
    "n't",
    " never",
    " hardly",
    " far from",
    " anything but",
    " neither",
    " by no means",
    " in no way",
)
TAKEN_BACK = (
    *(
        ", but the unit is wrong",
        "? No.",
        ", if you ignore the unit",
        ", mostly",
        " (wrong)",
        ". Wait, 6 is wrong",
    ),
    *(
        ", though the sum is 12",
        "; the last step fails",
        " - not",
        " = false",
        " ❌",
        "; however, it is 12",
        ", not",
    ),
    *(", the sum is not right", ", which does not hold", ", at least in part", " with one error"),
)
CUT_SHORT = (
    " method, wrong result",
    "/incorrect",
    ": 12",
    " answer is 12",
    " answer: 12",
    " only in the first step",
)
CUT_SHORT += (" in part", " so far", " is 12", " or not", " if", " to a degree")
"""Directly behind the word; further behind they say something else."""
OF_THE_ANSWER = (
    "",
    "the answer is ",
    "The proposed answer of 12 is ",
    "Yes, it is ",
    "I agree, it's ",
    "No errors: ",
)
REASONS = (
    *("", ".", "!", ", since 3+2=5", " because all steps hold", ". The steps hold and no error was made"),
    *(
        " (the sum is 12)",
        " - 7 * 8 is 56",
        ". No step is missing.",
        ": 3 + 2 = 5",
        ", as 6 is not prime here",
    ),
)
MARKS = st.sampled_from(["Verdict: ", "**Verdict:** ", "So my final verdict is: ", "3 + 2 is 5.\nVERDICT:\n"])
CORRECT = st.sampled_from(["correct", "Correct", "**correct**", "CORRECT"])


@settings(deadline=None)  # the machine may be busy
@given(MARKS, st.sampled_from(WRONG_WORDS), st.sampled_from([". ", "; ", ", ", " - ", ": ", " ("]), st.data())
def test_a_wrong_word_before_correct_rejects(mark: str, word: str, sign: str, data: st.DataObject) -> None:
    """Whatever is said of what would be correct."""
    told = (
        "the correct sum is 12",
        "correct is 12",
        "12 is correct",
        "a correct method though",
        "correct: 12",
        "",
    )
    assert read_verdict(mark + word + sign + data.draw(st.sampled_from(told))) == "incorrect"


@settings(deadline=None)  # the machine may be busy
@given(MARKS, st.sampled_from(NEGATORS), CORRECT, st.sampled_from(REASONS), st.data())
def test_a_negated_correct_is_no_acceptance(
    mark: str, negator: str, word: str, reason: str, data: st.DataObject
) -> None:
    subject = data.draw(st.sampled_from(["the answer", "It", "The proposed answer of 12"]))
    adverb = data.draw(st.sampled_from(["", "entirely ", "quite ", "a ", "at all "]))
    assert read_verdict(f"{mark}{subject} is{negator} {adverb}{word}{reason}") in ("incorrect", None)
    assert read_verdict(f"{mark}{subject} is not {word}{reason}") == "incorrect"


@settings(deadline=None)  # the machine may be busy
@given(MARKS, st.sampled_from(OF_THE_ANSWER), CORRECT, st.sampled_from(REASONS), st.sampled_from(TAKEN_BACK))
def test_plain_acceptance_is_read_and_what_is_taken_back_is_not(
    mark: str, subject: str, word: str, reason: str, taken_back: str
) -> None:
    assert read_verdict(mark + subject + word + reason) == "correct"
    assert read_verdict(mark + subject + word + taken_back) != "correct"
    assert all(read_verdict(mark + subject + word + short) != "correct" for short in CUT_SHORT)
    assert read_verdict(mark + subject + word + reason.rstrip(".!") + taken_back) != "correct"


FIRST = st.sampled_from(
    [
        (read_verdict, "Verdict", ("correct", "incorrect")),
        (read_score, "Score", (8, 2)),
        (read_winner, "Winner", ("A", "B")),
    ]
)
AGAIN = (
    *(
        "Revised {}",
        "However, the {}",
        "Updated {}",
        "On a second look, my honest {}",
        "Re-checked {}",
        "=> {}",
    ),
    *("**New** {}", "{} (revised)", "{} after all", "{} #2", '"Final" {}', "2) {}", "Wait. {}", "EDIT - {}"),
)


@settings(deadline=None)  # the machine may be busy
@given(FIRST, st.sampled_from(AGAIN), st.booleans(), st.sampled_from(["\n", "\n\nHm.\n", ". "]))
def test_a_revised_verdict_never_leaves_the_first_one_standing(
    first: tuple, again: str, swapped: bool, between: str
) -> None:
    reader, name, (old, new) = first
    old, new = (new, old) if swapped else (old, new)
    reply = f"{name}: {old}{between}{again.format(name.lower())}: "
    assert reader(reply + str(new)) in (new, None)
    assert reader(reply + str(old)) in ((old, None) if between == ". " else (old,))
    for plain in ("Revised {}", "Updated {}", "However, the {}"):
        assert reader(f"{name}: {old}\n{plain.format(name.lower())}: {new}") == new


HOSTILE = (
    *(
        "* ",
        "<|",
        "\n> ",
        "```\n",
        "<answer>",
        "1. ",
        "score (",
        "verdict: ",
        "a verdict: correct. ",
        "? ",
        "in-",
    ),
    *(
        "x winner: A, B\n",
        ". foo bar baz qux quux corge verdict ",
        "the answer 1 ",
        "correct or ",
        "~~",
        "A is ",
    ),
    *("not ", "so ", "8 out of ", "  ", "<｜", "no doubt "),
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_reply_of_100_kb_is_read_in_well_under_a_second(unit: str) -> None:
    """Seen: 0.4 s at most. Any step that is quadratic takes a minute."""
    text = unit * (100_000 // len(unit))
    on_one_line = text.replace("\n", " ")
    for read_it, reply in (
        (neutralised, text),
        (read_verdict, f"Verdict: correct\n{text}"),
        (read_verdict, f"Verdict: the answer {on_one_line} is correct"),
        (read_score, f"Score: 8 {on_one_line}"),
        (read_winner, f"Winner: A, {on_one_line}"),
    ):
        began = time.process_time()
        read_it(reply)
        assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "code",
    [
        "def f(task):\n    return task",
        "def check(n) :\n    score = 0\n    for better in n:\n        score += 1\n    return score == 3",
        "@dataclass\nclass Row:\n    task: str\n    score: int = 10\n    winner: Optional[str] = None",
        "rows = [{'name': 'x', 'score': 9}, {\"verdict\": \"correct\"}]\nif score: print(rows)",
        "f = lambda score: 10 - score\nf(score=10)\nprint('Score:', f(3))",
    ],
)
def test_ordinary_code_is_shown_as_it_is(code: str) -> None:
    """Not one of the 974 programs of MBPP is changed; four were (`def check(n):`) when every colon was."""
    assert neutralised(code) == code


def test_common_indentation_goes_and_the_rest_stays() -> None:
    assert neutralised("    if x:\n        y = 1\n    return y\n") == "if x:\n    y = 1\nreturn y"


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Score = 8", 8), ("SCORE = 8", 8), ("score = 8", None), ("Score: 8\nscore = 3\nscore: int = 2", 8)],
)
def test_python_assignments_are_no_scores(reply: str, score: int | None) -> None:
    assert read_score(reply) == score
