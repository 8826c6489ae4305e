"""A study as it is stored: found by file or name, its rows laid out for analysis, other weightings tried.

No engine, no graph and no Dagster, so that a question about stored rows is answered at once. It writes
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from si_dagster.analysis import comparison
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.analysis.data import StudyData
from si_dagster.assignments import assignment
from si_dagster.plan import Plan, verification_roles
from si_dagster.stages.filtered_set import filtered_table
from si_dagster.stages.weighting import weighted_scores
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address, default_home
from si_dagster.study import Study, StudyError, WeightingSpec, is_study_file, load_study

COMPARED = "slices"
"""The analysis that reads what a comparison does: texts of prompts, utilities and verifications."""


def find_stored(study: str, overrides: Sequence[str] = ()) -> Study:
    """A study by file or by the name it was run under.

    Raises:
        StudyError: If there is neither; lists what was run.
    """
    if is_study_file(study):
        return load_study(study, overrides)
    copies = default_home() / "studies"
    if not (copies / f"{study}.yaml").is_file():
        # Materialized from the UI only: the code location knows its file.
        from si_dagster.runs import find_study

        return find_study(study, list(overrides))
    if overrides:
        raise StudyError(f"overrides go with a study file, not with the name {study!r}")
    return load_study(copies / f"{study}.yaml")


def study_data(study: Study, analysis: str, store: Store) -> StudyData:
    """What one analysis may read of a study, as far as it is complete.

    Raises:
        StudyError: If nothing of it is.
    """
    plan = Plan(study)
    artifacts = {a: store.require(a) for a in plan.analysed(ANALYSES[analysis]) if store.manifest(a)}
    if not artifacts:
        raise nothing_stored(study, store)
    beside = {a: store.require(a) for a in plan.beside(ANALYSES[analysis]) if store.manifest(a)}
    return StudyData(study, {**artifacts, **beside})


def nothing_stored(study: Study, store: Store) -> StudyError:
    """What to do about it: run it, or name a variant that has stored something, such as its replicates."""
    variants = sorted(folder.name for folder in (store.home / "data").glob(f"{study.name}__*"))
    instead = f", or take one of {', '.join(variants)}" if variants else ""
    return StudyError(f"nothing of {study.name!r} is stored in {store.home}: run it first{instead}")


def analysis_rows(study: Study, analysis: str, store: Store) -> pl.DataFrame:
    """The table of one analysis, made anew from stored rows."""
    return ANALYSES[analysis].load().rows(study_data(study, analysis, store))


def compared(studies: Sequence[Study], store: Store) -> pl.DataFrame:
    """Studies side by side; see `analysis.comparison`.

    Raises:
        StudyError: If there are fewer than two, or nothing of one of them is stored.
    """
    if len({study.name for study in studies}) < max(2, len(studies)):
        raise StudyError("a comparison needs two studies or more, each named once")
    return comparison.rows([study_data(study, COMPARED, store) for study in studies])


@dataclass(frozen=True)
class TrainingSetDifference:
    """Which training rows another weighting would have kept in one iteration, by generation id.

    Attributes:
        iteration: Of the filtered set.
        model: Of the cell.
        task: Of the cell.
        entering: Kept by the other weighting alone.
        leaving: Kept by the study's alone.
        num_staying: Kept by both.
    """

    iteration: int
    model: str
    task: str
    entering: list[str]
    leaving: list[str]
    num_staying: int

    def shown(self) -> dict[str, str]:
        """Counts and the first ids, as text."""
        return {
            "t": str(self.iteration),
            "model": self.model,
            "task": self.task,
            "staying": str(self.num_staying),
            "entering": _some(self.entering),
            "leaving": _some(self.leaving),
        }


def _some(ids: list[str], most: int = 3) -> str:
    more = "" if len(ids) <= most else f"\n... all {len(ids)} with --json"
    return f"{len(ids)}" + "".join(f"\n{identifier}" for identifier in ids[:most]) + more


def other_weighting(study: Study, fields: Sequence[str]) -> WeightingSpec:
    """The study's weighting with some fields replaced.

    Args:
        study: The study.
        fields: `field=value`, the value read as YAML.

    Raises:
        ValueError: If a field or value is not one of a weighting, or names no verification of the study.
    """
    changes: dict[str, Any] = {}
    for field in fields:
        name, value = assignment(field, "--weighting")
        if name not in WeightingSpec.model_fields:
            allowed = ", ".join(WeightingSpec.model_fields)
            raise StudyError(f"--weighting {field!r}: no such field; fields: {allowed}")
        changes[name] = value
    weighting = {**study.weighting.model_dump(mode="json"), **changes}
    return Study.model_validate({**study.model_dump(mode="json"), "weighting": weighting}).weighting


def training_set_differences(
    study: Study, weighting: WeightingSpec, store: Store
) -> list[TrainingSetDifference]:
    """Every filtered set of a study against the one another weighting would have made, caps and all."""
    plan = Plan(study)
    other = Plan(study.model_copy(update={"weighting": weighting}))
    return [
        _difference(plan, other, address, store)
        for address in plan.nodes
        if address.stage == "filtered_set" and _is_there(other, address, store)
    ]


def _is_there(plan: Plan, address: Address, store: Store) -> bool:
    return all(store.manifest(source) for source in plan.nodes[address].inputs.values())


def _difference(plan: Plan, other: Plan, address: Address, store: Store) -> TrainingSetDifference:
    ours, theirs = (_kept(which, address, store) for which in (plan, other))
    assert address.iteration is not None
    return TrainingSetDifference(
        address.iteration,
        address.model or "",
        address.task or "",
        entering=sorted(theirs - ours),
        leaving=sorted(ours - theirs),
        num_staying=len(ours & theirs),
    )


def _kept(plan: Plan, address: Address, store: Store) -> set[str]:
    """Generation ids of the filtered set as that plan makes it."""
    node, spec = plan.nodes[address], plan.study.weighting_verification()
    seed = int(node.fields["seed"])
    verifications = {
        name: store.require(node.inputs[role]).read() for role, name in verification_roles(spec).items()
    }
    table, _ = filtered_table(
        store.require(node.inputs["prompts"]).read(),
        store.require(node.inputs["generations"]).read(),
        weighted_scores(plan.study, spec, verifications, seed),
        plan.study.weighting,
        seed,
        address,
    )
    return set(table["generation_id"])
