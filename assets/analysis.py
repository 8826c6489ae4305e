"""analysis: one table and picture a question, over all iterations, models and tasks of a study.

Analyses read what is stored and ask no engine. They are made anew whenever something they read is, and the
one before is moved aside unasked: what they hold can always be made again.
"""

import time
from typing import Any

import dagster as dg

from assets.stage_asset import result
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.analysis.data import StudyData
from si_dagster.analysis.plots import to_markdown
from si_dagster.analysis.table import markdown_table
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.store.lineage import Catalogue
from si_dagster.store.schemas import TABLES


def materialize(
    plan: Plan, name: str, store: Store, context: dg.AssetExecutionContext
) -> dg.MaterializeResult:
    """Make one analysis from whatever is complete, or keep the one that was made from the same."""
    address = Address(plan.study.name, None, name)
    sources = {**plan.nodes[address].inputs, **{a.artifact_id: a for a in plan.beside(ANALYSES[name])}}
    there = {role: store.require(source) for role, source in sources.items() if store.manifest(source)}
    inputs = [artifact.manifest.as_input(role) for role, artifact in there.items()]
    manifest = store.reusable(
        address, plan.fingerprint(address), {ref.artifact_id: ref.data_version for ref in inputs}
    )
    if manifest is None:
        with store.open_writer(
            address,
            plan.recipe(address),
            plan.fingerprint(address),
            study_snapshot=plan.study.model_dump(mode="json"),
            inputs=inputs,
            supersede=True,
        ) as writer:
            began = time.monotonic()
            data = StudyData(plan.study, {artifact.address: artifact for artifact in there.values()})
            made = ANALYSES[name].load().rows(data)
            if writer.existing().is_empty():
                writer.write_part(TABLES[name].filled(made))
            metadata = _metadata(name, writer.existing())
            metadata["wall_seconds"] = time.monotonic() - began
            manifest = writer.commit(
                metadata=metadata,
                dagster_run_id=context.run_id,
                code_version=str(plan.nodes[address].fields["code_version"]),
            )
    Catalogue(store.home).record(manifest)
    return result([manifest], store)


def _metadata(name: str, rows: Any) -> dict[str, Any]:
    module = ANALYSES[name].load()
    metadata: dict[str, Any] = {"table": markdown_table(module.shown(rows)), "reading": module.READING}
    chart = module.chart(rows) if rows.height else None
    if chart is not None:
        metadata["plot"] = to_markdown(chart, module.TITLE, scale=1.0)
    return metadata
