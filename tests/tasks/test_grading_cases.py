import json
from collections import defaultdict
from pathlib import Path

import pytest

from si_dagster.tasks.grading.graders import GRADERS
from si_dagster.tasks.grading.worker_pool import close_shared_pools

CASES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "cases/grading.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def grades():
    rows = defaultdict(list)
    for case in CASES:
        rows[case["grader"]].append(case)
    graded = {}
    for name, cases in rows.items():
        columns = [[case[key] for case in cases] for key in ("reference", "completion")]
        for case, grade in zip(cases, GRADERS[name]().grade(*columns), strict=True):
            graded[name, case["reference"], case["completion"]] = grade
    yield graded
    close_shared_pools()


@pytest.mark.parametrize("case", CASES, ids=[f"{case['grader']}-{case['why']}" for case in CASES])
def test_verdict_is_the_one_a_person_gives(case, grades):
    grade = grades[case["grader"], case["reference"], case["completion"]]
    assert grade.utility == case["utility"], grade
    if "strict" in case:
        assert grade.strict_utility == case["strict"], grade


def test_enough_cases_are_kept():
    assert len(CASES) >= 150
    assert {case["utility"] for case in CASES} == {0, 1}
