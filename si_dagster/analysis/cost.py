"""What a study cost: tokens, seconds, FLOPs and memory, per artifact, iteration and accepted training row.

Read from the manifests, which carry what engines and trainers told. It measures nothing, and stages that run
no model (grading, weighting, metrics) have wall seconds alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from si_dagster.store.manifest import Manifest
from si_dagster.study import PriceSpec

COUNTED = ("prompt_tokens", "completion_tokens", "cached_tokens", "model_seconds", "gpu_seconds", "flops")
"""Quantities that add up; `model_seconds` are inside an engine or a trainer."""
PEAKS = ("peak_memory_bytes", "peak_gpu_memory_bytes")
"""Quantities of which the largest is kept."""
SHORT_SECONDS = 0.5
MILLION = 1e6
SECONDS_AN_HOUR = 3600.0


def artifact_costs(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """One row an artifact; `None` where a stage has no such quantity, or a copy spent it elsewhere."""
    return [_artifact_cost(manifest) for manifest in manifests]


def _artifact_cost(manifest: Manifest) -> dict[str, Any]:
    address, copied_from = manifest.address, manifest.metadata.get("copied_from")
    # What a copy says of its making was spent on the artifact it was copied from, and is counted there.
    told = {} if copied_from else manifest.metadata
    flops = told.get("flops", told.get("pretraining_flops"))
    seconds = told.get("engine_seconds", told.get("seconds") if flops is not None else None)
    return {
        "artifact": manifest.artifact_id,
        "iteration": address.iteration,
        "stage": address.stage,
        "model": address.model,
        "task": address.task,
        "part": address.part,
        "num_rows": manifest.num_rows,
        **{name: told.get(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")},
        "model_seconds": seconds,
        "gpu_seconds": told.get("gpu_seconds"),
        "flops": flops,
        **{name: told.get(name) for name in PEAKS},
        "wall_seconds": manifest.metadata.get("wall_seconds"),
        "copied_from": copied_from,
    }


def priced_costs(costs: Sequence[dict[str, Any]], price: PriceSpec | None) -> list[dict[str, Any]]:
    """The rows of `artifact_costs`, with a column `dollars` where the study has a price."""
    return [cost if price is None else {**cost, "dollars": dollars(cost, price)} for cost in costs]


def summed_costs(
    costs: Sequence[dict[str, Any]], by: Sequence[str], price: PriceSpec | None = None
) -> list[dict[str, Any]]:
    """Costs added up over equal values of some columns, in the order they first appear.

    Args:
        costs: As `artifact_costs` returns.
        by: Columns to keep, e.g. iteration and stage.
        price: Adds a column `dollars`.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cost in costs:
        groups.setdefault(tuple(cost[name] for name in by), []).append(cost)
    return [
        {**dict(zip(by, key, strict=True)), **_sum(rows, price)}
        for key, rows in sorted(groups.items(), key=lambda item: _order(item[0]))
    ]


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """The base before iteration 0; stages stay in the order of the plan."""
    return tuple(-1 if value is None else value for value in key if value is None or isinstance(value, int))


def _sum(rows: Sequence[dict[str, Any]], price: PriceSpec | None) -> dict[str, Any]:
    total: dict[str, Any] = {name: _total(row[name] for row in rows) for name in (*COUNTED, "wall_seconds")}
    for name in PEAKS:
        total[name] = max((row[name] for row in rows if row[name] is not None), default=None)
    if price is not None:
        total["dollars"] = dollars(total, price)
    return total


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def dollars(cost: dict[str, Any], price: PriceSpec) -> float:
    """Hours and tokens at the study's price; a quantity that was not told costs nothing.

    Examples:
        Half an hour at 3 an hour, and two million tokens at 1 a million.

        >>> price = PriceSpec(per_hour=3, per_million_completion_tokens=1)
        >>> dollars({"model_seconds": 1800, "completion_tokens": 2e6}, price)
        3.5
    """
    terms = (
        ("model_seconds", price.per_hour / SECONDS_AN_HOUR),
        ("gpu_seconds", price.per_gpu_hour / SECONDS_AN_HOUR),
        ("prompt_tokens", price.per_million_prompt_tokens / MILLION),
        ("completion_tokens", price.per_million_completion_tokens / MILLION),
    )
    return sum((cost.get(name) or 0.0) * rate for name, rate in terms)


