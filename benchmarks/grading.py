"""How fast answers are graded, side by side with bare math-verify.

    python benchmarks/grading.py --data DIR [gsm8k] [math] [mbpp] [sandbox_cpu]

GSM8K: completions a second on one core. MATH: 128 samples a prompt that repeat themselves as a model at
temperature 0.7 does, against math-verify on every sample. MBPP: programs a second on all cores. It does not
measure how right the grades are.
"""

import argparse
import json
import os
import random
import resource
import time
from pathlib import Path

from si_dagster.tasks.grading import sandbox
from si_dagster.tasks.grading.code_grader import CodeGrader
from si_dagster.tasks.grading.graders import math_grader, math_reference, number_grader
from si_dagster.tasks.grading.judging import plan_tests
from si_dagster.tasks.grading.worker_pool import close_shared_pools
from si_dagster.tasks.mbpp import Mbpp
from si_dagster.tasks.sources import read_records

SAMPLES = 128


def gsm8k(folder: Path) -> dict[str, float]:
    rows = read_records(folder / "gsm8k/test.jsonl")
    rng = random.Random(0)
    references, completions = [], []
    for row in rows:
        body, _, answer = row["answer"].partition("####")
        for _ in range(32):
            value = answer.strip() if rng.random() < 0.6 else str(rng.randrange(500))
            ending = rng.choice(
                [f"#### {value}", f"The answer is ${value}.", f"So it is \\boxed{{{value}}}.", value]
            )
            references.append(answer.strip())
            completions.append(f"{body}{ending}")
    grader = number_grader()
    began = time.process_time()
    grader.grade(references, completions)
    seconds = time.process_time() - began
    return {"completions": len(completions), "completions_per_core_second": len(completions) / seconds}


def math(folder: Path, num_prompts: int = 100) -> dict[str, float]:
    rows = read_records(folder / "math/test.jsonl")
    rng = random.Random(0)
    rows = rng.sample(rows, num_prompts)
    others = [math_reference(row["solution"]) for row in rng.sample(rows, num_prompts)]
    references, completions = [], []
    for row in rows:
        gold = math_reference(row["solution"])
        # Half of the samples give one answer and the rest a dozen others: about 10 distinct answers of 128.
        wrong = rng.sample(others, 12)
        for _ in range(SAMPLES):
            answer = gold if rng.random() < 0.5 else rng.choice(wrong)
            references.append(gold)
            completions.append(
                f"{row['solution'].split('boxed')[0][:-1]} so the answer is $\\boxed{{{answer}}}$."
            )
    began = time.perf_counter()
    grader = math_grader()
    grader.grade(references, completions)
    ours = len(completions) / (time.perf_counter() - began)
    close_shared_pools()
    bare = _bare_math_verify(references[::16], completions[::16])
    return {
        "completions": len(completions),
        "per_second": ours,
        "bare_per_second": bare,
        "times_bare": ours / bare,
    }


def _bare_math_verify(references: list[str], completions: list[str]) -> float:
    from math_verify import parse, verify

    began = time.perf_counter()
    for reference, completion in zip(references, completions, strict=True):
        verify(parse(f"${reference}$"), parse(completion))
    return len(references) / (time.perf_counter() - began)


def mbpp(folder: Path) -> dict[str, float]:
    task = Mbpp(str(folder / "mbpp"))
    rows = [row for row in task.tasks if row["task_id"] <= 300]
    references, codes = [task.reference_of(row) for row in rows], [row["code"] for row in rows]
    grader = CodeGrader()
    began = time.perf_counter()
    grades = grader.grade(references, codes)
    seconds = time.perf_counter() - began
    passed = sum(grade.utility == 1.0 for grade in grades)
    return {
        "programs": len(rows),
        "passed": passed,
        "per_second": len(rows) / seconds,
        "cores": os.cpu_count() or 1,
    }


def sandbox_cpu(folder: Path) -> dict[str, float]:
    """CPU seconds of one worker, its judge and its chamber with all programs: the load does not matter."""
    task = Mbpp(str(folder / "mbpp"))
    references = [json.loads(task.reference_of(row)) for row in task.tasks if row["task_id"] <= 300]
    codes = [row["code"] for row in task.tasks if row["task_id"] <= 300]
    plans = [plan_tests(r["tests"], r["setup"], r["imports"], r["shadowed"]) for r in references]
    before = _cpu_seconds()
    passed = sum(sandbox.run_program(code, plan).passed for code, plan in zip(codes, plans, strict=True))
    seconds = _cpu_seconds() - before
    return {"programs": len(codes), "passed": passed, "programs_per_cpu_second": len(codes) / seconds}


def _cpu_seconds() -> float:
    chamber = sandbox._chamber("namespaces")._process.pid
    ticks = Path(f"/proc/{chamber}/stat").read_text().rpartition(")")[2].split()[11:15]
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    inside = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return inside + sum(usage.ru_utime + usage.ru_stime for usage in own)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=["gsm8k", "math", "mbpp"])
    arguments = parser.parse_args()
    measures = {"gsm8k": gsm8k, "math": math, "mbpp": mbpp, "sandbox_cpu": sandbox_cpu}
    for name in arguments.names:
        result = {key: round(value, 1) for key, value in measures[name](arguments.data).items()}
        print(json.dumps({"benchmark": name, **result}), flush=True)


if __name__ == "__main__":
    main()
