"""Grading of files and of stored generations: what `si-dagster grade` and `si-dagster regrade` call.

Records are plain dictionaries with the fields of the task's data set, or `reference`, and `completion`. It
reads and writes JSON Lines, keeps every input field, and does not change stored tables.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_dagster.tasks.base import Grade, Task, TaskDataError
from si_dagster.tasks.sources import read_records


def reference_of(task: Task, record: dict[str, Any]) -> str:
    """The reference of a record: its `reference`, else the fields of the task's data set.

    Raises:
        TaskDataError: If it has neither.
    """
    if "reference" in record:
        value = record["reference"]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    reader = getattr(task, "reference_of", None)
    if reader is None:
        raise TaskDataError(f"task {task.name} reads references from the field `reference`; there is none")
    try:
        return reader(record)
    except KeyError as error:
        raise TaskDataError(
            f"no field `reference`, nor the fields of the data set ({error} is missing); has {sorted(record)}"
        ) from error


def graded_record(record: Mapping[str, Any], grade: Grade) -> dict[str, Any]:
    """The record with `utility`, `strict`, `status`, `extracted`, `rule` and `detail` added."""
    return {
        **record,
        "utility": grade.utility,
        "strict": grade.strict_utility,
        "status": grade.status,
        "extracted": grade.extracted,
        "rule": grade.rule,
        "detail": grade.detail,
    }


def grade_records(task: Task, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every record with its grade, in order.

    Raises:
        TaskDataError: If a record has no completion or no reference; says which.
    """
    references, completions = [], []
    for number, record in enumerate(records, 1):
        if not isinstance(record.get("completion"), str):
            raise TaskDataError(f"record {number} has no text in `completion`; it has {sorted(record)}")
        try:
            references.append(reference_of(task, record))
        except TaskDataError as error:
            raise TaskDataError(f"record {number}: {error}") from error
        completions.append(record["completion"])
    grades = task.grade(references, completions)
    return [graded_record(*pair) for pair in zip(records, grades, strict=True)]


@dataclass(frozen=True)
class GradingSummary:
    """Counts over a graded file.

    Attributes:
        num_rows: Rows.
        statuses: Rows by status.
        rules: Rows by rule.
        mean_utility: Mean over rows with a utility; `None` where there is none.
        mean_strict: The same under strict extraction.
    """

    num_rows: int
    statuses: dict[str, int]
    rules: dict[str, int]
    mean_utility: float | None
    mean_strict: float | None


def grade_file(task: Task, source: Path, target: Path) -> GradingSummary:
    """Grade a JSON Lines file into another one, which is written whole or not at all.

    Raises:
        TaskDataError: If the file or a record is not readable; nothing is written then.
    """
    rows = grade_records(task, read_records(source))
    part = target.with_name(f"{target.name}.part")
    part.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    part.replace(target)
    return summary(rows)


def summary(rows: Sequence[Mapping[str, Any]]) -> GradingSummary:
    """Counts and means of graded records."""
    known = [row for row in rows if row["utility"] is not None]
    means = [sum(row[key] for row in known) / len(known) if known else None for key in ("utility", "strict")]
    return GradingSummary(
        len(rows),
        dict(Counter(row["status"] for row in rows).most_common()),
        dict(Counter(row["rule"] for row in rows).most_common()),
        *means,
    )


@dataclass(frozen=True)
class Regrading:
    """What a new grader changes on the same generations.

    Attributes:
        num_rows: Generations.
        num_changed: Those whose utility or status differs.
        transitions: Count of each (old utility, new utility) that differ; `None` where there was none.
        changed: Index of each changed generation, in order.
        grades: The new grades.
    """

    num_rows: int
    num_changed: int
    transitions: dict[tuple[float | None, float | None], int]
    changed: list[int]
    grades: list[Grade]


def regrade(
    task: Task,
    references: Sequence[str],
    completions: Sequence[str],
    old_utilities: Sequence[float | None],
    old_statuses: Sequence[str] | None = None,
) -> Regrading:
    """Grade stored generations again and tell the difference.

    A row that was `truncated` keeps its utility 0 by the rule of the loop, whatever its text says.

    Args:
        task: With the new grader.
        references: Gold answer of each generation.
        completions: Its text.
        old_utilities: Utility as stored, `None` where there was none.
        old_statuses: Status as stored, where known.
    """
    grades = task.grade(references, completions)
    statuses = old_statuses or ["scored"] * len(grades)
    kept = [
        Grade(0.0, 0.0, "truncated", grade.extracted, grade.rule) if status == "truncated" else grade
        for grade, status in zip(grades, statuses, strict=True)
    ]
    pairs = [(old, new.utility) for old, new in zip(old_utilities, kept, strict=True)]
    changed = [index for index, (old, new) in enumerate(pairs) if old != new]
    return Regrading(len(kept), len(changed), dict(Counter(pairs[index] for index in changed)), changed, kept)
