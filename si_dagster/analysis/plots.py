"""Pictures of metrics: altair charts, rendered to SVG or PNG without a browser.

Every chart of an estimate shows its interval. Nothing here computes an estimate or smooths one.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from si_dagster.analysis.table import NO_SPREAD, ROUNDING

WIDTH, HEIGHT = 300, 200
PANELS_A_ROW = 4
CELLS_A_ROW = 20
"""Of a matrix and those beside it."""

LEGEND: dict[str, Any] = {"title": None, "orient": "bottom", "labelLimit": 300, "symbolOpacity": 1}


def iteration_chart(metrics: pl.DataFrame) -> Any:
    """Expected utility, gap and pass@k of the evaluation split over iterations, with intervals.

    Args:
        metrics: Columns as the schema of `gap_metrics`.

    Returns:
        An altair chart of three panels side by side.
    """
    import altair as alt

    rows = metrics.filter(pl.col("split") == "eval").with_columns(
        cell=pl.concat_str("model", "task", separator=" "),
        by=pl.concat_str("model", "task", "verification", separator=" "),
    )
    utility = _with_interval(alt, rows, "expected_utility", "J, expected utility", "cell")
    gaps = _with_interval(alt, rows, "gap", "generation-verification gap", "by")
    panels = alt.hconcat(utility, gaps, _pass_at_k(alt, rows))
    return panels.resolve_scale(color="independent")


def _with_interval(alt: Any, rows: pl.DataFrame, name: str, title: str, color: str) -> Any:
    base = alt.Chart(rows.unique([color, "iteration"]).sort("iteration")).encode(
        x=alt.X("iteration:O", title="iteration", axis=alt.Axis(labelAngle=0)),
        color=_series(alt, rows, color),
    )
    scale = alt.Scale(zero=False)
    line = base.mark_line(point=True).encode(y=alt.Y(f"{name}:Q", title=title, scale=scale))
    bars = base.mark_errorbar(thickness=2).encode(
        y=alt.Y(f"{name}_low:Q", title=title, scale=scale), y2=f"{name}_high:Q"
    )
    return (line + bars).properties(width=WIDTH, height=HEIGHT)


def _pass_at_k(alt: Any, rows: pl.DataFrame) -> Any:
    points = [
        {"cell": cell, "iteration": iteration, "k": int(k), "value": value}
        for cell, iteration, at_k in rows.select("cell", "iteration", "pass_at_k").unique().iter_rows()
        for k, value in json.loads(at_k).items()
    ]
    long = pl.DataFrame(points).sort("iteration", "k")
    return (
        alt.Chart(long)
        .mark_line(point=True)
        .encode(
            x=alt.X("k:O", title="k", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("value:Q", title="pass@k", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "iteration:O",
                scale=alt.Scale(scheme="viridis"),
                legend=alt.Legend(title="iteration", orient="bottom"),
            ),
            detail="cell:N",
        )
        .properties(width=WIDTH, height=HEIGHT)
    )


def cell_titles(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with a column `cell` for panels: model, task and iteration, as far as they differ.

    Examples:
        >>> rows = pl.DataFrame({"iteration": [0, 1], "model": ["a", "a"], "task": ["s", "s"]})
        >>> cell_titles(rows)["cell"].to_list()
        ['iteration 0', 'iteration 1']
    """
    several = [name for name in ("model", "task") if rows[name].n_unique() > 1]
    iteration = pl.format("iteration {}", "iteration")
    return rows.with_columns(cell=pl.concat_str(*several, iteration, separator=", "))


