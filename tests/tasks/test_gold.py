"""Gold answers of every task pass their own grader, and wrong ones fail.

A part of each set by default; all of it where SI_DAGSTER_ALL_GOLD=1 (about four minutes).
"""

import os
from fractions import Fraction
from pathlib import Path

import pytest

from si_dagster.tasks.catalogue import load_task
from si_dagster.tasks.grading.records import grade_records
from si_dagster.tasks.grading.worker_pool import close_shared_pools
from si_dagster.tasks.sources import read_records

DATA = Path(os.environ.get("SI_DAGSTER_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))
ALL = os.environ.get("SI_DAGSTER_ALL_GOLD") == "1"
FILES = {
    "gsm8k/train.jsonl": ("gsm8k", {}, 7473, lambda row: row["answer"]),
    "gsm8k/test.jsonl": ("gsm8k", {}, 1319, lambda row: row["answer"]),
    "math/test.jsonl": ("math", {}, 5000, lambda row: row["solution"]),
    "nq_open/dev.jsonl": ("nq_open", {}, 3610, lambda row: row["answer"][-1]),
    "svamp/SVAMP.json": ("svamp", {}, 1000, lambda row: f"#### {row['Answer']}"),
    "mbpp/mbpp.jsonl": ("mbpp", {}, 974, lambda row: row["code"]),
    "mbpp/sanitized-mbpp.json": ("mbpp", {}, 427, lambda row: row["code"]),
}
PARTS = {"mbpp": 12, "math": 8}
"""Every how-manieth row is taken by default; all of the others."""


@pytest.fixture(scope="module", params=FILES)
def gold(request):
    file = DATA / request.param
    if not file.is_file():
        pytest.skip(f"no {file}: set SI_DAGSTER_TEST_DATA to the folder of the test data")
    name, options, size, completion_of = FILES[request.param]
    rows = read_records(file)
    assert len(rows) == size
    rows = rows[:: 1 if ALL else PARTS.get(name, 1)]
    yield load_task(name, options), [{**row, "completion": completion_of(row)} for row in rows]
    close_shared_pools()


def test_gold_answers_pass(gold):
    task, rows = gold
    graded = grade_records(task, rows)
    assert [row for row in graded if row["utility"] != 1.0] == []


def test_answers_of_the_next_row_fail(gold):
    """Chance agreement is small: 1% on small numbers, more only where answers are short words."""
    task, rows = gold
    shifted = [
        {**row, "completion": other["completion"]}
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    graded = grade_records(task, shifted[:400] if task.name != "mbpp" else shifted[:40])
    assert sum(row["utility"] or 0.0 for row in graded) <= 0.03 * len(graded)


@pytest.mark.parametrize("file", ["gsm8k/test.jsonl", "svamp/SVAMP.json"])
def test_off_by_one_fails(file):
    if not (DATA / file).is_file():
        pytest.skip(f"no {DATA / file}: set SI_DAGSTER_TEST_DATA")
    task = load_task(FILES[file][0], {})
    rows = [{**row, "completion": ""} for row in read_records(DATA / file)]
    values = [Fraction(task.reference_of(row)) for row in rows]
    wrong = [{**row, "completion": f"#### {value + 1}"} for row, value in zip(rows, values, strict=True)]
    assert {row["utility"] for row in grade_records(task, wrong)} == {0.0}
