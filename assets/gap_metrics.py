"""gap_metrics: the generation-verification gap of one iteration, and what the last update did."""

from typing import Any

import polars as pl

from resources.stage_run import StageRun
from si_dagster.analysis.table import markdown_table, shown_rows
from si_dagster.stages.gap_metrics import IterationTables, gap_metric_row

CARD = """The generation-verification gap J(f_t[w]) - J(f_t), and everything that explains it.

On evaluation prompts also the paired change of J against the iteration before and the base, and the
update error J(f_t-1[w]) - J(f_t). Intervals are cluster bootstraps over prompts.

Reads: utilities, verifications, probes; of the iteration before: utilities and verifications; of the
base: utilities.

Writes: one row: gap, relative gap, pooled gap, pass@k, maj@k, diversity, verifier quality, as in
docs/data.md; one part a split and verification.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Estimate, from stored rows alone."""
    inputs = run.node.inputs
    optional = {
        role: run.read(role) if role in inputs else None
        for role in ("previous_utilities", "base_utilities", "probes")
    }
    trained_by = any(role.startswith("previous_verifications") for role in inputs)
    tables = IterationTables(
        utilities=run.read("utilities"),
        verifications=run.scored(),
        previous_verifications=run.scored("previous_verifications") if trained_by else None,
        **optional,
    )
    address = run.node.address
    split = (address.part or "").partition(".")[0]
    keys = {
        "study": address.study,
        "iteration": address.iteration,
        "model": address.model,
        "task": address.task,
        "split": split,
        "seed": run.study.seed,
    }
    row = keys | gap_metric_row(run.study, run.scorer, tables)
    table = pl.DataFrame([row], infer_schema_length=None)
    run.write_whole(table)
    shown = ("expected_utility", "gap", "gap_low", "gap_high", "relative_gap", "pooled_gap", "improvement")
    return {
        **{name: row[name] for name in (*shown, "update_error", "coverage", "retained", "auroc")},
        "table": markdown_table(shown_rows(table, split)),
    }
