"""A stored study graded again: what the grader of today says about generations that were drawn before.

It reads prompts, generations and utilities, and writes nothing: stored utilities stay as they are until the
study is run again with a raised `grader_version`. Models are not opened, so their folders may be gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from si_dagster.plan import Node, Plan
from si_dagster.store.artifacts import Store
from si_dagster.study import Study, StudyError
from si_dagster.tasks.grading.records import Regrading, regrade


@dataclass(frozen=True)
class RegradedArtifact:
    """One utilities artifact, graded again.

    Attributes:
        artifact: Its id.
        grader_version: Of the grader that made it, and of the one of today.
        num_rows: Generations.
        num_changed: Those whose utility differs.
        mean_before: Mean of the stored utilities that are not null; `None` where none is.
        mean_after: The same of the new ones.
        transitions: Old and new utility with their count.
        changed: Each changed row: generation_id, completion, reference, utility, status, extracted and rule
            before and after.
    """

    artifact: str
    grader_version: tuple[str, str]
    num_rows: int
    num_changed: int
    mean_before: float | None
    mean_after: float | None
    transitions: list[dict[str, Any]]
    changed: list[dict[str, Any]]


def regrade_study(study: Study, store: Store) -> list[RegradedArtifact]:
    """Every stored utilities artifact of a study, in the order of the plan.

    Raises:
        StudyError: If none is stored.
        StoreError: If one is stored and damaged.
    """
    plan = Plan(study)
    found = list(_regraded(plan, store))
    if not found:
        raise StudyError(f"study {study.name!r} has no utilities in {store.home}; run it first")
    return found


def _regraded(plan: Plan, store: Store) -> Iterator[RegradedArtifact]:
    for address, node in plan.nodes.items():
        manifest = store.manifest(address) if address.stage == "utilities" else None
        if manifest is not None:
            before = str(manifest.recipe.get("grader_version"))
            yield _regraded_artifact(plan, store, node, before)


def _regraded_artifact(plan: Plan, store: Store, node: Node, before: str) -> RegradedArtifact:
    rows = _rows(store, node)
    task = plan.task(node.address.task or "")
    columns = ("reference", "completion", "utility", "status")
    outcome = regrade(task, *(rows[name].to_list() for name in columns))
    after = pl.Series([grade.utility for grade in outcome.grades], dtype=pl.Float64)
    return RegradedArtifact(
        artifact=node.address.artifact_id,
        grader_version=(before, task.grader_version),
        num_rows=outcome.num_rows,
        num_changed=outcome.num_changed,
        mean_before=_mean(rows["utility"]),
        mean_after=_mean(after),
        transitions=[
            {"before": old, "after": new, "num_rows": count}
            for (old, new), count in sorted(outcome.transitions.items(), key=str)
        ],
        changed=[_changed_row(rows, outcome, index) for index in outcome.changed],
    )


def _rows(store: Store, node: Node) -> pl.DataFrame:
    """Stored utilities with the text and the reference they were made from."""
    prompts, generations = (
        store.require(node.inputs[role]).read(columns)
        for role, columns in (
            ("prompts", ["prompt_id", "reference"]),
            ("generations", ["generation_id", "completion"]),
        )
    )
    utilities = store.require(node.address).read()
    rows = utilities.join(generations, on="generation_id", how="left", validate="1:1")
    return rows.join(prompts, on="prompt_id", how="left", validate="m:1").sort("prompt_id", "sample_index")


def _mean(utilities: pl.Series) -> float | None:
    mean = utilities.mean()
    return None if mean is None else float(mean)  # pyright: ignore[reportArgumentType]


def _changed_row(rows: pl.DataFrame, outcome: Regrading, index: int) -> dict[str, Any]:
    before, after = rows.row(index, named=True), outcome.grades[index]
    return {
        **{key: before[key] for key in ("generation_id", "completion", "reference")},
        "before": {key: before[key] for key in ("utility", "status", "extracted", "rule")},
        "after": {
            "utility": after.utility,
            "status": after.status,
            "extracted": after.extracted,
            "rule": after.rule,
        },
    }
