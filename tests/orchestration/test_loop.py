"""The whole loop through the command line: what it leaves, what it keeps, what it refuses."""

import json
from pathlib import Path

import duckdb
import polars as pl
import pytest
from conftest import MINI, run_cli

from si_dagster.analysis.cost import artifact_costs
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address

GAP_FIELDS = {
    *("expected_utility", "gap", "gap_low", "gap_high", "relative_gap", "relative_gap_low"),
    *("relative_gap_high", "pooled_gap", "coverage", "retained", "pass_at_1", "pass_at_8", "pass_at_32"),
    *("update_error", "num_prompts", "num_samples", "iteration", "model", "task", "split", "method"),
}


def test_gap_table_has_a_row_per_iteration_and_split(finished: Path) -> None:
    done = run_cli(finished, "gap", "mini", "--json")
    rows = json.loads(done.stdout)
    assert [(row["split"], row["iteration"]) for row in rows] == [
        *(("eval", t) for t in (0, 1, 2)),
        *(("train", t) for t in (0, 1)),
    ]
    for row in rows:
        assert set(row) >= GAP_FIELDS
        assert row["num_samples"] == 8 * row["num_prompts"]
        assert row["pass_at_32"] is None  # n = 8
        assert row["pass_at_k"].keys() == {"1", "2", "4", "8"}
        assert row["pass_at_k"]["8"] == row["pass_at_8"]
        assert row["gap_low"] <= row["gap"] <= row["gap_high"]
    assert [row["update_error"] is None for row in rows[:3]] == [True, False, False]


def test_gap_equals_the_sum_over_stored_rows(finished: Path) -> None:
    """Ĵ and gap of iteration 0, again, from Parquet with plain arithmetic."""
    store = Store(finished)
    cell = ("mini", 0)
    utilities = store.require(Address(*cell, "utilities", "pico", "sudoku4", "eval")).read()
    scores = store.require(Address(*cell, "verifications", "pico", "sudoku4", "eval.multiple_choice")).read()
    rows = utilities.join(scores.select("generation_id", "proxy_utility"), on="generation_id")
    gaps, utilities_of = [], []
    for _, prompt in rows.group_by("prompt_id"):
        cut = sorted(prompt["proxy_utility"])[-2]  # ceil(.25 * 8) = 2 stay at q = .75, ties too
        kept = prompt.filter(pl.col("proxy_utility") >= cut)
        gaps.append(kept["utility"].mean() - prompt["utility"].mean())
        utilities_of.append(prompt["utility"].mean())
    row = json.loads(run_cli(finished, "gap", "mini", "--json").stdout)[0]
    assert row["expected_utility"] == pytest.approx(sum(utilities_of) / 30)
    assert row["gap"] == pytest.approx(sum(gaps) / 30)


def test_splits_never_share_a_prompt_and_only_training_prompts_train(finished: Path) -> None:
    with duckdb.connect(str(finished / "lineage.duckdb"), read_only=True) as lineage:
        shared = lineage.sql(
            "select question from prompts where split='train' intersect "
            "select question from prompts where split='eval'"
        ).fetchall()
        trained = lineage.sql("select distinct prompt_id from filtered_sets").fetchall()
    assert shared == []
    assert trained
    assert all(prompt_id.startswith("train-") for (prompt_id,) in trained)


