"""Cheap verifiers: how far students agree with their teacher, against what the teaching cost.

Agreement is on evaluation prompts, of which a student has seen none; ground truth comes in for the AUROC
alone, and nothing here leads back to a student. It trains nothing: a study names as many budgets as it wants
to see, and each has a student of its own.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core import overlap
from si_dagster.core.intervals import bootstrap_mean, paired_difference
from si_dagster.core.verifier_quality import auroc_per_prompt
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.store.layout import Address
from si_dagster.study import CHEAP, VerificationSpec

TITLE = "Cheap verifiers"
CARD = """Every student beside its teacher: pair agreement and rank correlation within held-out prompts, AUROC
against true utility, and what teaching and asking cost, by budget.

Reads: utilities, verifications of all iterations; teaching_set, student (what they cost).

Writes: one row a student.
"""
READING = """A student learned, in iteration 0, the differences of the teacher's scores on as many responses
to training prompts as the budget says; 0 is the policy it began as. Agreement is with the teacher of the same
iteration: where that is the policy itself it moves, and the student does not. Chance is .5. AUROC is against
true utility, which no student has seen."""

MEASURES = {
    "pair_agreement": "pairs ordered as the teacher does",
    "auroc": "AUROC within prompts, against utility",
}


def rows(data: StudyData) -> pl.DataFrame:
    """A row a student; columns as the schema of `cheap_verifier`."""
    return table([row for samples in data.samples() for row in _students(data, samples)])


def _students(data: StudyData, samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    how, offsets = bootstrap_options(samples.study), samples.offsets
    for spec in samples.specs:
        if spec.method != CHEAP or spec.teacher not in samples.scores:
            continue
        student, teacher = samples.scores[spec.name], samples.scores[spec.teacher]
        agreement = overlap.pair_agreement(teacher, student, offsets)
        spearman = overlap.correlation_of_each_prompt(teacher, student, offsets)
        right, by_teacher = (auroc_per_prompt(samples.utilities, s, offsets) for s in (student, teacher))
        yield {
            **samples.keys,
            "verification": spec.name,
            "teacher": spec.teacher,
            "budget": spec.budget,
            **_cost_of_teaching(data, samples, spec),
            **columns_of("pair_agreement", bootstrap_mean(agreement, **how)),
            **columns_of("spearman", bootstrap_mean(spearman, **how)),
            **columns_of("auroc", bootstrap_mean(right, **how)),
            **columns_of("over_teacher", paired_difference(right, by_teacher, **how)),
            "relative_cost": _relative_cost(data, samples, spec),
            "num_prompts": len(offsets) - 1,
        }


def _cost_of_teaching(data: StudyData, samples: ScoredSamples, spec: VerificationSpec) -> dict[str, Any]:
    cell = (samples.model, samples.task, f"train.{spec.name}")
    lesson, student = (Address(samples.study.name, 0, stage, *cell) for stage in ("teaching_set", "student"))
    return {
        "num_teacher_verifications": int(data.told(lesson, "num_teacher_verifications") or 0),
        "num_comparisons": int(data.told(lesson, "num_comparisons") or 0),
        "teacher_flops": data.told(lesson, "teacher_flops"),
        "training_flops": data.told(student, "flops"),
        "training_seconds": data.told(student, "seconds"),
    }


def _relative_cost(data: StudyData, samples: ScoredSamples, spec: VerificationSpec) -> float | None:
    """FLOPs of verifying the same generations, as the engines told them; `None` where one did not."""
    cell = (samples.study.name, samples.iteration, "verifications", samples.model, samples.task)
    student, teacher = (
        data.told(Address(*cell, f"{samples.split}.{name}"), "flops")
        for name in (spec.name, spec.teacher or "")
    )
    return student / teacher if teacher and student is not None else None


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All students, as text."""
    headings = {
        "iteration": "t",
        "verification": "student",
        "teacher": "teacher",
        "budget": "budget",
        "num_comparisons": "comparisons",
        "pair_agreement": "pairs ordered alike",
        "spearman": "Spearman within prompts",
        "auroc": "AUROC against utility",
        "over_teacher": "less the teacher's",
        "relative_cost": "cost of a response, teacher = 1",
        "training_seconds": "training s",
    }
    return text_rows(rows, headings)


def chart(rows: pl.DataFrame) -> Any:
    """Agreement and AUROC against budget, a panel each, a colour a teacher and iteration."""
    from si_dagster.analysis.plots import cell_titles, interval_points

    titled = cell_titles(rows).with_columns(line=pl.format("{}, {}", "teacher", "cell"))
    long = pl.concat(
        titled.select(
            "line",
            pl.col("budget").cast(pl.String),
            measure=pl.lit(title),
            value=name,
            value_low=f"{name}_low",
            value_high=f"{name}_high",
        )
        for name, title in MEASURES.items()
    )
    budgets = [str(budget) for budget in sorted(set(rows["budget"]))]
    return interval_points(
        long, x="budget", y="value", color="line", column="measure", title="held-out prompts", sort=budgets
    )
