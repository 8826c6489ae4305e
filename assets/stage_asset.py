"""How a stage becomes an asset: keys, edges, checks of what lies there, and what the UI shows.

Every stage goes through `materialize_cell`: an artifact that is whole and of this recipe is kept, one that
was begun is continued, one of another recipe is refused unless the run may supersede. It computes nothing.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._utils.warnings import BetaWarning

from resources.engine import EngineResource
from resources.stage_run import StageRun
from resources.store import StoreResource
from resources.trainer import TrainerResource
from si_dagster.analysis.table import markdown_table
from si_dagster.engines.base import EngineError
from si_dagster.plan import NAMED_STAGES, Node, Plan, asset_path
from si_dagster.stages.base_checkpoint import CheckpointError, files_digest, model_digest, resolve_model
from si_dagster.store import schemas
from si_dagster.store.artifacts import Store
from si_dagster.store.errors import StoreError
from si_dagster.store.layout import Address
from si_dagster.store.lineage import Catalogue
from si_dagster.store.manifest import InputRef, Manifest
from si_dagster.study import Study
from si_dagster.tasks.base import data_files
from si_dagster.tasks.catalogue import load_task

OWNERS = ["team:self-improvement"]
SAMPLE_ROWS = 5
USER_ERRORS = (StoreError, CheckpointError, ValueError)
"""Errors that trying again does not mend."""


class Interrupted(dg.DagsterError, DagsterExecutionInterruptedError):
    """Ctrl-C or a termination from the UI. As a DagsterError it passes by the retry policy of a step, which
    would else start the stage again.
    """


@dataclass(frozen=True)
class Stage:
    """One kind of asset.

    Attributes:
        name: Name of the stage.
        card: Shown in the UI.
        materialize: Makes one artifact and returns its metadata.
        kinds: Shown in the UI; three at most.
        max_retries: Of an engine that died; chunks that are whole are not made again.
        pool: Of the runs that hold an engine or a trainer; a deployment limits how many (docs/deploy.md).
    """

    name: str
    card: str
    materialize: Callable[[StageRun], dict[str, Any]]
    kinds: frozenset[str]
    max_retries: int = 0
    pool: str | None = None


def partitions(study: Study) -> dg.MultiPartitionsDefinition:
    """Model x task: one partition a cell."""
    return dg.MultiPartitionsDefinition(
        {
            "model": dg.StaticPartitionsDefinition([model.name for model in study.models]),
            "task": dg.StaticPartitionsDefinition([task.name for task in study.tasks]),
        }
    )


def asset_key(study: Study, stage: str, iteration: int | None) -> dg.AssetKey:
    """`<study>/iteration_<t>/<stage>`; outside the loop `<study>/<stage>` or `<study>/analysis/<stage>`.

    What is of one verification has its name behind: see `plan.asset_path`.
    """
    return dg.AssetKey(list(Address(study.name, iteration, stage).key))


def group_name(study: Study, iteration: int | None, outside: str) -> str:
    """Groups are shown folded, in order; their names allow letters, digits and `_` only."""
    name = f"{study.name}__{outside if iteration is None else f'iteration_{iteration}'}"
    return "".join(c if c.isalnum() else "_" for c in name)


def stage_asset(
    plan: Plan, stage: Stage, path: tuple[str, ...], automation: dg.AutomationCondition
) -> dg.AssetsDefinition:
    """The asset of one stage of one iteration, or of one of its verifications."""
    study, iteration = plan.study, plan.assets[path][0].address.iteration

    @dg.asset(
        key=dg.AssetKey(path),
        deps=list(_edges(plan, path)),
        partitions_def=partitions(study),
        group_name=group_name(study, iteration, "base"),
        description=_card(plan, stage, path),
        kinds=set(stage.kinds),
        owners=OWNERS,
        tags={"si/study": study.name, **({} if iteration is None else {"si/iteration": str(iteration)})},
        metadata={"dagster/column_schema": column_schema(stage.name)} if _has_rows(stage.name) else {},
        code_version=plan.code_version(path),
        automation_condition=automation,
        pool=stage.pool,
        retry_policy=dg.RetryPolicy(max_retries=stage.max_retries, delay=2) if stage.max_retries else None,
    )
    def asset(
        context: dg.AssetExecutionContext,
        store: StoreResource,
        engine: EngineResource,
        trainer: TrainerResource,
    ) -> dg.MaterializeResult:
        return materialize_cell(context, study, stage, path, store, engine, trainer)

    return asset


def _card(plan: Plan, stage: Stage, path: tuple[str, ...]) -> str:
    """The card of the stage; that of a verification says whose it is."""
    if stage.name not in NAMED_STAGES:
        return stage.card
    spec = plan.study.verification_named(path[-1])
    taught = f", taught by {spec.teacher}, budget {spec.budget}" if spec.teacher else ""
    return f"{stage.card}\nThis one: method {spec.method}, verifier {spec.verifier}{taught}.\n"


def _edges(plan: Plan, path: tuple[str, ...]) -> Iterable[dg.AssetDep]:
    """One dependency an upstream key; a gate is marked as such."""
    models_read: dict[dg.AssetKey, dict[str, set[str]]] = {}
    joint: set[dg.AssetKey] = set()
    for node in plan.assets[path]:
        for source in node.inputs.values():
            key = dg.AssetKey(asset_path(source))
            reads = models_read.setdefault(key, {})
            reads.setdefault(node.address.model or "", set()).add(source.model or "")
            if node.address.task is None and source.task is not None:
                joint.add(key)
    for key, reads in models_read.items():
        mapping = _mapping(reads, key in joint)
        yield dg.AssetDep(key, partition_mapping=mapping, metadata={"si/edge": "input"})
    address = plan.assets[path][0].address
    gate = plan.gate(address.stage, address.iteration)
    if gate is not None:
        key = asset_key(plan.study, "gap_metrics", gate)
        mapping = dg.IdentityPartitionMapping()
        yield dg.AssetDep(key, partition_mapping=mapping, metadata={"si/edge": "gate"})


def _mapping(models_read: dict[str, set[str]], all_tasks: bool) -> dg.PartitionMapping:
    """Each cell reads its own, unless another model verifies or one policy is trained on all tasks."""
    if not all_tasks and all(read == {model} for model, read in models_read.items()):
        return dg.IdentityPartitionMapping()
    # Dagster maps upstream partitions to downstream ones.
    downstream: dict[str, list[str]] = {}
    for model, read in sorted(models_read.items()):
        for upstream in sorted(read):
            downstream.setdefault(upstream, []).append(model)
    with warnings.catch_warnings():
        # Dagster warns of a beta feature at every study whose models verify each other.
        warnings.simplefilter("ignore", BetaWarning)
        return dg.MultiPartitionMapping(
            {
                "model": dg.DimensionPartitionMapping("model", dg.StaticPartitionMapping(downstream)),
                "task": dg.DimensionPartitionMapping(
                    "task", dg.AllPartitionMapping() if all_tasks else dg.IdentityPartitionMapping()
                ),
            }
        )


def planned(study: Study) -> Plan:
    """The plan with the bytes of given models and of local task data in its fingerprints."""
    digests = {
        model.name: model_digest(resolve_model(model.path, model.revision))
        for model in study.models
        if model.path is not None
    }
    files = {task.name: data_files(load_task(task.name, task.options)) for task in study.tasks}
    data_digests = {name: files_digest(found) for name, found in files.items() if found}
    return Plan(study, digests, data_digests)


def materialize_cell(
    context: dg.AssetExecutionContext,
    study: Study,
    stage: Stage,
    path: tuple[str, ...],
    store: StoreResource,
    engine: EngineResource,
    trainer: TrainerResource,
) -> dg.MaterializeResult:
    """All parts of one asset of one cell, each kept, continued or made."""
    keys = context.partition_key.keys_by_dimension  # pyright: ignore[reportAttributeAccessIssue]
    with told_plainly():
        plan = planned(study)
        manifests = [
            _materialize_part(context, plan, node, stage, store, engine, trainer)
            for node in plan.assets[path]
            # An artifact of all tasks is made by the first cell that comes, and kept by the others.
            if (node.address.model, node.address.task or keys["task"]) == (keys["model"], keys["task"])
        ]
        return result(manifests, store.store)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn errors that trying again does not mend into one plain failure; an interrupt is not tried again."""
    try:
        yield
    except (KeyboardInterrupt, DagsterExecutionInterruptedError) as interrupt:
        raise Interrupted("interrupted") from interrupt
    except EngineError:
        raise
    except USER_ERRORS as error:
        raise dg.Failure(description=f"{error}", allow_retries=False) from error


