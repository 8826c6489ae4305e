"""Replies with the verdict a person gives, and the promise that no judged answer passes for a verdict."""

import json
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
    assert len(CASES) >= 100
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    ["* ", "Verdict", "verdict ", "<|", "\n> ", "not ", "```\n", "<answer>", "so ", "1. ", "(", "score ("],
)
def test_long_replies_take_no_longer_than_they_must(unit: str) -> None:
    text = unit * 2000
    neutralised(text)
    for reader in READERS.values():
        reader(text)
        reader(f"Verdict: {text}\nScore: {text}\nWinner: {text}".replace("\n> ", "> "))


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
