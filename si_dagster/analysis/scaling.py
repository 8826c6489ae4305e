"""Scaling: the gap of base policies on log10 pre-training FLOPs, a line a family and verification.

The paper's claim is about the relative gap; the absolute gap, and the error rates of the verifier that a gap
mixes, are fitted beside it. Only iteration 0 counts: later policies have seen more than pre-training. Models
without known FLOPs are left out.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, estimated, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.scaling import kendall_tau, line_fit
from si_dagster.core.verifier_quality import acceptance_intervals
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.store.analysis_schemas import MEASURES
from si_dagster.store.layout import Address

TITLE = "Scaling"
CARD = """Relative gap, gap, TPR and FPR of the base policies on log10 of pre-training FLOPs: slope with
interval and Kendall's tau, a line a family, task and verification.

Reads: base_checkpoint (FLOPs), utilities, verifications of iteration 0.

Writes: one row a line; its points are in column points.
"""
READING = """Slope per tenfold pre-training FLOPs, with a t interval of the residuals (two models leave
none), and Kendall's tau with its two-sided p. A gap mixes how good the verifier is with how often the
policy is right: TPR and FPR show which of them moves."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a line; columns as the schema of `scaling`."""
    points = table([point for samples in data.samples() for point in _points(data, samples)])
    if points.is_empty():
        return points
    groups = points.group_by("family", "task", "verification", "measure", maintain_order=True)
    confidence = data.study.analysis.confidence
    return table([row for keys, group in groups for row in _line(keys, group, confidence)])


def _points(data: StudyData, samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    """What one base policy adds to each line."""
    flops = _pretraining_flops(data, samples)
    if samples.iteration != 0 or flops is None:
        return
    for spec in samples.scorers:
        weights = samples.weights(spec)
        estimates = estimated(samples.estimate(weights), "gap", "relative_gap")
        rates = acceptance_intervals(
            samples.utilities, weights, samples.offsets, **bootstrap_options(samples.study)
        )
        for name, rate in zip(("tpr", "fpr"), rates, strict=True):
            estimates |= columns_of(name, rate)
        for measure in MEASURES:
            if not math.isnan(value := estimates[measure]):
                yield {
                    "family": samples.study.model(samples.model).family_name,
                    "task": samples.task,
                    "verification": spec.name,
                    "measure": measure,
                    "model": samples.model,
                    "log10_flops": math.log10(flops),
                    "value": value,
                    "low": estimates[f"{measure}_low"],
                    "high": estimates[f"{measure}_high"],
                }


def _pretraining_flops(data: StudyData, samples: ScoredSamples) -> float | None:
    base = Address(samples.study.name, None, "base_checkpoint", samples.model, samples.task)
    return samples.study.model(samples.model).pretraining_flops or data.told(base, "pretraining_flops")


def _line(keys: tuple[Any, ...], group: pl.DataFrame, confidence: float) -> Iterator[dict[str, Any]]:
    x, y = group["log10_flops"].to_numpy(), group["value"].to_numpy()
    if len(np.unique(x)) < 2:
        return
    fit, (tau, p_value) = line_fit(x, y, confidence), kendall_tau(x, y)
    points = group.select("model", "log10_flops", "value", "low", "high").sort("log10_flops")
    yield {
        **dict(zip(("family", "task", "verification", "measure"), keys, strict=True)),
        "slope": fit.slope,
        "slope_low": fit.low,
        "slope_high": fit.high,
        "intercept": fit.intercept,
        "kendall_tau": tau,
        "kendall_p_value": p_value,
        "num_models": len(x),
        "min_log10_flops": float(x.min()),
        "max_log10_flops": float(x.max()),
        "points": json.dumps(points.rows()),
    }


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The lines, as text."""
    headings = {
        "verification": "verification",
        "measure": "measure",
        "slope": "slope per tenfold FLOPs",
        "kendall_tau": "Kendall's tau",
        "kendall_p_value": "p",
        "num_models": "models",
        "min_log10_flops": "log10 FLOPs from",
        "max_log10_flops": "to",
    }
    return text_rows(rows, headings, cells=["family", "task"])


def chart(rows: pl.DataFrame) -> Any:
    """The points with their intervals, a panel a measure."""
    from si_dagster.analysis.plots import interval_lines

    columns = ("model", "log10_flops", "value", "value_low", "value_high")
    points = pl.DataFrame(
        [
            {"line": f"{row['family']} {row['verification']}", "measure": row["measure"]}
            | dict(zip(columns, point, strict=True))
            for row in rows.iter_rows(named=True)
            for point in json.loads(row["points"])
        ],
        infer_schema_length=None,
        schema_overrides={"value_low": pl.Float64, "value_high": pl.Float64},
    )
    return interval_lines(
        points, x="log10_flops", y="value", color="line", column="measure", title="base policies"
    )
