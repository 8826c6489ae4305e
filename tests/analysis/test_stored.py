"""Analyses of a real run: stored with their lineage, in the report, and the sweep from the command line."""

import json
from pathlib import Path

import duckdb
import polars as pl
import pytest
from conftest import MINI, run_cli

from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.stored import other_weighting, training_set_differences
from si_dagster.study import StudyError, load_study

STUDY = load_study(MINI)


def test_every_analysis_is_stored_with_what_it_was_made_from(finished: Path) -> None:
    store, plan = Store(finished), Plan(STUDY)
    for name in ANALYSES:
        artifact = store.require(Address("mini", None, name))
        planned = {source.artifact_id for source in plan.nodes[artifact.address].inputs.values()}
        assert {ref.artifact_id for ref in artifact.manifest.inputs} == planned
        assert artifact.folder == finished / "data" / "mini" / "analysis" / name
        assert ("plot" in artifact.manifest.metadata) == (artifact.manifest.num_rows > 0)


def test_the_lineage_has_their_edges_and_rows(finished: Path) -> None:
    with duckdb.connect(str(finished / "lineage.duckdb"), read_only=True) as lineage:
        parents = lineage.sql("select count(*) from edges where child = 'mini/analysis/diversity'").fetchall()
        rows = lineage.sql(
            "select distinct study, iteration, model from diversity order by iteration"
        ).fetchall()
    assert parents == [(6,)]  # utilities and verifications of three iterations
    assert rows == [("mini", t, "pico") for t in (0, 1, 2)]


def test_the_report_has_a_section_with_a_picture_for_each_that_has_rows(finished: Path) -> None:
    page = (finished / "reports" / "mini.html").read_text()
    store = Store(finished)
    for name, analysis in ANALYSES.items():
        has_rows = store.require(Address("mini", None, name)).manifest.num_rows > 0
        title = analysis.load().TITLE
        assert (f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64," in page) == has_rows


def test_running_again_keeps_analyses(home: Path) -> None:
    manifest = home / "data" / "mini" / "analysis" / "diversity" / "manifest.json"
    before = manifest.read_bytes()
    assert run_cli(home, "run", str(MINI)).returncode == 0
    assert manifest.read_bytes() == before


def test_sweep_prints_what_is_stored(finished: Path) -> None:
    done = run_cli(finished, "sweep", "mini", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    stored = Store(finished).require(Address("mini", None, "threshold_sweep")).read()
    assert len(printed) == stored.height == 2 * 9 * 3
    keys = ["iteration", "rule", "quantile", "gap", "p_holm"]
    assert sorted([row[key] for key in keys] for row in printed) == sorted(
        map(list, stored.select(keys).rows())
    )
    shown = run_cli(finished, "sweep", "mini")
    assert "multiple_choice" in shown.stdout
    assert "adjusted by Holm" in shown.stdout


def test_any_analysis_can_be_printed_and_an_unknown_one_is_told(finished: Path) -> None:
    shown = run_cli(finished, "analysis", "mini", "verifier_quality")
    assert shown.returncode == 0, shown.stderr
    assert "AUROC" in shown.stdout
    assert "AUROC is within prompts" in shown.stdout  # how to read it
    refused = run_cli(finished, "analysis", "mini", "verifier_qualities")
    assert refused.returncode == 1
    assert "there are: threshold_sweep, cross_verification" in refused.stderr


def test_a_lower_quantile_only_adds_training_rows(finished: Path) -> None:
    """mini keeps the best quarter: every row of it is among the best half."""
    done = run_cli(finished, "sweep", "mini", "--weighting", "q=0.5", "--json")
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert [row["iteration"] for row in differences] == [0, 1]
    for row in differences:
        stored = (
            Store(finished)
            .require(Address("mini", row["iteration"], "filtered_set", "pico", "sudoku4"))
            .read()
        )
        assert row["num_staying"] == stored.height
        assert row["leaving"] == []
        assert row["entering"]
        assert set(row["entering"]).isdisjoint(stored["generation_id"])


def test_the_same_weighting_exchanges_nothing(finished: Path) -> None:
    for row in training_set_differences(STUDY, STUDY.weighting, Store(finished)):
        assert (row.entering, row.leaving) == ([], [])


def test_a_weighting_that_does_not_exist_is_told() -> None:
    with pytest.raises(StudyError, match="fields: verification, rule, q"):
        other_weighting(STUDY, ["quantile=0.5"])
    assert other_weighting(STUDY, ["rule=threshold", "tau=3"]).label == "threshold(tau=3.0)"


@pytest.mark.parametrize("command", ["sweep", "cost"])
def test_of_what_was_not_run_its_replicates_are_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "mini__seed_4" / "base_checkpoint").mkdir(parents=True)
    done = run_cli(tmp_path, command, str(MINI))
    assert done.returncode == 1
    assert "run it first, or take one of mini__seed_4" in " ".join(done.stderr.split())


def test_training_differences_of_the_sweep_agree_with_the_rows_themselves(finished: Path) -> None:
    """Counts of the table against ids, which know of caps; mini has none."""
    table = Store(finished).require(Address("mini", None, "threshold_sweep")).read()
    for row in training_set_differences(STUDY, other_weighting(STUDY, ["q=0.9"]), Store(finished)):
        swept = table.row(
            by_predicate=(pl.col("iteration") == row.iteration)
            & (pl.col("rule") == "quantile")
            & (pl.col("quantile") == 0.9),
            named=True,
        )
        assert (swept["rows_entering"], swept["rows_leaving"], swept["rows_staying"]) == (
            len(row.entering),
            len(row.leaving),
            row.num_staying,
        )
