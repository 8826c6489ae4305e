"""The verbs about tasks and graders, as processes."""

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import MINI, replace_rows, run_cli

from si_dagster.training.pico import character_tokenizer

ROLES = {
    "generation",
    *(f"verification/{method}" for method in ("multiple_choice", "cot_binary", "cot_score", "tournament")),
}


@pytest.fixture
def problems(tmp_path: Path) -> str:
    """A small file in the form of GSM8K."""
    rows = [{"question": f"How many legs have {i} dogs?", "answer": f"So.\n#### {4 * i}"} for i in range(60)]
    file = tmp_path / "all.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return f"path={file}"


def test_tasks_lists_every_task_with_a_line(tmp_path: Path) -> None:
    done = run_cli(tmp_path, "tasks", "--json")
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert {"gsm8k", "math", "nq_open", "sudoku4", "mbpp", "svamp", "custom"} <= set(lines)
    assert {"arithmetic", "facts"} <= set(lines)
    shown = run_cli(tmp_path, "tasks").stdout.splitlines()
    assert [line.split()[0] for line in shown] == list(lines)


def test_show_renders_one_row_for_every_role(tmp_path: Path, problems: str) -> None:
    arguments = ("tasks", "show", "gsm8k", "--row", "3", "--option", problems)
    shown = json.loads(run_cli(tmp_path, *arguments, "--json").stdout)
    assert set(shown["prompts"]) == ROLES
    question = shown["row"]["question"]
    assert all(question in prompt for prompt in shown["prompts"].values())
    assert "Licence: MIT" in shown["card"]
    assert (shown["stop"], shown["verdict_labels"]) == (["\nQuestion:"], [" correct", " incorrect"])
    text = run_cli(tmp_path, *arguments).stdout
    assert all(prompt in text for prompt in shown["prompts"].values())
    chat = json.loads(run_cli(tmp_path, *arguments, "--style", "chat", "--split", "train", "--json").stdout)
    assert chat["row"]["split"] == "train"
    assert chat["prompts"]["generation"] != shown["prompts"]["generation"]
    assert "\n\nassistant:\n" in chat["prompts"]["generation"]
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    chat = ("--style", "chat", "--model", str(tmp_path / "model"))
    spoken = json.loads(run_cli(tmp_path, *arguments, *chat, "--json").stdout)["prompts"]
    assert all(prompt.startswith("<user>") and prompt.count("<assistant>") == 4 for prompt in spoken.values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tasks", "show", "chess"), "no task 'chess': allowed are arithmetic, crescent,"),
        (("tasks", "show", "sudoku4", "--option", "blanks=3"), "options are num_blanks"),
        (("tasks", "show", "sudoku4", "--option", "num_blanks"), "write name=value"),
        (("grade", "gsm8k", "nowhere.jsonl"), "no file nowhere.jsonl"),
        (("regrade", "never_run"), "no study 'never_run'"),
        (("regrade", str(MINI)), "study 'mini' has no utilities"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run_cli(tmp_path, *arguments)
    assert done.returncode == 1
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_grade_writes_rows_and_counts(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"answer": "3+4=<<3+4=7>>7\n#### 7", "completion": "So 7.", "id": 1},
        {"reference": "7", "completion": "#### 8", "id": 2},
        {"reference": "7", "completion": "who knows", "id": 3},
    ]
    source.write_text("\n".join(map(json.dumps, rows)))
    counts = json.loads(
        run_cli(tmp_path, "grade", "gsm8k", str(source), "--out", str(target), "--json").stdout
    )
    assert counts["num_rows"] == 3
    assert counts["statuses"] == {"scored": 2, "unparsed": 1}
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["id"], row["utility"], row["strict"]) for row in graded] == [
        (1, 1.0, 0.0),
        (2, 0.0, 0.0),
        (3, 0.0, 0.0),
    ]
    assert {"status", "extracted", "rule", "detail"} <= set(graded[0])
    piped = run_cli(tmp_path, "grade", "gsm8k", str(source))
    assert [json.loads(line) for line in piped.stdout.splitlines()] == graded
    assert "3 rows: 2 scored, 1 unparsed; mean utility 0.3333, strict 0.0000" in piped.stderr


def test_regrading_with_the_same_grader_changes_nothing(finished: Path) -> None:
    found = json.loads(run_cli(finished, "regrade", "mini", "--json").stdout)
    assert [a["artifact"].split("/")[1] for a in found] == [f"iteration_{t}" for t in (0, 0, 1, 1, 2)]
    assert [(a["num_rows"], a["num_changed"]) for a in found] == [(320, 0), (240, 0)] * 2 + [(240, 0)]
    assert all(a["mean_before"] == a["mean_after"] for a in found)


def test_regrading_shows_what_differs_and_overwrites_nothing(home: Path) -> None:
    """Utilities as another grader had stored them: three rows the other way round."""
    folder = home / "data" / "mini" / "iteration_0" / "utilities" / "pico|sudoku4" / "eval"
    changed = _turn_three_rows(home, folder)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    found = json.loads(run_cli(home, "regrade", "mini", "--json").stdout)
    differing = [a for a in found if a["num_changed"]]
    assert [a["artifact"] for a in differing] == ["mini/iteration_0/utilities/pico|sudoku4/eval"]
    rows = differing[0]["changed"]
    assert {row["generation_id"]: row["before"]["utility"] for row in rows} == changed
    assert all(row["after"]["utility"] == 1.0 - row["before"]["utility"] for row in rows)
    assert sum(move["num_rows"] for move in differing[0]["transitions"]) == 3
    text = run_cli(home, "regrade", "mini").stdout
    assert "3 of 1360 rows change; nothing was written" in text
    assert all(identifier in text for identifier in changed)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def _turn_three_rows(home: Path, folder: Path) -> dict[str, float]:
    """Store the artifact again with three utilities turned, whole and of its own recipe."""
    from si_dagster.plan import Plan
    from si_dagster.store.artifacts import Store
    from si_dagster.study import load_study

    plan, store = Plan(load_study(MINI)), Store(home)
    address = next(a for a in plan.nodes if store.folder(a) == folder)
    table = store.require(address).read()
    turned = table.filter(pl.col("status") == "scored").head(3)
    table = table.with_columns(
        utility=pl.when(pl.col("generation_id").is_in(turned["generation_id"].to_list()))
        .then(1.0 - pl.col("utility"))
        .otherwise("utility")
    )
    replace_rows(plan, home, address, table)
    return {row["generation_id"]: 1.0 - row["utility"] for row in turned.iter_rows(named=True)}
