"""How a study moves by itself: automation conditions, a job and a schedule a study; all off by default."""

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.report import stop_reason, study_metrics
from assets.stage_asset import asset_key
from resources.store import StoreResource
from si_dagster.core.fingerprint import fingerprint
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store


def when_inputs_are_good() -> dg.AutomationCondition:
    """Materialize when inputs are there and new, and no blocking check of theirs failed.

    `eager` alone ignores checks when the upstream ran in an earlier run.
    """
    return dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()


def when_missing() -> dg.AutomationCondition:
    """For stages that nothing precedes: materialize once."""
    return dg.AutomationCondition.missing() & ~dg.AutomationCondition.in_progress()


def whenever_something_is_new() -> dg.AutomationCondition:
    """For what sums up the study: not `eager`, since a loop that stopped leaves inputs missing for good."""
    return (
        dg.AutomationCondition.any_deps_updated()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    )


def job_name(study_name: str, what: str) -> str:
    """A job name of a study: letters, digits and `_`."""
    return "".join(c if c.isalnum() else "_" for c in f"{study_name}__{what}")


def study_job(plan: Plan, keys: list[dg.AssetKey]) -> UnresolvedAssetJobDefinition:
    """All iterations of one cell in one run."""
    return dg.define_asset_job(
        job_name(plan.study.name, "all_iterations"),
        selection=dg.AssetSelection.assets(*keys),
        description=f"Every iteration of {plan.study.name}, for one model and task.",
    )


def next_iteration_schedule(plan: Plan, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Every ten minutes: start the next open iteration of each cell that is not finished or stopped."""

    @dg.schedule(
        name=job_name(plan.study.name, "next_iteration"),
        job=job,
        cron_schedule="*/10 * * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def next_iteration(
        context: dg.ScheduleEvaluationContext, store: StoreResource
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        requests = list(_requests(plan, store.store))
        yield from requests
        if not requests:
            yield dg.SkipReason(f"{plan.study.name}: every cell is finished or stopped")

    return next_iteration


def _requests(plan: Plan, store: Store) -> Iterator[dg.RunRequest]:
    for model, task in plan.study.cells():
        iteration = next_open_iteration(plan, store, (model, task))
        if iteration is None:
            continue
        keys = [
            dg.AssetKey(path)
            for path, (node, *_) in plan.assets.items()
            if node.address.iteration == iteration
        ]
        if iteration == 0:
            keys.append(asset_key(plan.study, "base_checkpoint", None))
        partition = dg.MultiPartitionKey({"model": model, "task": task})
        wanted = [a for a in plan.nodes if (a.iteration, a.model, a.task) == (iteration, model, task)]
        made = fingerprint({address.artifact_id: plan.fingerprint(address) for address in wanted})
        # The run key makes a request of an iteration that is running already a request of nothing. It covers
        # all that is to be made, so that a method added later is asked for.
        yield dg.RunRequest(
            run_key=f"{plan.study.name}/iteration_{iteration}/{partition}/{made}",
            partition_key=partition,
            asset_selection=keys,
        )


def next_open_iteration(plan: Plan, store: Store, cell: tuple[str, str]) -> int | None:
    """The first iteration of a cell with anything missing; `None` where it is finished or stopped."""
    for iteration in range(plan.study.iterations + 1):
        nodes = [a for a in plan.nodes if (a.iteration, a.model, a.task) == (iteration, *cell)]
        if any(store.manifest(address) is None for address in nodes):
            return iteration
        if stop_reason(plan, store.require(plan.deciding_gap(iteration, cell)).read()):
            return None
    return None


def is_finished(plan: Plan, store: Store) -> bool:
    """Whether every cell of the study has ended, one way or the other."""
    return all(next_open_iteration(plan, store, cell) is None for cell in plan.study.cells())


__all__ = [
    "is_finished",
    "next_iteration_schedule",
    "next_open_iteration",
    "study_job",
    "study_metrics",
    "when_inputs_are_good",
    "when_missing",
    "whenever_something_is_new",
]
