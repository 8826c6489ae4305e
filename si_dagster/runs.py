"""Runs from the command line: the same assets as the UI, in this process, in the same Dagster instance.

It starts, watches and sums up runs. What a run computes is in `assets`; where it lies is the store's.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml
from dagster._core.events import RunFailureReason
from rich.markup import escape

from assets.automation import job_name
from assets.findings import findings_definitions
from assets.report import stop_reason, study_metrics
from assets.stage_asset import asset_key, planned
from resources.engine import EngineResource
from resources.store import StoreResource
from resources.trainer import TrainerResource
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.analysis.cost import artifact_costs
from si_dagster.analysis.table import shown_rows
from si_dagster.console import progress_logger
from si_dagster.definitions import definitions, find_studies, kept_copies, readable_studies, study_files
from si_dagster.instance import open_instance, session
from si_dagster.plan import Node, Plan
from si_dagster.status import refuse_other_recipe, study_status
from si_dagster.store.artifacts import Store
from si_dagster.store.atomic import write_bytes
from si_dagster.store.layout import default_home
from si_dagster.stored import nothing_stored
from si_dagster.study import BASE, SELF, Study, StudyError, is_study_file, load_study


@dataclass
class Outcome:
    """How a study stands after a run.

    Attributes:
        study: Its name.
        failures: One message a failed step; a closed gap is no failure.
        warnings: One message a failed check that stops nothing.
        stopped: Why the loop ended early, if it did.
        table: The gap table on held-out prompts, as text.
        report: Path of the report; `None` where nothing was measured.
    """

    study: str
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: str | None = None
    table: list[dict[str, str]] = field(default_factory=list)
    report: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def summary(self) -> list[str]:
        """What a person wants to know next."""
        lines = [f"[bold red]failed:[/] {escape(failure)}" for failure in self.failures]
        lines += [f"[bold yellow]warning:[/] {escape(warning)}" for warning in self.warnings]
        if self.stopped:
            lines.append(f"[bold]stopped:[/] {escape(self.stopped)}")
        if self.report:
            told = "report of what was complete before" if self.failures else "report"
            lines.append(f"{told}: {escape(self.report)}")
        lines.append("UI: make ui (or si-dagster ui), then http://localhost:3000/asset-groups")
        return lines


def check_study_file(path: Path) -> str | None:
    """What is wrong with a study file, or `None`: fields, names of tasks and methods, the graph."""
    from assets.study_graph import study_definitions

    try:
        study_definitions(load_study(path))
    except Exception as error:  # a study file is user input: whatever it does is told, not raised
        message = str(error)
        return message if message.startswith(str(path)) else f"{path}: {message}"
    return None


def find_study(study: str, overrides: list[str]) -> Study:
    """A study by file or by name.

    Raises:
        StudyError: If there is neither; lists what there is.
    """
    if is_study_file(study):
        return load_study(study, overrides)
    known = {found.name: found for found in find_studies(default_home())}
    if study not in known:
        raise StudyError(f"no study {study!r}; known: {', '.join(sorted(known)) or 'none'}, or give a file")
    return known[_without_overrides(study, overrides)]


def _without_overrides(name: str, overrides: list[str]) -> str:
    """The name, if no overrides come with it: a name stands for a study as it was written or run.

    Raises:
        StudyError: Else; says how the same is asked for.
    """
    if not overrides:
        return name
    seed = next((value for field, _, value in (o.partition("=") for o in overrides) if field == "seed"), None)
    files = [*study_files(), *kept_copies(default_home())]
    file = next((os.path.relpath(f) for f in files if f.stem == name), "STUDY.yaml")
    replicate = f"; the replicate of seed {seed} has the name {name}__seed_{seed}" if seed else ""
    raise StudyError(
        f"overrides go with a study file, not with the name {name!r}: "
        f"give {file} {' '.join(overrides)}{replicate}"
    )


def run_study(
    study: Study,
    store: StoreResource | None = None,
    engine: EngineResource | None = None,
    quiet: bool = False,
    trainer: TrainerResource | None = None,
) -> Outcome:
    """Run every cell of a study from where it is, then the report.

    Args:
        study: What to run; a copy is kept under the home folder, so that the UI shows it too.
        store: Where, and whether artifacts of another recipe may be moved aside.
        engine: Which engine, in what portions.
        quiet: No progress on the terminal.
        trainer: In how many processes and by what means training runs.

    Raises:
        RecipeDrift: If anything stored was made by another recipe and may not be moved aside.
    """
    store = store or StoreResource()
    if not store.supersede:
        refuse_other_recipe(study, store.store)
    outcome = Outcome(study.name)
    with (
        open_instance(store.path) as instance,
        session(instance, store.path) as tags,
        progress_logger(quiet) as loggers,
    ):
        graph = definitions([study], store, engine, trainer)
        bound = dg.Definitions.merge(graph, dg.Definitions(loggers=loggers))
        job = bound.resolve_job_def(job_name(study.name, "all_iterations"))
        # After the graph is drawn: a copy of which none can be would be left out, with a warning, for ever.
        _keep_copy(study, store.path)
        for (model, task), selection in _job_runs(planned(study), store.store):
            result = job.execute_in_process(
                instance=instance,
                partition_key=dg.MultiPartitionKey({"model": model, "task": task}),
                asset_selection=selection,
                raise_on_error=False,
                run_config={"loggers": {"console": {}}},
                tags=tags,
            )
            if _was_interrupted(result):
                raise KeyboardInterrupt
            of_cell = f"{model}, {task}: " if len(study.cells()) > 1 else ""
            outcome.failures += [f"{of_cell}{failure}" for failure in _failures(result)]
            outcome.warnings += [f"{of_cell}{warning}" for warning in _failed_checks(result)]
        plan = planned(study)
        if _measured(plan, store.store):
            outcome.failures += _sum_up(bound, study, instance, tags)
            metrics = study_metrics(plan, store.store)
            outcome.stopped = stop_reason(plan, metrics)
            # After a failure what is stored may be of another recipe, or of fewer iterations: not a result.
            outcome.table = [] if outcome.failures else shown_rows(metrics)
            outcome.report = str(store.path / "reports" / f"{study.name}.html")
    return outcome


JobRun = tuple[tuple[str, str], list[dg.AssetKey] | None]
"""A cell, and the assets to make of it, `None` for all."""


def _job_runs(plan: Plan, store: Store) -> Iterator[JobRun]:
    """Runs in order: a base that verifies for another model has to be there before."""
    study = plan.study
    base = [asset_key(study, "base_checkpoint", None)]
    lent = {v.verifier for v in study.verification} - {SELF, BASE}
    yield from ((cell, base) for cell in study.cells() if cell[0] in lent and len(study.models) > 1)
    if study.distillation.joint:
        yield from _joint_runs(plan, store)
    else:
        yield from ((cell, None) for cell in study.cells())


def _joint_runs(plan: Plan, store: Store) -> Iterator[JobRun]:
    """Iteration by iteration, since a joint policy waits for the rows of all tasks of its model.

    The gap before is among the assets, kept: its check is the gate. A policy that lacks the rows of a task
    whose gate is closed is not trained, which ends the loop for all tasks of the model.
    """
    study = plan.study
    for iteration in range(study.iterations + 1):
        keys = [dg.AssetKey(path) for path, nodes in plan.assets.items() if _is_of(nodes[0], iteration)]
        if iteration:
            keys.append(asset_key(study, "gap_metrics", iteration - 1))
        for cell in study.cells():
            if iteration == 0 or store.manifest(plan.policy(iteration, cell)):
                yield cell, keys
        for cell in study.cells() if iteration < study.iterations else ():
            inputs = plan.nodes[plan.policy(iteration + 1, cell)].inputs.values()
            if all(store.manifest(source) for source in inputs):
                yield cell, [asset_key(study, "checkpoint", iteration)]


def _is_of(node: Node, iteration: int) -> bool:
    """Whether a node comes before the joint checkpoint of an iteration; the base comes with the first."""
    address = node.address
    if address.stage == "base_checkpoint":
        return iteration == 0
    return address.iteration == iteration and address.stage != "checkpoint"


def _keep_copy(study: Study, home: Path) -> None:
    """Keep what was run where the UI finds it; a file in `studies/` of the same name comes first there."""
    folder = home / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{study.name}.yaml"
    for kept in readable_studies([file] if file.exists() else []):
        if kept.iterations > study.iterations and _cut(kept, study.iterations) == study:
            return  # the same study cut short: what it measured later on is to be found still
    text = yaml.safe_dump(study.model_dump(mode="json", exclude_none=True), sort_keys=False)
    write_bytes(file, text.encode())


def _cut(study: Study, iterations: int) -> Study:
    return study.model_copy(update={"iterations": iterations})


def _measured(plan: Plan, store: Store) -> bool:
    return any(a.stage == "gap_metrics" and store.manifest(a) for a in plan.nodes)


def _sum_up(
    bound: dg.Definitions, study: Study, instance: dg.DagsterInstance, tags: dict[str, str]
) -> list[str]:
    """Analyses, then the report, which an analysis that fails does not keep from being written."""
    graph = bound.resolve_implicit_global_asset_job_def()
    messages = []
    for keys in ([asset_key(study, name, None) for name in ANALYSES], [asset_key(study, "report", None)]):
        done = graph.execute_in_process(
            instance=instance,
            asset_selection=keys,
            raise_on_error=False,
            run_config={"loggers": {"console": {}}},
            tags=tags,
        )
        messages += _failures(done)
    return messages


def materialize_findings(studies: Sequence[Study]) -> list[str]:
    """Materialize the asset `findings` over some studies, so that the UI shows what the page says.

    Returns:
        What failed.
    """
    store = StoreResource()
    with (
        open_instance(store.path) as instance,
        session(instance, store.path) as tags,
        progress_logger(quiet=True) as loggers,
    ):
        bound = dg.Definitions(resources={"store": store}, loggers=loggers)
        graph = dg.Definitions.merge(findings_definitions(studies), bound)
        done = graph.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, raise_on_error=False, run_config={"loggers": {"console": {}}}, tags=tags
        )
    return _failures(done)


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether Ctrl-C ended the run: Dagster tells that as a failure like others, and would go on."""
    ended = result.filter_events(lambda event: event.event_type == dg.DagsterEventType.RUN_FAILURE)
    reasons = [event.job_failure_data.failure_reason for event in ended]
    return RunFailureReason.UNEXPECTED_TERMINATION in reasons