def costs_per_accepted_row(
    costs: Sequence[dict[str, Any]], price: PriceSpec | None = None
) -> list[dict[str, Any]]:
    """What one training row cost, per iteration, model and task.

    Everything made of training prompts counts (generating, grading, verifying, weighting); training on the
    rows and measuring on held-out prompts does not.
    """
    rows = []
    for kept in (cost for cost in costs if cost["stage"] == "filtered_set" and cost["num_rows"]):
        cell = {name: kept[name] for name in ("iteration", "model", "task")}
        spent = [
            cost
            for cost in costs
            if all(cost[name] == value for name, value in cell.items()) and _makes_training_rows(cost)
        ]
        total = _sum(spent, price)
        per_row = {
            name: None if v is None else v / kept["num_rows"]
            for name, v in total.items()
            if name not in PEAKS
        }
        rows.append({**cell, "num_training_rows": kept["num_rows"], **per_row})
    return rows


def _makes_training_rows(cost: dict[str, Any]) -> bool:
    of_train = (cost["part"] or "train").partition(".")[0] == "train"
    return of_train and cost["stage"] in (
        "prompts",
        "generations",
        "utilities",
        "verifications",
        "student",
        "filtered_set",
    )


def cost_tables(
    costs: Sequence[dict[str, Any]], price: PriceSpec | None = None
) -> dict[str, list[dict[str, str]]]:
    """Title -> table as text: by iteration and stage, by iteration, and of one accepted training row.

    Stages that ran no model and took no time to speak of are left out of the first.
    """
    by_stage = [
        cost
        for cost in summed_costs(costs, ("iteration", "stage"), price)
        if any(cost[name] for name in COUNTED) or (cost["wall_seconds"] or 0.0) >= SHORT_SECONDS
    ]
    return {
        "cost by iteration and stage": shown_costs(by_stage),
        "by iteration": shown_costs(summed_costs(costs, ("iteration",), price)),
        "of one accepted training row": shown_costs(costs_per_accepted_row(costs, price)),
    }


def artifact_table(costs: Sequence[dict[str, Any]], price: PriceSpec | None = None) -> list[dict[str, str]]:
    """The table of all artifacts as text, one row each, in the order they are made.

    Examples:
        >>> cell = {"iteration": 0, "stage": "verifications", "model": "m", "task": "t", "copied_from": None}
        >>> judged = {**cell, "part": "train.judge", "num_rows": 8, "completion_tokens": 70}
        >>> list(artifact_table([judged])[0].values())
        ['0', 'verifications', 'm', 't', 'train', 'judge', '70']
    """
    copies = any(cost["copied_from"] for cost in costs)
    return shown_costs([_labelled(cost, copies) for cost in priced_costs(costs, price)])


def _labelled(cost: dict[str, Any], copies: bool) -> dict[str, Any]:
    split, _, verification = (cost["part"] or "").partition(".")
    return {
        **{name: cost[name] for name in ("iteration", "stage", "model", "task")},
        "split": split or None,
        "verification": verification or None,
        **({"copied_from": cost["copied_from"]} if copies else {}),
        **{name: cost.get(name) for name in HEADINGS},
    }


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f}"


HEADINGS: dict[str, tuple[str, Callable[[float], str]]] = {
    "num_training_rows": ("rows accepted", _count),
    "model_seconds": ("model s", _seconds),
    "wall_seconds": ("wall s", _seconds),
    "gpu_seconds": ("GPU s", _seconds),
    "prompt_tokens": ("tokens in", _count),
    "cached_tokens": ("of them cached", _count),
    "completion_tokens": ("tokens out", _count),
    "flops": ("FLOPs", "{:.3g}".format),
    "peak_memory_bytes": ("peak RAM, GB", _gigabytes),
    "peak_gpu_memory_bytes": ("peak GPU memory, GB", _gigabytes),
    "dollars": ("$", "{:,.4g}".format),
}
"""Quantity -> heading and format of the table a person reads."""


def shown_costs(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows as text; quantities of which no row has anything are left out.

    Examples:
        >>> shown_costs([{"iteration": None, "model_seconds": 0.0123, "gpu_seconds": 0.0, "flops": 2e9}])
        [{'iteration': '-', 'model s': '0.012', 'FLOPs': '2e+09'}]
    """
    known = [name for name in HEADINGS if any(row.get(name) for row in rows)]
    labels = [name for name in rows[0] if name not in HEADINGS] if rows else []
    return [
        {
            **{name: "-" if row[name] is None else str(row[name]) for name in labels},
            **{HEADINGS[name][0]: _shown(name, row.get(name)) for name in known},
        }
        for row in rows
    ]


def _shown(name: str, value: float | None) -> str:
    return "-" if value is None else HEADINGS[name][1](value)
