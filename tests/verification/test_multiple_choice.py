"""Multiple choice: the score from the verifier's probabilities, asked once for each question."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.engines.scripted import ScriptedEngine
from si_dagster.tasks.base import Grade, TaskRow
from si_dagster.verification.base import Batch, Item, VerificationMethod
from si_dagster.verification.catalogue import UnknownMethodError, load_method
from si_dagster.verification.multiple_choice import correct_shares

RIGHT = "1234341221434321"


class Puzzle:
    """A task of one line."""

    name: ClassVar[str] = "puzzle"
    grader_version: ClassVar[str] = "1"

    def rows(self, split, num_rows, seed):
        return [TaskRow(f"p{i}", split, f"{RIGHT[:i]}{'_' * (16 - i)}", RIGHT) for i in range(num_rows)]

    def generation_prompt(self, row, style):
        return f"?{row.question}A"

    def stop(self, style):
        return ()

    def verification_prompt(self, row, completion, method, style):
        return f"V{row.question}={completion}:"

    def verdict_labels(self, style):
        return ("Y", "N")

    def grade(self, references, completions):
        return [
            Grade(float(r == c), float(r == c), "scored", c, "literal")
            for r, c in zip(references, completions, strict=True)
        ]


@pytest.fixture
def items():
    completions = [RIGHT, "4" * 16, RIGHT, "", "12"]
    return [
        Item(f"{row.prompt_id}/{j}", row, completion)
        for row in Puzzle().rows("train", 6, 0)
        for j, completion in enumerate(completions)
    ]


def test_is_a_method():
    assert isinstance(load_method("multiple_choice"), VerificationMethod)


def test_every_item_gets_m_judgements_in_order(items):
    judgements = load_method("multiple_choice").verify(Batch(Puzzle(), "pico", items, ScriptedEngine(), 0, 3))
    assert [(j.generation_id, j.verification_index) for j in judgements] == [
        (item.generation_id, m) for item in items for m in range(3)
    ]
    assert {j.status for j in judgements} == {"scored"}
    assert all(j.proxy_utility is not None and 0 <= j.proxy_utility <= 1 for j in judgements)
    assert all(j.reply is None for j in judgements)


def test_a_sound_verifier_finds_the_right_answers(items):
    engine = ScriptedEngine(verifier_accuracy=1.0)
    judgements = load_method("multiple_choice").verify(Batch(Puzzle(), "pico", items, engine))
    assert [j.verdict == "correct" for j in judgements] == [item.completion == RIGHT for item in items]


def test_equal_questions_are_asked_once_and_order_does_not_matter(items):
    engine = ScriptedEngine()
    method = load_method("multiple_choice")
    scores = [j.proxy_utility for j in method.verify(Batch(Puzzle(), "pico", items, engine))]
    asked = engine.usage().prompt_tokens
    questions = {f"V{i.row.question}={i.completion}:" for i in items}
    assert len(questions) < len(items)
    assert asked == sum(map(len, questions))
    backwards = method.verify(Batch(Puzzle(), "pico", items[::-1], engine, 1))
    assert [j.proxy_utility for j in backwards[::-1]] == scores


def test_nothing_to_verify():
    assert load_method("multiple_choice").verify(Batch(Puzzle(), "pico", [], ScriptedEngine())) == []


def test_unknown_method():
    with pytest.raises(UnknownMethodError, match=r"'coin': allowed are cheap, cot_binary, .*multiple_choice"):
        load_method("coin")


@settings(deadline=None)  # the machine may be busy
@given(st.floats(-1e4, 0), st.floats(-1e4, 0))
def test_shares_of_two_labels_sum_to_one(correct, incorrect):
    shares = correct_shares(np.array([[correct, incorrect], [incorrect, correct]]))
    assert np.isfinite(shares).all()
    assert shares.sum() == pytest.approx(1.0)
    if min(correct, incorrect) > -600:  # where the plain formula still has numbers to divide
        plain = np.exp(correct) / (np.exp(correct) + np.exp(incorrect))
        assert shares[0] == pytest.approx(plain)
