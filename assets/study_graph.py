"""A study as a graph: the loop unrolled into keys `<study>/iteration_<t>/<stage>[/<verification>]`.

Dagster allows no cycle over asset keys, so each iteration has keys of its own; models x tasks are the
partitions. The edges come from the plan, which also makes the fingerprints and the lineage.
"""

from collections.abc import Sequence

import dagster as dg

from assets import (
    analysis,
    base_checkpoint,
    checkpoint,
    filtered_set,
    gap_metrics,
    generations,
    probes,
    prompts,
    report,
    student,
    teaching_set,
    utilities,
    verifications,
)
from assets.automation import (
    next_iteration_schedule,
    study_job,
    when_inputs_are_good,
    when_missing,
    whenever_something_is_new,
)
from assets.checks import (
    answers_have_not_collapsed,
    canaries_are_refused,
    gap_is_open,
    graders_work,
    no_evaluation_prompt_in_training_rows,
)
from assets.stage_asset import (
    OWNERS,
    Stage,
    asset_key,
    column_schema,
    group_name,
    planned,
    stage_asset,
    told_plainly,
)
from resources.store import StoreResource
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.plan import SUMMARIES, Node, Plan, asset_path
from si_dagster.store.layout import Address
from si_dagster.study import Study

POOL = "accelerator"
"""Dagster's pool of all stages that load a policy."""


def _stage(module, kinds: set[str], **kwargs) -> Stage:
    name = module.__name__.rpartition(".")[2]
    return Stage(name, module.CARD, module.materialize, frozenset(kinds), **kwargs)


STAGES = {
    stage.name: stage
    for stage in (
        _stage(base_checkpoint, {"pytorch", "huggingface"}, pool=POOL),
        _stage(prompts, {"polars", "parquet"}),
        _stage(generations, {"huggingface", "parquet"}, max_retries=1, pool=POOL),
        _stage(utilities, {"python", "parquet"}),
        _stage(verifications, {"huggingface", "parquet"}, max_retries=1, pool=POOL),
        _stage(teaching_set, {"polars", "parquet"}),
        _stage(student, {"pytorch", "huggingface"}, pool=POOL),
        _stage(probes, {"huggingface", "parquet"}, max_retries=1, pool=POOL),
        _stage(filtered_set, {"polars", "parquet"}),
        _stage(checkpoint, {"pytorch", "huggingface"}, pool=POOL),
        _stage(gap_metrics, {"numpy", "parquet"}),
    )
}


def study_definitions(study: Study) -> dg.Definitions:
    """Assets, checks, job and schedule of one study; resources are bound by the code location."""
    plan = Plan(study)
    assets = [
        stage_asset(plan, STAGES[nodes[0].address.stage], path, _automation(nodes))
        for path, nodes in plan.assets.items()
        if nodes[0].address.stage not in SUMMARIES
    ]
    checks = [
        check(plan, iteration)
        for check in (gap_is_open, no_evaluation_prompt_in_training_rows)
        for iteration in range(study.iterations)
    ]
    checks += [graders_work(plan, iteration) for iteration in range(study.iterations + 1)]
    checks.append(answers_have_not_collapsed(plan))
    checks += [
        canaries_are_refused(plan, node.address.iteration)
        for path, (node, *_) in plan.assets.items()
        if node.address.stage == "probes" and node.address.iteration is not None
    ]
    job = study_job(plan, [asset.key for asset in assets])
    return dg.Definitions(
        assets=[*assets, *(analysis_asset(plan, name) for name in ANALYSES), report_asset(plan)],
        asset_checks=checks,
        jobs=[job],
        schedules=[next_iteration_schedule(plan, job)],
    )


def _automation(nodes: Sequence[Node]) -> dg.AutomationCondition:
    return when_inputs_are_good() if any(node.inputs for node in nodes) else when_missing()


def analysis_asset(plan: Plan, name: str) -> dg.AssetsDefinition:
    """One analysis: of all cells and iterations there are, whenever one is new.

    In the graph it stands behind the gap of each iteration, which descends from all that it reads: an edge
    from every stage to every analysis would hide the loop. What it read is in its manifest and the lineage.
    """
    study = plan.study
    address = Address(study.name, None, name)

    @dg.asset(
        key=asset_key(study, name, None),
        deps=[
            dg.AssetDep(asset_key(study, "gap_metrics", iteration), metadata={"si/edge": "summary"})
            for iteration in range(study.iterations + 1)
        ],
        group_name=group_name(study, None, "analysis"),
        description=ANALYSES[name].load().CARD,
        kinds={"numpy", "altair", "parquet"},
        owners=OWNERS,
        tags={"si/study": study.name},
        metadata={"dagster/column_schema": column_schema(name)},
        code_version=plan.code_version(asset_path(address)),
        automation_condition=whenever_something_is_new(),
    )
    def study_analysis(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        with told_plainly():
            return analysis.materialize(planned(study), name, store.store, context)

    return study_analysis


def report_asset(plan: Plan) -> dg.AssetsDefinition:
    """The report: one for all cells, whenever a gap or an analysis is new."""
    study = plan.study
    gaps = [asset_key(study, "gap_metrics", iteration) for iteration in range(study.iterations + 1)]

    @dg.asset(
        key=asset_key(study, "report", None),
        deps=[*gaps, *(asset_key(study, name, None) for name in ANALYSES)],
        group_name=group_name(study, None, "report"),
        description=report.CARD,
        kinds={"altair", "html"},
        owners=OWNERS,
        tags={"si/study": study.name},
        code_version=plan.code_version((study.name, "report")),
        automation_condition=whenever_something_is_new(),
    )
    def study_report(store: StoreResource) -> dg.MaterializeResult:
        return report.materialize(plan, store.store)

    return study_report
