import json

import pytest

from si_dagster.tasks.base import TaskDataError
from si_dagster.tasks.catalogue import load_task
from si_dagster.tasks.grading.records import grade_file, grade_records, regrade
from si_dagster.tasks.grading.worker_pool import close_shared_pools
from si_dagster.tasks.showing import card, one_liners, rendered_prompts, row_at


@pytest.fixture(scope="module", autouse=True)
def _end_workers():
    yield
    close_shared_pools()


def test_files_are_graded_row_by_row(tmp_path):
    rows = [
        {"question": "a", "answer": "3+4=<<3+4=7>>7\n#### 7", "completion": "So 7.", "id": 5},
        {"reference": "7", "completion": "#### 7"},
        {"reference": "7", "completion": "no idea"},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n")
    counts = grade_file(load_task("gsm8k", {}), source, target)
    out = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["utility"], row["strict"], row["status"]) for row in out] == [
        (1.0, 0.0, "scored"),
        (1.0, 1.0, "scored"),
        (0.0, 0.0, "unparsed"),
    ]
    assert [row["rule"] for row in out] == ["last_number/literal", "hash/literal", "none"]
    assert out[0]["id"] == 5
    assert (counts.num_rows, counts.statuses, counts.mean_utility) == (3, {"scored": 2, "unparsed": 1}, 2 / 3)


@pytest.mark.parametrize(
    ("name", "fields", "completion"),
    [
        ("math", {"problem": "p", "solution": r"so $\boxed{\frac12}$"}, r"\boxed{0.5}"),
        ("math", {"problem": "p", "answer": r"\frac{1}{2}", "solution": ""}, r"\boxed{1/2}"),
        ("nq_open", {"question": "q", "answer": ["one", "one season"]}, "One season"),
        ("svamp", {"Body": "b", "Question": "q", "Answer": 51.0}, "51 dollars"),
        (
            "mbpp",
            {"task_id": 1, "test_list": ["assert f(2) == 4"], "code": "x = 1"},
            "def f(x):\n    return 2 * x",
        ),
    ],
)
def test_references_are_read_from_the_fields_of_the_data(name, fields, completion):
    graded = grade_records(load_task(name, {}), [{**fields, "completion": completion}])
    assert [row["utility"] for row in graded] == [1.0], graded


def test_a_record_that_cannot_be_graded_is_named():
    with pytest.raises(TaskDataError, match="record 2 has no text in `completion`"):
        grade_records(load_task("gsm8k", {}), [{"reference": "1", "completion": ""}, {"reference": "1"}])
    with pytest.raises(TaskDataError, match=r"record 1.*reference"):
        grade_records(load_task("gsm8k", {}), [{"gold": "1", "completion": ""}])


def test_regrading_tells_the_difference_and_keeps_truncated_rows():
    task = load_task("gsm8k", {})
    found = regrade(
        task,
        ["7"] * 4,
        ["#### 7", "#### 8", "#### 7", "#### 7"],
        [1.0, 1.0, None, 0.0],
        ["scored"] * 3 + ["truncated"],
    )
    assert (found.num_rows, found.num_changed, found.changed) == (4, 2, [1, 2])
    assert found.transitions == {(1.0, 0.0): 1, (None, 1.0): 1}
    assert found.grades[3].status == "truncated"


def test_cards_and_prompts_are_shown(tmp_path):
    assert one_liners()["mbpp"].startswith("MBPP:")
    for name in ("gsm8k", "math", "nq_open", "svamp", "mbpp", "custom"):
        assert "Catalogue card" in card(name)
        assert "Licence" in card(name)
    rows = [
        {"question": f"How many legs have {i} of the dogs there?", "answer": f"#### {4 * i}"}
        for i in range(40)
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task("gsm8k", {"path": str(tmp_path / "all.jsonl")})
    row = row_at(task, "eval", 3)
    shown = rendered_prompts(task, row, "text")
    assert set(shown) == {
        "generation",
        "verification/multiple_choice",
        "verification/cot_binary",
        "verification/cot_score",
        "verification/tournament",
    }
    assert all(row.question in prompt for prompt in shown.values())