def interval_lines(
    rows: pl.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    title: str,
    column: str | None = None,
    row: str | None = None,
    log_x: bool = False,
) -> Any:
    """Lines with a band from `<y>_low` to `<y>_high`, in panels.

    Args:
        rows: One a point; unknown ends of an interval leave the band open.
        x: Quantitative column.
        y: Quantitative column with its interval beside it.
        color: Nominal column.
        title: Of the y axis.
        column: Nominal column of panels side by side.
        row: Nominal column of panels one below the other.
        log_x: Logarithmic x axis, base 2.
    """
    import altair as alt

    panels = {name: field for name, field in (("column", column), ("row", row)) if field}
    wanted = rows.select({x, y, f"{y}_low", f"{y}_high", color, *panels.values()})
    scale = alt.Scale(type="log", base=2) if log_x else alt.Scale(zero=False)
    base = alt.Chart(wanted).encode(
        x=alt.X(f"{x}:Q", scale=scale),
        color=_series(alt, wanted, color),
    )
    line = base.mark_line(point=alt.OverlayMarkDef(size=12)).encode(y=alt.Y(f"{y}:Q", title=title))
    band = base.mark_area(opacity=0.12).encode(y=alt.Y(f"{y}_low:Q", title=title), y2=f"{y}_high:Q")
    layered = (band + line).properties(width=WIDTH // 2 * (1 if column else 2), height=HEIGHT * 3 // 4)
    if not panels:
        return layered
    header = alt.Header(title=None)
    encoded: dict[str, Any] = {
        name: (alt.Column if name == "column" else alt.Row)(f"{field}:N", header=header)
        for name, field in panels.items()
    }
    return layered.facet(**encoded)


def interval_points(
    rows: pl.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    title: str,
    column: str,
    sort: Sequence[str] | None = None,
) -> Any:
    """Points with an error bar from `<y>_low` to `<y>_high` beside each other, in panels.

    Args:
        rows: One a point.
        x: Nominal column.
        y: Quantitative column with its interval beside it.
        color: Nominal column; its values stand side by side.
        title: Of the y axis.
        column: Nominal column of panels.
        sort: Order of x; default: by name.
    """
    import altair as alt

    wanted = rows.select({x, y, f"{y}_low", f"{y}_high", color, column})
    order = list(sort) if sort is not None else None
    base = alt.Chart(wanted).encode(
        x=alt.X(f"{x}:N", title=None, sort=order, axis=alt.Axis(labelAngle=-40)),
        xOffset=f"{color}:N",
        color=_series(alt, wanted, color),
    )
    points = base.mark_point(filled=True).encode(y=alt.Y(f"{y}:Q", title=title, scale=alt.Scale(zero=False)))
    bars = base.mark_rule().encode(y=alt.Y(f"{y}_low:Q", title=title), y2=f"{y}_high:Q")
    layered = (bars + points).properties(width=WIDTH // 2, height=HEIGHT * 3 // 4)
    return layered.facet(facet=alt.Facet(f"{column}:N", header=alt.Header(title=None)), columns=PANELS_A_ROW)


def _series(alt: Any, rows: pl.DataFrame, name: str) -> Any:
    """A colour a series, each its own up to 20, and a legend that wraps."""
    scheme = "tableau10" if rows[name].n_unique() <= 10 else "tableau20"
    return alt.Color(f"{name}:N", scale=alt.Scale(scheme=scheme), legend=alt.Legend(**LEGEND, columns=6))


def heat_map(rows: pl.DataFrame, *, x: str, y: str, value: str, column: str) -> Any:
    """A matrix whose cells say their number with its interval, in panels.

    Args:
        rows: One a cell of a matrix.
        x: Nominal column.
        y: Nominal column.
        value: Quantitative column that colours the cell, white at 0; its interval lies beside it.
        column: Nominal column of panels.
    """
    import altair as alt

    labelled = rows.with_columns(label=_interval_label(value))
    base = alt.Chart(labelled.select({x, y, value, "label", column})).encode(
        x=alt.X(f"{x}:N", title=x, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y(f"{y}:N", title=y, axis=alt.Axis(labelLimit=300)),
    )
    scale = alt.Scale(scheme="blueorange", domainMid=0)
    cells = base.mark_rect(opacity=0.6).encode(color=alt.Color(f"{value}:Q", scale=scale, legend=None))
    text = base.mark_text(fontSize=9, lineBreak="\n", dy=-4).encode(text="label:N")
    panels = (cells + text).properties(width=alt.Step(76), height=alt.Step(28))
    a_row = min(PANELS_A_ROW, max(1, CELLS_A_ROW // max(1, rows[x].n_unique())))
    return panels.facet(facet=alt.Facet(f"{column}:N", header=alt.Header(title=None)), columns=a_row)


def _interval_label(name: str) -> pl.Expr:
    """A number over its interval, to three decimals; the number alone where it has none, else `-`.

    Examples:
        >>> rows = pl.DataFrame({"r": [0.5, 1.0], "r_low": [0.4, 1.0], "r_high": [0.6, 1.0]})
        >>> rows.select(label=_interval_label("r"))["label"].to_list()
        ['0.5\\n[0.4, 0.6]', '1.0\\n[no spread]']
    """
    rounded = [pl.col(f"{name}{end}").fill_nan(None).round(3) for end in ("", "_low", "_high")]
    # Less -0, which a rounded -.0001 is.
    value, low, high = (pl.when(end == 0).then(0.0).otherwise(end).cast(pl.String) for end in rounded)
    width = (pl.col(f"{name}_high") - pl.col(f"{name}_low")).fill_nan(None)
    interval = pl.when(width < ROUNDING).then(pl.lit(NO_SPREAD)).otherwise(pl.format("[{}, {}]", low, high))
    label = pl.format("{}\n{}", value, interval)
    return pl.coalesce(label, value, pl.lit("-"))


def histogram(values: Sequence[float], title: str) -> Any:
    """How values spread: 20 bins, made here so that a million values stay a small picture."""
    import altair as alt
    import numpy as np

    counts, edges = np.histogram(np.asarray(values, dtype=float), bins=20)
    bins = pl.DataFrame({"low": edges[:-1], "high": edges[1:], "count": counts})
    return (
        alt.Chart(bins)
        .mark_bar()
        .encode(
            x=alt.X("low:Q", title=title, bin="binned"),
            x2="high:Q",
            y=alt.Y("count:Q", title="rows"),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )


def loss_chart(steps: Sequence[int], losses: Sequence[float]) -> Any:
    """Training loss over optimiser steps."""
    import altair as alt

    curve = pl.DataFrame({"step": list(steps), "loss": list(losses)})
    return (
        alt.Chart(curve)
        .mark_line()
        .encode(x="step:Q", y=alt.Y("loss:Q", scale=alt.Scale(zero=False)))
        .properties(width=WIDTH, height=HEIGHT)
    )


def to_svg(chart: Any) -> str:
    """The chart as SVG text."""
    import vl_convert

    return vl_convert.vegalite_to_svg(chart.to_dict())


def to_markdown(chart: Any, alt_text: str, scale: float = 1.5) -> str:
    """The chart as a Markdown image that carries its own bytes (PNG), as Dagster's UI shows it."""
    import vl_convert

    png = vl_convert.vegalite_to_png(chart.to_dict(), scale=scale)
    return f"![{alt_text}](data:image/png;base64,{base64.b64encode(png).decode()})"
