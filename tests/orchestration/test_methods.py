"""Verification methods added to a study that is finished: only those are computed, and stand in the table."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from conftest import MINI, run_cli

from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.study import load_study

ADDED = ("log_likelihood", "majority_vote", "oracle", "random")
METHODS = ("multiple_choice", *ADDED)
ENSEMBLES = {
    "both": "{name: both, combine: and, members: [multiple_choice, {verification: random, tau: 0.5}]}",
    "ranks": "{name: ranks, combine: mean_rank, members: [multiple_choice, log_likelihood]}",
}
OVERRIDES = (f"verification=[{', '.join(METHODS)}]", f"ensembles=[{', '.join(ENSEMBLES.values())}]")


def parquet_files(home: Path) -> dict[Path, int]:
    """Every stored part of the loop and when it was written; analyses are made anew."""
    return {
        file: file.stat().st_mtime_ns for file in (home / "data" / "mini").rglob("iteration_*/**/*.parquet")
    }


@pytest.fixture(scope="module")
def extended(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int]]:
    """A copy of the finished home with four methods and two ensembles more, and its files before."""
    home = tmp_path_factory.mktemp("extended") / "home"
    shutil.copytree(finished, home)
    assert run_cli(home, "lineage", "rebuild").returncode == 0
    before = parquet_files(home)
    done = run_cli(home, "run", str(MINI), *OVERRIDES, "--chunk-prompts", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    return home, before


def test_only_the_added_methods_are_computed(extended: tuple[Path, dict[Path, int]]) -> None:
    home, before = extended
    after = parquet_files(home)
    assert [file for file in before if after.get(file) != before[file]] == []
    new = {file.parts[-4:-3] + file.parts[-2:-1] for file in set(after) - set(before)}
    parts = {
        "verifications": [(split, name) for split in ("eval", "train") for name in ADDED],
        "gap_metrics": [(split, name) for split in ("eval", "train") for name in (*ADDED, *ENSEMBLES)],
        "probes": [("eval", "log_likelihood")],  # of the added methods the only one that calls a policy
    }
    assert new == {(stage, f"{split}.{name}") for stage, found in parts.items() for split, name in found}


def test_every_method_has_its_row_in_the_gap_table(extended: tuple[Path, dict[Path, int]]) -> None:
    rows = json.loads(run_cli(extended[0], "gap", "mini", "--json").stdout)
    cells = [("eval", t) for t in (0, 1, 2)] + [("train", t) for t in (0, 1)]
    assert [(row["split"], row["iteration"], row["verification"]) for row in rows] == [
        (*cell, name) for cell in cells for name in sorted((*METHODS, *ENSEMBLES))
    ]
    for row in rows:
        assert row["gap_low"] <= row["gap"] <= row["gap_high"]
        assert (row["update_error"] is None) == (
            row["verification"] != "multiple_choice" or row["split"] == "train" or row["iteration"] == 0
        )
    # The mini policy is right about nothing, so all its gaps are 0; what the methods keep differs.
    of = {m: [row for row in rows if row["verification"] == m] for m in (*METHODS, *ENSEMBLES)}
    assert {row["rule"] for row in of["both"]} == {
        "and(multiple_choice: quantile(q=0.75, ties=keep), random: threshold(tau=0.5))"
    }
    assert all(0 < row["retained"] < 0.25 for row in of["both"])  # about half of what multiple choice keeps
    assert all("random" not in row["verifier"] and row["method"] == "mean_rank" for row in of["ranks"])
    assert {row["retained"] for row in of["random"]} == {0.25}  # q = .75 keeps 2 of 8 distinct draws
    assert all(row["retained"] > 0.25 for row in of["majority_vote"])  # votes tie
    assert sum(row["num_unparsed"] for row in of["majority_vote"]) > 0
    assert sum(row["num_unparsed"] for row in of["random"] + of["multiple_choice"]) == 0


def test_stored_scores_are_what_the_methods_say(extended: tuple[Path, dict[Path, int]]) -> None:
    """Votes and likelihoods again, from the generations and with plain arithmetic."""
    cell = extended[0] / "data" / "mini" / "iteration_0"
    texts = pl.read_parquet(cell / "generations" / "pico|sudoku4" / "eval" / "*.parquet")
    answers = pl.read_parquet(cell / "utilities" / "pico|sudoku4" / "eval" / "*.parquet")

    def scores(method: str) -> pl.DataFrame:
        table = pl.read_parquet(cell / "verifications" / "pico|sudoku4" / f"eval.{method}" / "*.parquet")
        return table.select("generation_id", "proxy_utility")

    votes = answers.join(scores("majority_vote"), on="generation_id")
    for _, prompt in votes.group_by("prompt_id"):
        found = prompt["extracted"].to_list()
        shares = [found.count(answer) / 8 if answer is not None else None for answer in found]
        assert prompt["proxy_utility"].to_list() == shares
    # Where a generation ended by itself its logprob holds the end token too, which a text does not have.
    likelihoods = texts.join(scores("log_likelihood"), on="generation_id").drop_nulls("proxy_utility")
    assert likelihoods.height > 200
    assert (likelihoods["proxy_utility"] >= likelihoods["logprob"] - 1e-3).all()
    cut = likelihoods.filter(pl.col("finish_reason") == "length")
    assert cut["proxy_utility"].to_list() == pytest.approx(cut["logprob"].to_list(), abs=1e-3)


def test_a_method_the_task_has_no_prompt_for_is_refused_by_name(tmp_path: Path) -> None:
    done = run_cli(tmp_path, "run", str(MINI), "verification=[cot_score]")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1
    assert "verification method cot_score cannot be used on task sudoku4" in said
    assert "Traceback" not in said
    assert not (tmp_path / "data").exists()


def test_the_first_prompt_of_each_stage_is_kept_whole(extended: tuple[Path, dict[Path, int]]) -> None:
    store, plan = Store(extended[0]), Plan(load_study(MINI, list(OVERRIDES)))
    shown = {}
    for node in plan.parts("generations", 0, "pico", "sudoku4") + plan.parts(
        "verifications", 0, "pico", "sudoku4"
    ):
        if (node.address.part or "").startswith("eval"):
            metadata = store.require(node.address).manifest.metadata
            shown[node.address.part] = metadata["first_prompt"]
    puzzle = shown["eval"].removeprefix("?").removesuffix("A")
    assert len(puzzle) == 16
    assert shown["eval.multiple_choice"].startswith(f"V{puzzle}=")
    assert shown["eval.log_likelihood"].startswith(f"?{puzzle}A")
    assert {shown[f"eval.{name}"] for name in ("majority_vote", "oracle", "random")} == {None}
