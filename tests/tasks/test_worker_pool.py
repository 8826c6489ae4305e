"""Failing workers: a hang, a crash, a missing dependency and too much memory are told, never scored."""

import textwrap

import pytest

from si_dagster.tasks.grading.graders import math_grader
from si_dagster.tasks.grading.worker_pool import WorkerFailure, WorkerPool

WORKER = """
import os, sys, time
from si_dagster.tasks.grading.worker_pool import serve

def prepare():
    {prepare}
    def work(item):
        todo = item["do"]
        if todo == "hang":
            while True: pass
        if todo == "crash":
            os._exit(7)
        if todo == "raise":
            raise ValueError("no such thing")
        if todo == "print":
            print("noise")
        if todo == "sleep":
            time.sleep(0.5)
        if todo == "memory":
            return {{"size": len(bytearray(6 << 30))}}
        return {{"pid": os.getpid()}}
    return work

serve(prepare, float(sys.argv[1]))
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    def start(prepare="pass", **options):
        (tmp_path / "hostile_worker.py").write_text(textwrap.dedent(WORKER).format(prepare=prepare))
        made = WorkerPool("hostile_worker", **options)
        made.extra_path = str(tmp_path)
        pools.append(made)
        return made

    pools = []
    yield start
    for made in pools:
        made.close()


def test_failures_are_told_and_the_others_are_done(pool):
    items = [{"do": todo} for todo in ("fine", "hang", "raise", "crash", "print", "memory", "fine")]
    results = pool(num_workers=2, time_limit_s=0.3).map(items)
    told = [result.reason if isinstance(result, WorkerFailure) else "done" for result in results]
    assert told[0] == told[4] == told[6] == "done"
    assert told[1] == "took more than 0.3 s of CPU time"
    assert told[2] == "ValueError: no such thing"
    assert told[3] == "worker died with exit code 7"
    assert told[5].startswith("MemoryError")


def test_waiting_counts_for_nothing(pool):
    results = pool(num_workers=1, time_limit_s=0.2).map([{"do": "sleep"}] * 3)
    assert not any(isinstance(result, WorkerFailure) for result in results)
    assert len({result["pid"] for result in results}) == 1


def test_a_missing_dependency_is_the_reason_of_every_item(pool):
    results = pool(prepare="import no_such_library").map([{"do": "fine"}] * 3)
    assert {result.reason for result in results} == {"missing dependency: No module named 'no_such_library'"}


def test_a_worker_that_never_starts_is_given_up(pool):
    results = pool(prepare="os._exit(3)").map([{"do": "fine"}])
    assert "does not start" in results[0].reason


def test_no_work_starts_no_process(pool):
    made = pool()
    assert made.map([]) == []
    assert made._workers == []


def test_grades_of_failed_pairs_are_grader_errors(pool):
    graded = math_grader(pool=pool(prepare="import no_such_library")).grade(
        [r"\sqrt{12}", "7"], [r"\boxed{2\sqrt{3}}", r"\boxed{7}"]
    )
    assert (graded[0].utility, graded[0].strict_utility, graded[0].status) == (None, None, "grader_error")
    assert "no_such_library" in graded[0].detail
    assert (graded[1].utility, graded[1].status) == (1.0, "scored")


def test_a_tower_of_powers_is_no_wrong_answer_and_stops_nothing():
    grader = math_grader(time_limit_s=2.0)
    tower, plain = grader.grade(
        [r"x+1", r"\sqrt{12}"], [r"\boxed{9^{9^{9^{9^{9}}}}+x}", r"\boxed{2\sqrt{3}}"]
    )
    assert plain.utility == 1.0
    assert tower.status in ("grader_error", "scored")
    assert tower.utility in (None, 0.0)
    grader.comparer.pool = None