def test_running_again_makes_nothing_anew(home: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (home / "data").rglob("*") if file.is_file()}
    done = run_cli(home, "run", str(MINI))
    assert done.returncode == 0, done.stderr
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_an_edited_field_is_shown_and_refused_and_can_be_superseded(home: Path) -> None:
    override = "distillation.learning_rate=0.001"
    rows = json.loads(run_cli(home, "status", str(MINI), override, "--json").stdout)
    stale = {row["artifact"] for row in rows if row["state"] == "stale"}
    first = next(row for row in rows if row["artifact"] == "mini/iteration_0/checkpoint/pico|sudoku4")
    assert first["drift"] == [{"field": "distillation.learning_rate", "stored": 0.0003, "study": 0.001}]
    assert "mini/iteration_1/generations/pico|sudoku4/eval" in stale
    assert not [artifact for artifact in stale if "iteration_0/generations" in artifact]

    copy = (home / "studies" / "mini.yaml").read_bytes()
    refused = run_cli(home, "run", str(MINI), override)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert (home / "studies" / "mini.yaml").read_bytes() == copy
    assert "distillation.learning_rate: stored 0.0003, study says 0.001" in " ".join(refused.stderr.split())

    superseded = run_cli(home, "run", str(MINI), override, "iterations=1", "--supersede")
    assert superseded.returncode == 0, superseded.stdout + superseded.stderr
    kept_aside = list((home / "data" / ".superseded").rglob("manifest.json"))
    assert any("iteration_0/checkpoint" in str(path) for path in kept_aside)


