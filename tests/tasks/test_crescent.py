"""Prompts of a policy's own making: what is rejected, how votes become references, when a policy gives up."""

import json

import pytest

from si_dagster.engines.base import Completion, SamplingParams
from si_dagster.stages.made_prompts import made_rows
from si_dagster.tasks.base import MakesPrompts, ReadsFiles, Task, TaskDataError
from si_dagster.tasks.catalogue import TaskOptionError, load_task

HELD = "Kim has 12 green apples and buys 5 more of them today, how many apples has she?"
NEW = [
    "Ann reads 3 books each week for 4 weeks, how many books does she read in all?",
    "Bob walks 2 miles to school and 2 miles back on each of 5 days, how far does he walk?",
]


class _Scripted:
    """Makes up questions from a list, and answers each with given votes."""

    def __init__(self, questions, votes):
        self.questions, self.votes, self.baits = iter(questions), votes, 0

    def generate(self, prompts, sampling):
        replies = []
        for prompt in prompts:
            if prompt.key.startswith("bait-"):
                self.baits += 1
                text = next(self.questions, "")
                replies.append([Completion(text, 5, -1.0, "length" if text.endswith("...") else "stop")])
            else:
                assert sampling.n == len(self.votes)
                replies.append([Completion(vote, 5, -1.0, "stop") for vote in self.votes])
        return replies


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"q": HELD, "a": "17"},
        *({"q": f"Question number {i} of a list, yes?", "a": "1"} for i in range(20)),
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "train.jsonl").write_text(json.dumps({"q": "None of these.", "a": "1"}))
    shots = [{"question": "How much is 40 and 2 in the sum of both numbers?", "solution": "#### 42"}]
    (tmp_path / "shots.json").write_text(json.dumps(shots))
    options = {
        "task": "custom",
        "num_votes": 5,
        "path": str(file),
        "train_path": str(tmp_path / "train.jsonl"),
        "fewshot_path": str(tmp_path / "shots.json"),
        "num_fewshot": 1,
        "grader": "number",
        "columns": {"question": "q", "reference": "a"},
    }
    return load_task("crescent", options)


def test_it_is_a_task_that_makes_prompts_and_reads_files(task):
    assert isinstance(task, Task)
    assert isinstance(task, MakesPrompts)
    assert isinstance(task, ReadsFiles)
    assert len(task.data_files()) == 3
    assert len(task.rows("eval", 21, 0)) == 21
    assert (
        task.bait_prompt("text") == "Question: How much is 40 and 2 in the sum of both numbers?\n\nQuestion:"
    )
    with pytest.raises(TaskDataError, match="made by a policy"):
        task.rows("train", 1, 0)


def test_repeats_and_fragments_are_rejected_and_votes_become_references(task):
    drawn = [f" {NEW[0]}", HELD.lower(), "Hm?", "A question that was cut off in the...", NEW[0], NEW[1]]
    engine = _Scripted(drawn, ["#### 12", "It is 12.", "#### 20", "no idea", "so 4 * 3 = 12"])
    rows, making = made_rows(task, engine, "text", 2, SamplingParams(), seed=0)
    assert [row.question for row in rows] == NEW
    assert {row.reference for row in rows} == {"12"}
    assert {row.columns["agreement"] for row in rows} == {3 / 5}
    assert vars(making) == {"num_drawn": 6, "num_unreadable": 2, "num_repeated": 2, "num_without_answer": 0}
    assert len({row.prompt_id for row in rows}) == 2
    (grade,) = task.grade([rows[0].reference], ["The answer is 12."])
    assert grade.utility == 1.0


def test_questions_without_a_readable_answer_go(task):
    with pytest.raises(TaskDataError, match=r"only 0 of 1 training prompts in 20 tries .*1 had no readable"):
        made_rows(task, _Scripted(NEW[:1], ["no idea"] * 5), "text", 1, SamplingParams(), seed=0)


def test_tasks_without_votes_and_unknown_options_are_refused():
    with pytest.raises(TaskDataError, match="no majority vote over answers of task 'mbpp'"):
        load_task("crescent", {"task": "mbpp"})
    with pytest.raises(TaskDataError, match="no majority vote over answers of task 'sudoku4'"):
        load_task("crescent", {"task": "sudoku4"})
    with pytest.raises(TaskOptionError, match="options are"):
        load_task("crescent", {"task": "gsm8k", "colour": "red"})
