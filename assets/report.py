"""report: one page on the whole study, from the metrics of all its iterations."""

from typing import Any

import dagster as dg
import polars as pl

from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.analysis.cost import artifact_costs, artifact_table, cost_tables
from si_dagster.analysis.plots import iteration_chart, to_markdown
from si_dagster.analysis.report import Section, html_report
from si_dagster.analysis.table import markdown_table, shown_rows
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.atomic import write_bytes
from si_dagster.store.layout import Address
from si_dagster.store.schemas import TABLES

CARD = """The study on one page: J, gap and pass@k over iterations, and what the intervals allow to say.

Made from whatever iterations are complete: a loop that stopped is reported up to where it stopped.

Reads: gap_metrics of all iterations, models and tasks; all analyses.

Writes: report.html under the home folder.
"""


def materialize(plan: Plan, store: Store) -> dg.MaterializeResult:
    """Write the page and show table and picture."""
    metrics = study_metrics(plan, store)
    study = plan.study.model_dump(mode="json")
    stopped = stop_reason(plan, metrics)
    path = store.home / "reports" / f"{plan.study.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    spent = artifact_costs(m for a in plan.nodes if (m := store.manifest(a)) is not None)
    costs = {
        **cost_tables(spent, plan.study.price),
        "by artifact": artifact_table(spent, plan.study.price),
    }
    page = html_report(study, metrics, stopped, costs, sections(plan, store))
    write_bytes(path, page.encode())
    table = markdown_table(shown_rows(metrics))
    metadata: dict[str, Any] = {
        "path": dg.MetadataValue.path(path),
        "table": dg.MetadataValue.md(table),
        "plot": dg.MetadataValue.md(to_markdown(iteration_chart(metrics), "the gap over iterations")),
        "stopped": stopped or "no",
        "dagster/row_count": metrics.height,
    }
    return dg.MaterializeResult(metadata=metadata)


def sections(plan: Plan, store: Store) -> list[Section]:
    """The analyses that are stored and have something to say, in the order of the catalogue."""
    found = []
    for name, analysis in ANALYSES.items():
        address = Address(plan.study.name, None, name)
        if store.manifest(address) is None:
            continue
        artifact, module = store.require(address), analysis.load()
        rows = module.shown(artifact.read()) if artifact.manifest.num_rows else []
        picture = artifact.manifest.metadata.get("plot", "")
        if rows:
            image = picture.partition("](")[2].removesuffix(")")
            found.append(Section(module.TITLE, module.READING, image, rows))
    return found


def study_metrics(plan: Plan, store: Store) -> pl.DataFrame:
    """Metrics of all complete iterations of a study.

    Raises:
        ValueError: If there is none.
    """
    addresses = [a for a in plan.nodes if a.stage == "gap_metrics" and store.manifest(a)]
    if not addresses:
        raise ValueError(f"no gap_metrics of {plan.study.name!r} are materialized yet")
    table = TABLES["gap_metrics"]
    # Metrics of training prompts may be from before a column was added.
    return pl.concat(
        table.filled(store.require(address).read()).select(table.dtypes.keys()) for address in addresses
    )


def stop_reason(plan: Plan, metrics: pl.DataFrame) -> str | None:
    """Why the loop ended early, from the metrics; `None` where it did not."""
    used = plan.study.weighting_verification().name
    rows = metrics.filter((pl.col("split") == "eval") & (pl.col("verification") == used))
    closed = rows.filter(
        (pl.col("gap_low").fill_null(float("-inf")) <= plan.study.stop.min_gap)
        & (pl.col("iteration") < plan.study.iterations)
    ).sort("iteration")
    reasons = [
        f"{row['model']} on {row['task']}, iteration {row['iteration']}: "
        + (
            "no prompt has a gap: the verifier left nothing"
            if row["gap_low"] is None
            else f"the gap's interval begins at {row['gap_low']:+.3f}, not above {plan.study.stop.min_gap}"
        )
        for row in closed.iter_rows(named=True)
    ]
    return "; ".join(reasons) or None