def test_a_closed_gap_stops_the_loop_visibly(home: Path) -> None:
    """With a bound no gap can reach, iteration 1 does not start, and the report says why."""
    done = run_cli(home, "run", str(MINI), "name=gated", "stop.min_gap=0.99", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["failures"] == []
    assert "iteration 0" in outcome["stopped"]
    assert not (home / "data" / "gated" / "iteration_1" / "generations").exists()
    assert "The loop stopped" in Path(outcome["report"]).read_text()
    # Nothing about its base differs from that of the first study, so it is not trained a second time.
    store = Store(home)
    own, first = (
        store.require(Address(n, None, "base_checkpoint", "pico", "sudoku4")) for n in ("gated", "mini")
    )
    assert own.manifest.metadata["copied_from"] == first.manifest.artifact_id
    assert own.manifest.data_version == first.manifest.data_version
    assert own.manifest.metadata["pretraining_flops"] == first.manifest.metadata["pretraining_flops"]
    with duckdb.connect(str(home / "lineage.duckdb"), read_only=True) as lineage:
        costs = lineage.sql("select * from costs where stage = 'base_checkpoint'").pl().to_dicts()
    spent = {row["study"]: row for row in costs}
    assert spent["mini"]["flops"] == first.manifest.metadata["pretraining_flops"]
    assert spent["gated"]["flops"] is spent["gated"]["model_seconds"] is None
    assert spent["gated"]["copied_from"] == first.manifest.artifact_id
    assert spent["gated"]["wall_seconds"] > 0
    for told in artifact_costs([own.manifest, first.manifest]):
        asked = spent[told["artifact"].partition("/")[0]]
        shared = told.keys() & asked.keys()
        assert {name: told[name] for name in shared} == {name: asked[name] for name in shared}


def test_what_it_cost_is_told_and_can_be_asked_in_sql(finished: Path) -> None:
    costs = json.loads(run_cli(finished, "cost", str(MINI), "--json").stdout)
    stages = {(row["iteration"], row["stage"]): row for row in costs["stages"]}
    for stage in ("generations", "verifications", "checkpoint"):
        assert stages[0, stage]["flops"] > 0
        assert stages[0, stage]["wall_seconds"] >= stages[0, stage]["model_seconds"] > 0
        assert stages[0, stage]["peak_memory_bytes"] > 1e8
    assert stages[None, "base_checkpoint"]["flops"] > 0
    assert {row["iteration"] for row in costs["accepted_rows"]} == {0, 1}
    with duckdb.connect(str(finished / "lineage.duckdb"), read_only=True) as lineage:
        rows = lineage.sql("select artifact_id, flops, peak_memory_bytes from costs").fetchall()
        accepted = lineage.sql("from costs_per_accepted_row order by iteration").pl().to_dicts()
    for sql, told in zip(accepted, costs["accepted_rows"], strict=True):
        assert {name: told[name] for name in sql if name != "study"} == pytest.approx(
            {name: value for name, value in sql.items() if name != "study"}
        )
    told = {row["artifact"]: (row["flops"], row["peak_memory_bytes"]) for row in costs["artifacts"]}
    assert {artifact: tuple(numbers) for artifact, *numbers in rows} == told


def test_a_price_shows_dollars_on_the_command_line_and_in_the_report(home: Path) -> None:
    """3,600 dollars an hour and a million dollars a million tokens drawn: a dollar a second and a token."""
    price = "price={per_hour: 3600, per_million_completion_tokens: 1000000}"
    done = run_cli(home, "run", str(MINI), price, "--json")
    assert done.returncode == 0, done.stderr
    page = Path(json.loads(done.stdout)["report"]).read_text()
    costs = json.loads(run_cli(home, "cost", str(MINI), price, "--json").stdout)
    for row in (*costs["artifacts"], *costs["stages"], *costs["iterations"], *costs["accepted_rows"]):
        assert row["dollars"] == pytest.approx((row["model_seconds"] or 0) + (row["completion_tokens"] or 0))
    shown = [f"{row['dollars']:,.4g}" for row in costs["iterations"]]
    printed = run_cli(home, "cost", str(MINI), price).stdout
    table = page.partition("<h3>by artifact</h3>")[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + len(costs["artifacts"])
    for heading in (
        "stage",
        "iteration",
        "model",
        "task",
        "split",
        "verification",
        "tokens in",
        "tokens out",
    ):
        assert f"<th>{heading}</th>" in table
    for heading in ("of them cached", "model s", "FLOPs", "peak RAM, GB", "$"):
        assert f"<th>{heading}</th>" in table
    for amount in shown:
        assert amount in printed
        assert f"<td>{amount}</td>" in page
    for row in costs["artifacts"]:
        assert f"<td>{row['dollars']:,.4g}</td>" in table


def test_a_seed_makes_a_replicate_beside_the_first(home: Path) -> None:
    rows = json.loads(run_cli(home, "status", str(MINI), "seed=1", "--json").stdout)
    assert {row["artifact"].partition("/")[0] for row in rows} == {"mini__seed_1"}
    assert {row["state"] for row in rows} == {"missing"}


def test_trace_leads_from_a_training_row_to_the_base(finished: Path) -> None:
    with duckdb.connect(str(finished / "lineage.duckdb"), read_only=True) as lineage:
        found = lineage.sql("select generation_id from filtered_sets where iteration = 1 limit 1").fetchall()
    assert found
    done = run_cli(finished, "trace", found[0][0], "--json")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for artifact in (
        "mini/iteration_1/checkpoint/pico|sudoku4",
        "mini/iteration_0/checkpoint/pico|sudoku4",
        "mini/base_checkpoint/pico|sudoku4",
    ):
        assert artifact in text
    assert '"proxy_utility"' in text
    assert '"weight"' in text


def test_lineage_rebuilt_equals_the_one_before(home: Path) -> None:
    def content() -> dict[str, list]:
        with duckdb.connect(str(home / "lineage.duckdb"), read_only=True) as lineage:
            names = [name for (name,) in lineage.sql("select table_name from duckdb_tables()").fetchall()]
            return {name: sorted(map(repr, lineage.table(name).fetchall())) for name in names}

    before = content()
    assert before["artifacts"]
    (home / "lineage.duckdb").unlink()
    done = run_cli(home, "lineage", "rebuild", "--json")
    assert done.returncode == 0, done.stderr
    assert content() == before


def test_doctor_finds_nothing_wrong_and_names_damage(home: Path) -> None:
    assert run_cli(home, "doctor", "--json").returncode == 0
    part = next((home / "data").rglob("generations/**/part-000000.parquet"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    findings = json.loads(run_cli(home, "doctor", "--json").stdout)
    assert any(not finding["ok"] and str(part) in finding["found"] for finding in findings)
