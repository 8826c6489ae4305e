"""Runs from the command line: the same assets as the UI, in this process, in the same Dagster instance.

It starts, watches and sums up runs. What a run computes is in `assets`; where it lies is the store's.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml

from assets.automation import job_name
from assets.report import stop_reason, study_metrics
from assets.stage_asset import asset_key, planned
from resources.engine import EngineResource
from resources.store import StoreResource
from si_dagster.analysis.cost import artifact_costs
from si_dagster.analysis.table import shown_rows
from si_dagster.console import progress_logger
from si_dagster.core.fingerprint import drift
from si_dagster.definitions import definitions, find_studies, kept_copies, readable_studies
from si_dagster.instance import open_instance, session
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.atomic import write_bytes
from si_dagster.store.errors import CorruptArtifact, RecipeDrift
from si_dagster.store.integrity import BEGIN, MANIFEST
from si_dagster.store.layout import Address, default_home
from si_dagster.study import BASE, SELF, Study, StudyError, load_study


@dataclass
class Outcome:
    """How a study stands after a run.

    Attributes:
        study: Its name.
        failures: One message a failed step; a closed gap is no failure.
        stopped: Why the loop ended early, if it did.
        table: The gap table on held-out prompts, as text.
        report: Path of the report; `None` where nothing was measured.
    """

    study: str
    failures: list[str] = field(default_factory=list)
    stopped: str | None = None
    table: list[dict[str, str]] = field(default_factory=list)
    report: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def summary(self) -> list[str]:
        """What a person wants to know next."""
        lines = [f"[bold red]failed:[/] {failure}" for failure in self.failures]
        if self.stopped:
            lines.append(f"[bold]stopped:[/] {self.stopped}")
        if self.report:
            lines.append(f"report: {self.report}")
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
    if Path(study).suffix in (".yaml", ".yml") or Path(study).is_file():
        return load_study(study, overrides)
    known = {found.name: found for found in find_studies(default_home())}
    if study not in known:
        raise StudyError(f"no study {study!r}; known: {', '.join(sorted(known)) or 'none'}, or give a file")
    if overrides:
        raise StudyError(f"overrides go with a study file, not with the name {study!r}")
    return known[study]


def run_study(
    study: Study,
    store: StoreResource | None = None,
    engine: EngineResource | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run every cell of a study from where it is, then the report.

    Args:
        study: What to run; a copy is kept under the home folder, so that the UI shows it too.
        store: Where, and whether artifacts of another recipe may be moved aside.
        engine: Which engine, in what portions.
        quiet: No progress on the terminal.

    Raises:
        RecipeDrift: If anything stored was made by another recipe and may not be moved aside.
    """
    store = store or StoreResource()
    if not store.supersede:
        refuse_other_recipe(planned(study), store.store)
    outcome = Outcome(study.name)
    with (
        open_instance(store.path) as instance,
        session(instance, store.path) as tags,
        progress_logger(quiet) as loggers,
    ):
        graph = definitions([study], store, engine)
        bound = dg.Definitions.merge(graph, dg.Definitions(loggers=loggers))
        job = bound.resolve_job_def(job_name(study.name, "all_iterations"))
        # After the graph is drawn: a copy of which none can be would be left out, with a warning, for ever.
        _keep_copy(study, store.path)
        for (model, task), selection in _job_runs(study):
            result = job.execute_in_process(
                instance=instance,
                partition_key=dg.MultiPartitionKey({"model": model, "task": task}),
                asset_selection=selection,
                raise_on_error=False,
                run_config={"loggers": {"console": {}}},
                tags=tags,
            )
            outcome.failures += _failures(result)
        plan = planned(study)
        if _measured(plan, store.store):
            _report(bound, study, instance, tags)
            metrics = study_metrics(plan, store.store)
            outcome.stopped = stop_reason(plan, metrics)
            # After a failure what is stored may be of another recipe, or of fewer iterations: not a result.
            outcome.table = [] if outcome.failures else shown_rows(metrics)
            outcome.report = str(store.path / "reports" / f"{study.name}.html")
    return outcome


def refuse_other_recipe(plan: Plan, store: Store) -> None:
    """Before anything runs: is what is stored of this study's recipe?

    Raises:
        RecipeDrift: If not; field by field, with what it would cost and the ways out.
    """
    drifted: dict[tuple[str, str, str], list[Address]] = {}
    for address in (a for a in plan.nodes if a.stage != "report"):
        for found in _own_drift(plan, store, address):
            field, stored, asked = found["field"], found["stored"], found["study"]
            drifted.setdefault((field, repr(stored), repr(asked)), []).append(address)
    if not drifted:
        return
    own = set().union(*drifted.values())
    lost = [address for address in own | plan.readers(own) if (store.folder(address) / MANIFEST).is_file()]
    lines = [
        f"  {field}: stored {stored}, study says {asked} ({', '.join(sorted({a.stage for a in addresses}))})"
        for (field, stored, asked), addresses in drifted.items()
    ]
    raise RecipeDrift(
        "\n".join(
            [
                f"study {plan.study.name!r} was run by another recipe:",
                *lines,
                "Nothing was changed. Either restore the fields; or add name=... so that both lie side by "
                f"side; or add --supersede: {len(lost)} artifacts are moved to data/.superseded "
                "(nothing is deleted) and made again",
            ]
        ),
        {field: (stored, asked) for field, stored, asked in drifted},
    )


