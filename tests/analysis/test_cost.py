"""Costs: what adds up adds up, peaks do not, and a resumed artifact counts every run that worked on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from resources.cost_meter import CostMeter
from si_dagster.analysis.cost import (
    COUNTED,
    PEAKS,
    cost_tables,
    costs_per_accepted_row,
    shown_costs,
    summed_costs,
)
from si_dagster.engines.base import Usage
from si_dagster.engines.scripted import ScriptedEngine
from si_dagster.study import PriceSpec

NOTHING = dict.fromkeys((*COUNTED, *PEAKS, "wall_seconds"))


def cost(stage: str, part: str | None, num_rows: int = 10, iteration: int = 0, **told: float) -> dict:
    cell = {"iteration": iteration, "stage": stage, "model": "m", "task": "t", "part": part}
    return {"artifact": "a", **cell, "num_rows": num_rows, **NOTHING, **told}


COSTS = [
    cost("generations", "train", completion_tokens=600, model_seconds=6.0, peak_memory_bytes=5),
    cost("generations", "eval", completion_tokens=100, model_seconds=1.0, peak_memory_bytes=7),
    cost("verifications", "train.mc", prompt_tokens=400, model_seconds=2.0),
    cost("filtered_set", None, num_rows=4),
    cost("checkpoint", None, model_seconds=50.0, flops=1e12),
]


def test_sums_by_stage_and_peaks_by_maximum() -> None:
    (generations, _, _, checkpoint) = summed_costs(COSTS, ("iteration", "stage"))
    assert generations["completion_tokens"] == 700
    assert generations["model_seconds"] == 7.0
    assert generations["peak_memory_bytes"] == 7
    assert generations["flops"] is None
    assert checkpoint["flops"] == 1e12
    (whole,) = summed_costs(COSTS, ("iteration",), PriceSpec(per_hour=3600, per_million_prompt_tokens=1e6))
    assert whole["dollars"] == 59.0 + 400.0


def test_an_accepted_row_bears_the_training_prompts_and_nothing_else() -> None:
    (row,) = costs_per_accepted_row([*COSTS, cost("generations", "train", iteration=1, model_seconds=9.0)])
    assert row["num_training_rows"] == 4
    assert row["model_seconds"] == pytest.approx((6.0 + 2.0) / 4)
    assert row["completion_tokens"] == 150
    assert row["flops"] is None


def test_nothing_is_shown_of_what_no_row_has() -> None:
    assert set(shown_costs(summed_costs(COSTS[:1], ("stage",)))[0]) == {
        "stage",
        "model s",
        "tokens out",
        "peak RAM, GB",
    }


def test_tables_leave_out_stages_without_cost_and_say_what_their_numbers_are() -> None:
    by_stage, by_iteration, accepted = cost_tables(
        [*COSTS, cost("gap_metrics", None, wall_seconds=0.01)]
    ).values()
    assert [row["stage"] for row in by_stage] == ["generations", "verifications", "checkpoint"]
    assert len(by_iteration) == 1
    assert accepted[0] == {
        "iteration": "0",
        "model": "m",
        "task": "t",
        "rows accepted": "4",
        "model s": "2",
        "tokens in": "100",
        "tokens out": "150",
    }


def test_a_resumed_artifact_counts_every_run(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"

    class Metered(ScriptedEngine):
        told = Usage(num_parameters=5, num_gpus=2)

        def usage(self) -> Usage:
            return self.told

    engine = Metered(tmp_path)
    first = CostMeter(engine, file)
    engine.told = replace(engine.told, prompt_tokens=100, cached_tokens=40, seconds=2.0, peak_memory_bytes=9)
    engine.told = replace(engine.told, extra={"actors_lost": 1.0})
    first.save()
    second = CostMeter(engine, file)  # a new run, on an engine that has worked before
    engine.told = replace(engine.told, prompt_tokens=130, completion_tokens=10, cached_tokens=40, seconds=3.0)
    engine.told = replace(engine.told, extra={"actors_lost": 3.0})
    total = second.cost()
    assert total["prompt_tokens"] == 130
    assert total["completion_tokens"] == 10
    assert total["gpu_seconds"] == 6.0
    assert total["flops"] == 2 * 5 * (130 - 40 + 10)
    assert total["tokens_per_second"] == pytest.approx(140 / 3)
    assert total["peak_memory_bytes"] == 9
    assert total["actors_lost"] == 3.0
