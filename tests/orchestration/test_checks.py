"""The checks that watch data: graders that fail, and evaluation prompts among training rows."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from conftest import MINI, replace_rows

from assets.checks import (
    canaries_are_refused,
    gap_is_open,
    graders_work,
    no_evaluation_prompt_in_training_rows,
)
from assets.stage_asset import partitions
from resources.store import StoreResource
from si_dagster.instance import open_instance
from si_dagster.plan import Plan
from si_dagster.stages.hygiene import training_hygiene
from si_dagster.store.artifacts import Store
from si_dagster.study import load_study

CELL = ("pico", "sudoku4")
EVAL = "Tom has three red pens and four blue caps in a box under the long table by the door. How many?"
NEAR = EVAL.replace("door", "wall")
OTHER = "How many legs do seven dogs and two spiders have if one dog has lost one of its legs?"


def evaluate(check: dg.AssetChecksDefinition, home: Path) -> dg.AssetCheckEvaluation:
    """Run one check alone on the only cell."""
    key = next(iter(check.check_keys)).asset_key

    @dg.asset(key=key, partitions_def=partitions(load_study(MINI)))
    def checked() -> None:
        """Stands for the asset, which is stored already: Dagster runs no partitioned check alone."""

    loaded = dg.Definitions(
        assets=[checked], asset_checks=[check], resources={"store": StoreResource(home=str(home))}
    ).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        done = loaded.execute_in_process(
            instance=instance,
            partition_key=dg.MultiPartitionKey({"model": "pico", "task": "sudoku4"}),
            raise_on_error=False,  # a blocking check that fails ends the run
        )
    (found,) = done.get_asset_check_evaluations()
    return found


def test_a_real_run_ran_both_checks_and_they_passed(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")  # open_instance sets it; this puts it back
    with open_instance(finished) as instance:
        for iteration, stage, name in (
            *((t, "utilities", "graders_work") for t in (0, 1, 2)),
            *((t, "filtered_set", "no_evaluation_prompt_in_training_rows") for t in (0, 1)),
        ):
            key = dg.AssetCheckKey(dg.AssetKey(["mini", f"iteration_{iteration}", stage]), name)
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
            assert record.event is not None
            evaluation = record.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
            assert evaluation.passed, evaluation.description


def test_a_gap_that_no_prompt_has_closes_the_gate(home: Path) -> None:
    plan = Plan(load_study(MINI))
    check = gap_is_open(plan, 0)
    assert "interval from" in (evaluate(check, home).description or "")
    address = plan.address("gap_metrics", 0, CELL, "eval.multiple_choice")
    table = Store(home).require(address).read()
    replace_rows(
        plan,
        home,
        address,
        table.with_columns(pl.lit(None, pl.Float64).alias(c) for c in ("gap", "gap_low", "gap_high")),
    )
    found = evaluate(check, home)
    assert not found.passed
    assert "the verifier left nothing" in (found.description or "")


def test_a_failing_grader_is_told_above_the_bound(home: Path) -> None:
    plan = Plan(load_study(MINI))
    check = graders_work(plan, 0)
    assert evaluate(check, home).passed
    address = plan.address("utilities", 0, CELL, "eval")  # 240 rows, and 320 of the training split
    table = Store(home).require(address).read()
    for failed, passes in ((5, True), (6, False)):  # 5 / 560 = .9%, 6 / 560 = 1.07%
        broken = pl.int_range(pl.len()) < failed
        replace_rows(
            plan,
            home,
            address,
            table.with_columns(
                utility=pl.when(broken).then(None).otherwise("utility"),
                strict_utility=pl.when(broken).then(None).otherwise("strict_utility"),
                status=pl.when(broken).then(pl.lit("grader_error")).otherwise("status"),
                detail=pl.when(broken).then(pl.lit("worker died")).otherwise("detail"),
            ),
        )
        found = evaluate(check, home)
        assert found.passed == passes
        assert found.metadata["num_grader_errors"].value == failed
        assert found.metadata["reasons"].value == {"worker died": failed}


def test_an_evaluation_prompt_among_training_prompts_is_told(home: Path) -> None:
    plan = Plan(load_study(MINI))
    check = no_evaluation_prompt_in_training_rows(plan, 0)
    assert evaluate(check, home).passed
    train, held = (plan.address("prompts", 0, CELL, split) for split in ("train", "eval"))
    question = Store(home).require(held).read()["question"][0]
    trained = Store(home).require(plan.address("filtered_set", 0, CELL)).read()["prompt_id"][0]
    table = Store(home).require(train).read()
    same = pl.when(pl.col("prompt_id") == trained).then(pl.lit(question)).otherwise("question")
    replace_rows(plan, home, train, table.with_columns(question=same))
    found = evaluate(check, home)
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert found.metadata["near_duplicate_prompts"].value == [
        [trained, Store(home).require(held).read()["prompt_id"][0], 1.0]
    ]


def test_recited_evaluation_prompts_and_near_copies_are_found() -> None:
    rows = pl.DataFrame(
        {
            "training_row_id": ["a", "b", "c"],
            "prompt_id": ["train-0", "train-0", "train-1"],
            "completion": ["There are 28.", f"As in: {EVAL} Seven.", "Seven."],
        }
    )
    train = pl.DataFrame({"prompt_id": ["train-0", "train-1", "train-2"], "question": [OTHER, NEAR, EVAL]})
    held = pl.DataFrame({"prompt_id": ["eval-0"], "question": [EVAL]})
    found = training_hygiene(rows, train, held)
    assert found.contaminated_rows == ["b"]
    # train-2 is no prompt of a kept row, so it is not looked at.
    assert [pair[:2] for pair in found.near_duplicate_prompts] == [("train-1", "eval-0")]
    assert not found.is_clean
    assert training_hygiene(rows.head(1), train, held).is_clean


def test_a_verifier_that_takes_canaries_for_answers_is_told_above_the_studys_bound(finished: Path) -> None:
    """The mini verifier says correct to nearly all, canaries included."""
    study = load_study(MINI)
    (row,) = Store(finished).require(Plan(study).deciding_gap(0, CELL)).read().to_dicts()
    share = row["canary_acceptance"]
    assert row["canary_acceptance_low"] <= share <= row["canary_acceptance_high"]
    assert 0 <= row["gold_acceptance"] <= 1
    for bound, passes in ((share, True), (share / 2, share == 0)):
        probes = study.probes.model_copy(update={"max_canary_acceptance": bound})
        plan = Plan(study.model_copy(update={"probes": probes}))
        found = evaluate(canaries_are_refused(plan, 0), finished)
        assert found.passed == passes
        assert found.severity == dg.AssetCheckSeverity.WARN
        assert found.metadata["canary_acceptance"].value == {"eval.multiple_choice": share}


def test_canaries_that_cannot_be_judged_are_not_called_refused(home: Path) -> None:
    plan = Plan(load_study(MINI))
    address = plan.address("probes", 0, CELL, "eval.multiple_choice")
    stored = Store(home).require(address).read()
    replace_rows(plan, home, address, stored.filter(pl.col("kind") != "canary"))
    found = evaluate(canaries_are_refused(plan, 0), home)
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert (found.description or "").startswith("eval.multiple_choice not measurable;")
    assert found.metadata["canary_acceptance"].value == {"eval.multiple_choice": None}