def _own_drift(plan: Plan, store: Store, address: Address) -> list[dict[str, Any]]:
    """Fields of an artifact's own recipe that differ; what is damaged is the stage's to tell."""
    try:
        found = _artifact_status(plan, store, address)["drift"]
    except CorruptArtifact:
        return []
    return [row for row in found if not row["field"].startswith("inputs.")]


def _job_runs(study: Study) -> list[tuple[tuple[str, str], list[dg.AssetKey] | None]]:
    """(cell, assets or all) in order: a base that verifies for another model has to be there before."""
    base = [asset_key(study, "base_checkpoint", None)]
    lent = {v.verifier for v in study.verification} - {SELF, BASE}
    return [
        *((cell, base) for cell in study.cells() if cell[0] in lent and len(study.models) > 1),
        *((cell, None) for cell in study.cells()),
    ]


def _keep_copy(study: Study, home: Path) -> None:
    """Keep what was run where the UI finds it; a file in `studies/` of the same name comes first there."""
    folder = home / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(study.model_dump(mode="json", exclude_none=True), sort_keys=False)
    write_bytes(folder / f"{study.name}.yaml", text.encode())


def _measured(plan: Plan, store: Store) -> bool:
    return any(a.stage == "gap_metrics" and store.manifest(a) for a in plan.nodes)


def _report(bound: dg.Definitions, study: Study, instance: dg.DagsterInstance, tags: dict[str, str]) -> None:
    report = asset_key(study, "report", None)
    graph = bound.resolve_implicit_global_asset_job_def()
    graph.execute_in_process(
        instance=instance, asset_selection=[report], run_config={"loggers": {"console": {}}}, tags=tags
    )


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """Messages of failed steps; a blocking check that failed is a stop of the loop, not a failure."""
    messages = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        while error is not None and error.cause is not None and error.cls_name != "Failure":
            error = error.cause
        if error is not None and error.cls_name != "DagsterAssetCheckFailedError":
            description = getattr(event.step_failure_data.user_failure_data, "description", None)
            messages.append(f"{event.step_key}: {description or error.message.strip()}")
    return messages


def study_status(study: Study) -> list[dict[str, Any]]:
    """State of every artifact: `done`, `begun`, `missing` or `stale`, with the fields that differ."""
    plan, store = planned(study), Store(default_home())
    rows, stale = [], set()
    for address, node in plan.nodes.items():
        if address.stage == "report":
            continue
        row = _artifact_status(plan, store, address)
        if row["state"] != "missing" and any(source in stale for source in node.inputs.values()):
            row["state"] = "stale"
        if row["state"] == "stale":
            stale.add(address)
        rows.append(row)
    return rows


def _artifact_status(plan: Plan, store: Store, address: Address) -> dict[str, Any]:
    manifest, begun = store.manifest(address), _begun_recipe(store, address)
    stored = manifest.recipe if manifest else begun
    differences = drift(stored, plan.recipe(address)) if stored is not None else []
    state = "done" if manifest else "begun" if begun is not None else "missing"
    own = [(f, a, b) for f, a, b in differences if not f.startswith("inputs.")]
    return {
        "artifact": address.artifact_id,
        "state": "stale" if differences else state,
        "num_rows": manifest.num_rows if manifest else None,
        "fingerprint": plan.fingerprint(address),
        "drift": [{"field": f, "stored": a, "study": b} for f, a, b in own or differences],
    }


def _begun_recipe(store: Store, address: Address) -> dict[str, Any] | None:
    """The recipe of an artifact that was begun; `None` where there is none."""
    file = store.folder(address) / BEGIN
    try:
        return json.loads(file.read_text(encoding="utf-8"))["recipe"] if file.is_file() else None
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptArtifact(
            f"{file}: cannot be read ({error!r}); run with --supersede: the folder is moved aside whole"
        ) from error


def stored_metrics(study: str, overrides: list[str]) -> pl.DataFrame:
    """Metrics of a study by file or name; of a name that was never run, those of its replicates.

    Raises:
        StudyError: If nothing is measured; lists what is.
    """
    home = default_home()
    store = Store(home)
    is_file = Path(study).suffix in (".yaml", ".yml") or Path(study).is_file()
    name = load_study(study, overrides).name if is_file else study
    measured = {found.name: found for found in _ran_studies(home) if _measured(Plan(found), store)}
    wanted = [measured[name]] if name in measured else []
    wanted = wanted or [found for found in measured.values() if found.name.startswith(f"{name}__")]
    if not wanted:
        raise StudyError(
            f"nothing of {name!r} is measured in {home}; measured: {', '.join(measured) or 'none'}"
        )
    return pl.concat([study_metrics(Plan(found), store) for found in wanted])


def stored_costs(study: Study) -> list[dict[str, Any]]:
    """What every complete artifact of a study cost, upstream first.

    Raises:
        StudyError: If there is none.
    """
    store = Store(default_home())
    costs = artifact_costs(m for a in Plan(study).nodes if (m := store.manifest(a)) is not None)
    if not costs:
        raise StudyError(f"nothing of {study.name!r} is materialized in {store.home}: run it first")
    return costs


def _ran_studies(home: Path) -> list[Study]:
    return list(readable_studies(kept_copies(home)))


def exec_ui(port: int) -> None:
    """Become `dagster dev` on the home folder of this project."""
    home = default_home()
    with open_instance(home):
        pass
    os.environ["SI_DAGSTER_HOME"] = str(home)
    root = Path(__file__).parent.parent
    os.chdir(root)
    command = [sys.executable, "-m", "dagster", "dev", "--workspace", "workspace.yaml", "--port", str(port)]
    os.execv(sys.executable, command)
