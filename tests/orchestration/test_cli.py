"""What the command line says: concise, on the right stream, and with the way out."""

import json
import os
import signal
import subprocess
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from conftest import CLI, MINI, ROOT, environment, run_cli

from si_dagster.runs import _failed_checks

ITERATION = Path("data") / "mini" / "iteration_0"
CELL = "pico|sudoku4"


def training_row(home: Path) -> str:
    with duckdb.connect(str(home / "lineage.duckdb"), read_only=True) as lineage:
        found = lineage.sql("select min(training_row_id) from filtered_sets where iteration = 1").fetchall()
    return found[0][0]


def test_a_trace_is_a_page_and_leads_to_the_base(finished: Path) -> None:
    row = training_row(finished)
    text = run_cli(finished, "trace", row).stdout
    history = json.loads(run_cli(finished, "trace", row, "--json").stdout)
    assert len(text) < 6000
    assert "base64" not in text
    for told in (
        f"training row {row}",
        f"trained mini/iteration_1/checkpoint/{CELL}",
        f"prompt: {history['prompt']['prompt']}",
        f"completion: {history['generation']['completion']}",
        f"({history['verifications'][0]['status']}) by mini/iteration_0/checkpoint/{CELL}",
        "generation(max_tokens=20, n=8,",
        "learning_rate=0.0003",
        f"policy mini/base_checkpoint/{CELL}",
        f"Dagster run {history['history'][-1]['policy']['dagster_run_id']}, code version 1,",
    ):
        assert told in text, told


@pytest.mark.parametrize("kind", ["verification", "checkpoint", "artifact"])
def test_every_kind_of_id_has_a_text(finished: Path, kind: str) -> None:
    generation = training_row(finished).partition("::")[2]
    identifier = {
        "verification": f"{generation}/multiple_choice/0",
        "checkpoint": f"mini/iteration_1/checkpoint/{CELL}",
        "artifact": f"mini/iteration_0/gap_metrics/{CELL}/eval.multiple_choice",
    }[kind]
    lines = run_cli(finished, "trace", identifier).stdout.splitlines()
    assert lines[0] == f"{kind} {identifier}"
    assert f"policy mini/base_checkpoint/{CELL}" in lines


def test_status_shows_damage_as_a_row_and_what_to_do(home: Path) -> None:
    part = next((home / ITERATION / "utilities" / CELL / "eval").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    manifest = home / ITERATION / "checkpoint" / CELL / "manifest.json"
    manifest.write_text("{")
    rows = json.loads(run_cli(home, "status", str(MINI), "--json").stdout)
    damaged = {row["artifact"]: row["reason"] for row in rows if row["state"] == "damaged"}
    assert damaged.keys() == {
        f"mini/iteration_0/utilities/{CELL}/eval",
        f"mini/iteration_0/checkpoint/{CELL}",
    }
    assert f"{part}: expected" in damaged[f"mini/iteration_0/utilities/{CELL}/eval"]
    text = run_cli(home, "status", "mini").stdout
    assert f"{len(rows) - 2} done, 2 damaged" in text
    assert "damaged: si-dagster run mini makes it again" in text


def test_what_is_stale_is_told_by_name_and_gap_warns(finished: Path) -> None:
    override = "distillation.learning_rate=0.001"
    rows = json.loads(run_cli(finished, "status", str(MINI), override, "--json").stdout)
    told = {row["artifact"]: row for row in rows}
    draws = told[f"mini/iteration_1/generations/{CELL}/eval"]
    assert draws["drift"] == []
    assert draws["reason"] == f"made from stale mini/iteration_0/checkpoint/{CELL}"
    done = run_cli(finished, "gap", str(MINI), override, "--json")
    assert len(json.loads(done.stdout)) == 5
    assert "stale: 3 of these" in done.stderr
    assert run_cli(finished, "gap", "mini").stderr == ""


def test_a_refusal_names_cost_and_command(finished: Path) -> None:
    done = run_cli(finished, "run", str(MINI), "generation.temperature=1.5", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "generation.temperature: stored 1.0, study says 1.5 (generations)" in done.stderr
    # The base, five sets of prompts and the base's probes stay; the analyses are made anew in any case.
    made = [m.parts for m in (finished / "data" / "mini").rglob("manifest.json") if "analysis" not in m.parts]
    assert f"{len(made) - 7} artifacts (" in done.stderr
    assert f"si-dagster run {MINI} generation.temperature=1.5 --supersede" in done.stderr


def test_overrides_of_a_name_are_answered_with_the_way(finished: Path) -> None:
    for verb in ("status", "gap"):
        done = run_cli(finished, verb, "mini", "seed=1")
        assert done.returncode == 1
        assert "studies/mini.yaml seed=1; the replicate of seed 1 has the name mini__seed_1" in done.stderr


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("")
    done = run_cli(home, "run", str(MINI))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {home}")
    assert len(done.stderr.splitlines()) == 1


def test_a_failure_is_told_on_both_streams_with_json(home: Path) -> None:
    folder = home / ITERATION / "prompts" / CELL / "eval"
    for name in ("manifest.json", "begin.json"):
        (folder / name).unlink()
    done = run_cli(home, "run", str(MINI), "--json")
    assert done.returncode == 1
    outcome = json.loads(done.stdout)
    [failure] = outcome["failures"]
    assert str(folder) in failure
    assert outcome["table"] == []
    assert " ".join(failure.split()) in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("override", "label", "amount"),
    [
        ("distillation.learning_rate=0.001", "fine-tuning", "/5 steps"),
        ("generation.n=800", "generations", "prompts"),  # seconds, so that there is a line before the end
    ],
)
def test_ctrl_c_ends_in_one_line(home: Path, override: str, label: str, amount: str) -> None:
    run = subprocess.Popen(
        [*CLI, "run", str(MINI), override, "--supersede", "--chunk-prompts", "4"],
        cwd=ROOT,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stderr
    before = next(line for line in run.stderr if label in line)
    assert amount in before
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    *progress, last = err.strip().splitlines()
    assert last == "interrupted; what is whole is kept, run again to continue"
    assert [line for line in progress if line and label not in line] == []  # a last line may be empty


def test_failed_checks_that_stop_nothing_are_told() -> None:
    @dg.asset(key=["s", "numbers"])
    def numbers() -> None:
        pass

    def found(name: str, passed: bool, blocking: bool = False) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=numbers, name=name, blocking=blocking)
        def check() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=passed, description="3 of 4 are odd")

        return check

    checks = [found("even", False), found("few", True), found("gate", False, blocking=True)]
    job = dg.Definitions(assets=[numbers], asset_checks=checks).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert _failed_checks(result) == ["s/numbers, check even: 3 of 4 are odd"]
