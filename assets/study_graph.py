"""A study as a graph: the loop unrolled into keys `<study>/iteration_<t>/<stage>[/<verification>]`.

Dagster allows no cycle over asset keys, so each iteration has keys of its own; models x tasks are the
partitions. The edges come from the plan, which also makes the fingerprints and the lineage.
"""

import dagster as dg

from assets import (
    base_checkpoint,
    checkpoint,
    filtered_set,
    gap_metrics,
    generations,
    prompts,
    report,
    utilities,
    verifications,
)
from assets.automation import next_iteration_schedule, study_job, when_inputs_are_good, when_missing
from assets.checks import gap_is_open, graders_work, no_evaluation_prompt_in_training_rows
from assets.stage_asset import OWNERS, Stage, asset_key, group_name, stage_asset
from resources.store import StoreResource
from si_dagster.plan import Plan
from si_dagster.study import Study


def _stage(module, kinds: set[str], **kwargs) -> Stage:
    name = module.__name__.rpartition(".")[2]
    return Stage(name, module.CARD, module.materialize, frozenset(kinds), **kwargs)


STAGES = {
    stage.name: stage
    for stage in (
        _stage(base_checkpoint, {"pytorch", "huggingface"}),
        _stage(prompts, {"polars", "parquet"}),
        _stage(generations, {"huggingface", "parquet"}, max_retries=1),
        _stage(utilities, {"python", "parquet"}),
        _stage(verifications, {"huggingface", "parquet"}, max_retries=1),
        _stage(filtered_set, {"polars", "parquet"}),
        _stage(checkpoint, {"pytorch", "huggingface"}),
        _stage(gap_metrics, {"numpy", "parquet"}),
    )
}


def study_definitions(study: Study) -> dg.Definitions:
    """Assets, checks, job and schedule of one study; resources are bound by the code location."""
    plan = Plan(study)
    assets = [
        stage_asset(plan, STAGES[stage], path, _automation(stage))
        for path, (node, *_) in plan.assets.items()
        if (stage := node.address.stage) != "report"
    ]
    checks = [
        check(plan, iteration)
        for check in (gap_is_open, no_evaluation_prompt_in_training_rows)
        for iteration in range(study.iterations)
    ]
    checks += [graders_work(plan, iteration) for iteration in range(study.iterations + 1)]
    job = study_job(plan, [asset.key for asset in assets])
    return dg.Definitions(
        assets=[*assets, report_asset(plan)],
        asset_checks=checks,
        jobs=[job],
        schedules=[next_iteration_schedule(plan, job)],
    )


def _automation(stage: str) -> dg.AutomationCondition:
    return when_missing() if stage in ("prompts", "base_checkpoint") else when_inputs_are_good()


def report_asset(plan: Plan) -> dg.AssetsDefinition:
    """The report: one for all cells, whenever a gap is new."""
    study = plan.study
    gaps = [asset_key(study, "gap_metrics", iteration) for iteration in range(study.iterations + 1)]

    @dg.asset(
        key=asset_key(study, "report", None),
        deps=gaps,
        group_name=group_name(study, None, "report"),
        description=report.CARD,
        kinds={"altair", "html"},
        owners=OWNERS,
        tags={"si/study": study.name},
        code_version=plan.code_version((study.name, "report")),
        # Not `eager`: a loop that stopped leaves later gaps missing, and is reported all the same.
        automation_condition=dg.AutomationCondition.any_deps_updated()
        & ~dg.AutomationCondition.in_progress(),
    )
    def study_report(store: StoreResource) -> dg.MaterializeResult:
        return report.materialize(plan, store.store)

    return study_report
