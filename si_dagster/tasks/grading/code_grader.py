"""Programs graded by their tests: each distinct pair of program and tests runs once in the sandbox.

References are JSON: `{"tests": [...], "setup": "...", "imports": [...], "shadowed": [...]}`. A program that
fails, loops or crashes has utility 0; where the sandbox itself fails the row is `grader_error`. Nothing is
cached beyond the call, and the order of programs is not kept.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, get_args

from si_dagster.tasks.base import Grade, TaskDataError
from si_dagster.tasks.grading.code_extraction import flexible_code, normal_code, strict_code
from si_dagster.tasks.grading.extraction import Extraction
from si_dagster.tasks.grading.judging import UnreadableTestsError, entry_points, plan_tests
from si_dagster.tasks.grading.sandbox import Guard, Limits, SandboxUnavailableError
from si_dagster.tasks.grading.worker_pool import WorkerFailure, shared_pool

SANDBOX_WORKER = "si_dagster.tasks.grading.sandbox"


@dataclass(frozen=True)
class Tests:
    """What a program is tested with."""

    tests: tuple[str, ...]
    setup: str = ""
    imports: tuple[str, ...] = ()
    shadowed: tuple[str, ...] = ()


@lru_cache(maxsize=5_000)
def read_tests(reference: str) -> Tests:
    """The tests of a reference.

    Raises:
        UnreadableTestsError: If it is no JSON of that shape or its tests cannot be judged.
    """
    try:
        data = json.loads(reference)
        data = {"tests": data} if isinstance(data, list) else data
        tests = Tests(
            tuple(data["tests"]),
            str(data.get("setup") or ""),
            tuple(data.get("imports") or ()),
            tuple(data.get("shadowed") or ()),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreadableTestsError(f"a reference for code is JSON with `tests`: {error!r}") from error
    plan_tests(*asdict(tests).values())
    return tests


@dataclass
class CodeGrader:
    """Runs programs in worker processes.

    Attributes:
        guard: `namespaces`, or by name the weaker `rlimits` where the kernel forbids them.
        limits: What a program may use.
        num_workers: Programs at a time; twice the cores by default, since namespaces take waiting to make.
    """

    guard: Guard = "namespaces"
    limits: Limits = field(default_factory=Limits)
    num_workers: int = field(default_factory=lambda: 2 * (os.cpu_count() or 1))
    version: str = "code-1"

    def __post_init__(self) -> None:
        if self.guard not in get_args(Guard):
            raise TaskDataError(f"guard is {self.guard!r}, allowed are {', '.join(get_args(Guard))}")

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """One grade a row; see `Grader`.

        Raises:
            SandboxUnavailableError: If the kernel forbids the guard; nothing has run then.
        """
        rows = [self._found(*row) for row in zip(references, completions, strict=True)]
        wanted = {
            (reference, found.answer)
            for reference, row in zip(references, rows, strict=True)
            if not isinstance(row, str)
            for found in row
            if found is not None
        }
        outcomes = self._run(sorted(wanted))
        return [self._row(ref, row, outcomes) for ref, row in zip(references, rows, strict=True)]

    def extract(self, completion: str) -> str | None:
        """The program in normal form; the names its tests need are not known here, so any code will do."""
        found = flexible_code(completion, frozenset())
        return normal_code(found.answer) if found else None

    def gold_text(self, reference: str) -> str | None:
        """None: a reference holds tests, not the program."""
        return None

    def _found(self, reference: str, completion: str) -> tuple[Extraction | None, Extraction | None] | str:
        """Flexible and strict extraction, or what is wrong with the reference."""
        try:
            tests = read_tests(reference)
        except UnreadableTestsError as error:
            return str(error)
        return flexible_code(
            completion, frozenset(entry_points(tests.tests)) | set(tests.shadowed)
        ), strict_code(completion)

    def _run(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any] | WorkerFailure]:
        items = [
            {
                "code": code,
                **asdict(read_tests(reference)),
                "guard": self.guard,
                "limits": asdict(self.limits),
            }
            for reference, code in pairs
        ]
        pool = shared_pool(SANDBOX_WORKER, self.num_workers, time_limit_s=10 * self.limits.wall_s)
        results = pool.map(items)
        for result in results:
            if isinstance(result, WorkerFailure) and SandboxUnavailableError.__name__ in result.reason:
                raise SandboxUnavailableError(result.reason.partition(": ")[2])
        return dict(zip(pairs, results, strict=True))

    def _row(
        self,
        reference: str,
        row: tuple[Extraction | None, Extraction | None] | str,
        outcomes: dict[tuple[str, str], dict[str, Any] | WorkerFailure],
    ) -> Grade:
        if isinstance(row, str):
            return Grade(None, None, "grader_error", None, "none", row)
        flexible, strict = row
        if flexible is None:
            return Grade(0.0, 0.0, "unparsed", None, "none")
        outcome, rule = outcomes[reference, flexible.answer], f"{flexible.rule}/tests"
        extracted = normal_code(flexible.answer)
        if isinstance(outcome, WorkerFailure):
            return Grade(None, None, "grader_error", extracted, rule, outcome.reason)
        strictly = outcomes[reference, strict.answer] if strict else None
        passed_strictly = isinstance(strictly, dict) and strictly["passed"]
        return Grade(
            float(outcome["passed"]), float(passed_strictly), "scored", extracted, rule, outcome["reason"]
        )
