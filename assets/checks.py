"""Checks on the graph: the gap must be open before the loop goes on."""

import warnings

import dagster as dg
import polars as pl
from dagster._utils.warnings import PreviewWarning

from assets.stage_asset import asset_key, partitions
from resources.store import StoreResource
from si_dagster.plan import Plan

GATE = "gap_is_open"


def gap_is_open(plan: Plan, iteration: int) -> dg.AssetChecksDefinition:
    """The paper's precondition as a gate on one iteration.

    The lower end of the gap's interval, on evaluation prompts and by the verification that weights training,
    must be above the study's bound; else generations of the next iteration do not start.
    """
    study = plan.study

    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        keys = context.partition_key.keys_by_dimension  # pyright: ignore[reportAttributeAccessIssue]
        address = plan.address("gap_metrics", iteration, (keys["model"], keys["task"]), "eval")
        used = study.weighting_verification().name
        row = store.store.require(address).read().row(by_predicate=pl.col("verification") == used, named=True)
        low = row["gap_low"]
        is_open = low is not None and low > study.stop.min_gap
        verdict = "open" if is_open else "closed: the loop stops here"
        return dg.AssetCheckResult(
            passed=is_open,
            description=f"gap {row['gap']:+.4f}, interval from {low:+.4f}; needed above {study.stop.min_gap}",
            metadata={
                "gap": row["gap"],
                "gap_low": low,
                "gap_high": row["gap_high"],
                "required": study.stop.min_gap,
                "verdict": verdict,
            },
        )

    with warnings.catch_warnings():
        # Partitioned checks are in preview; without them a check knows only the newest cell.
        warnings.simplefilter("ignore", PreviewWarning)
        return dg.asset_check(
            asset=asset_key(study, "gap_metrics", iteration),
            name=GATE,
            blocking=True,
            partitions_def=partitions(study),
            description=f"Lower end of the gap's interval above {study.stop.min_gap}: the loop may go on.",
        )(check)