def _materialize_part(
    context: dg.AssetExecutionContext,
    plan: Plan,
    node: Node,
    stage: Stage,
    store_resource: StoreResource,
    engine: EngineResource,
    trainer: TrainerResource,
) -> Manifest:
    store, address = store_resource.store, node.address
    inputs = [_input(store, role, source) for role, source in node.inputs.items()]
    versions = {reference.artifact_id: reference.data_version for reference in inputs}
    kept = store.reusable(address, plan.fingerprint(address), versions)
    if kept is not None:
        context.log.info(f"{address.artifact_id}: kept, {kept.num_rows} rows of this very recipe")
        Catalogue(store.home).record(kept)
        return kept
    with store.open_writer(
        address,
        plan.recipe(address),
        plan.fingerprint(address),
        study_snapshot=plan.study.model_dump(mode="json"),
        inputs=inputs,
        supersede=store_resource.supersede,
    ) as writer:
        run = StageRun(context, plan, node, store, writer, engine, trainer)
        try:
            metadata = stage.materialize(run)
        except BaseException:
            with suppress(StoreError):  # a full disk, most likely the one that ended it
                run.save_cost()
            raise
        metadata["wall_seconds"] = run.wall_seconds
        manifest = writer.commit(
            metadata=metadata,
            dagster_run_id=context.run.run_id,
            code_version=str(node.fields["code_version"]),
        )
    Catalogue(store.home).record(manifest)
    return manifest