def _failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    """Failed checks that stop nothing; the gate is told as a stop of the loop."""
    return [
        f"{check.asset_key.to_user_string()}, check {check.check_name}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and not check.blocking
    ]


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """Messages of failed steps; a blocking check that failed is a stop of the loop, not a failure."""
    messages = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        # What Dagster wraps around it says less than the error that a stage raised.
        while error is not None and error.cause is not None and _is_wrapper(error.cls_name or ""):
            error = error.cause
        if error is not None and error.cls_name != "DagsterAssetCheckFailedError":
            description = getattr(event.step_failure_data.user_failure_data, "description", None)
            messages.append(f"{event.step_key}: {description or error.message.strip()}")
    return messages


def _is_wrapper(cls_name: str) -> bool:
    return cls_name.startswith(("Dagster", "RetryRequested"))


def measured_studies(study: str, overrides: list[str]) -> list[Study]:
    """What was run and measured under a name or as a file; of a name never run, its replicates.

    Raises:
        StudyError: If nothing is measured; lists what is.
    """
    home = default_home()
    name = load_study(study, overrides).name if is_study_file(study) else _without_overrides(study, overrides)
    ran = {found.name: found for found in readable_studies(kept_copies(home))}
    wanted = [ran[name]] if name in ran else []
    wanted = wanted or [found for found in ran.values() if found.name.startswith(f"{name}__")]
    store = Store(home)
    measured = [found for found in wanted if _measured(Plan(found), store)]
    if not measured:
        raise StudyError(f"nothing of {name!r} is measured in {home}; run there: {', '.join(ran) or 'none'}")
    return measured


def stored_costs(study: Study) -> list[dict[str, Any]]:
    """What every complete artifact of a study cost, upstream first.

    Raises:
        StudyError: If there is none.
    """
    store = Store(default_home())
    costs = artifact_costs(m for a in Plan(study).nodes if (m := store.manifest(a)) is not None)
    if not costs:
        raise nothing_stored(study, store)
    return costs


def stored_metrics(studies: list[Study]) -> pl.DataFrame:
    """Metrics of all complete iterations of some studies."""
    store = Store(default_home())
    return pl.concat([study_metrics(Plan(study), store) for study in studies])


def stale_metrics(ran: list[Study], study: str, overrides: list[str]) -> list[str]:
    """What is stale of the metrics of some studies, against the study as it is written now."""
    store = Store(default_home())
    if is_study_file(study):
        now = [load_study(study, overrides)]
    else:
        written = {found.name: found for found in readable_studies(study_files())}
        now = [written.get(found.name, found) for found in ran]
    return [
        status.address.artifact_id
        for found in now
        for status in study_status(found, store)
        if status.address.stage == "gap_metrics" and status.state == "stale"
    ]


def exec_ui(port: int) -> None:
    """Become `dagster dev` on the home folder of this project."""
    home = default_home()
    with open_instance(home):
        pass
    os.environ["SI_DAGSTER_HOME"] = str(home)
    root = Path(__file__).parent.parent
    os.chdir(root)
    # A message of two lines that names another tool, on every start.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    serve = ["-m", "dagster", "dev", "--workspace", "workspace.yaml", "--port", str(port)]
    command = [sys.executable, *quiet, *serve]
    os.execv(sys.executable, command)