def _input(store: Store, role: str, source: Any) -> InputRef:
    return store.require(source).manifest.as_input(role)


def result(manifests: list[Manifest], store: Store) -> dg.MaterializeResult:
    """What the UI shows of some artifacts: their metadata, where they lie, their first rows."""
    versions = "".join(manifest.data_version for manifest in manifests)
    metadata: dict[str, Any] = {"dagster/row_count": sum(manifest.num_rows for manifest in manifests)}
    for manifest in manifests:
        prefix = f"{manifest.address.part}/" if len(manifests) > 1 else ""
        metadata |= {f"{prefix}{name}": _shown(name, v) for name, v in manifest.metadata.items()}
        metadata[f"{prefix}fingerprint"] = manifest.fingerprint
        metadata[f"{prefix}path"] = dg.MetadataValue.path(str(store.require(manifest.address).path))
        if _has_rows(manifest.address.stage):
            metadata[f"{prefix}sample"] = dg.MetadataValue.md(_sample(store, manifest))
    data_version = hashlib.sha256(versions.encode()).hexdigest()
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(data_version))


def _shown(name: str, value: Any) -> Any:
    if value is None:
        return dg.MetadataValue.text("-")
    if name in ("plot", "table"):
        return dg.MetadataValue.md(value)
    if name == "first_prompt":
        return dg.MetadataValue.md(f"```\n{value}\n```")
    return value if isinstance(value, int | float | str) else dg.MetadataValue.json(value)


def _sample(store: Store, manifest: Manifest) -> str:
    rows = store.require(manifest.address).scan().head(SAMPLE_ROWS).collect()
    return markdown_table([{k: _short(v) for k, v in row.items()} for row in rows.to_dicts()])


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _has_rows(stage: str) -> bool:
    return stage in schemas.TABLES


@cache
def column_schema(stage: str) -> dg.TableSchema:
    """The declared columns of a table, for the UI."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.kind,
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in schemas.TABLES[stage].columns
        ]
    )
