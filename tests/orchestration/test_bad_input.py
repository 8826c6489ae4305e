"""What a person gets wrong, and what they are told: which file, which field, what to do; nothing is lost."""

import json
from pathlib import Path

import pytest
from conftest import MINI, run_cli

from si_dagster.study import StudyError, load_study

ITERATION = Path("data") / "mini" / "iteration_0"
CELL = "pico|sudoku4"


def message(done: object) -> str:
    """All that a command said, white space folded."""
    return " ".join((done.stdout + done.stderr).split())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("verification.0.method=tea_leaves", "tea_leaves"),
        ("tasks.0.name=chess", "no task 'chess'"),
        ("generation.n=true", "generation.n: should be a number, found true"),
        ("analysis.pass_at_k=[64]", "pass@64 needs at least 64 generations a prompt, generation.n is 8"),
        ("splits.eval=0", "splits.eval: Input should be greater than or equal to 1 (found 0)"),
        ("generation.temprature=1", "generation.temprature: not a field; allowed here: max_tokens, n,"),
        ("tasks.0.options.num_blanks=99", "num_blanks is 99, allowed are 1 to 15"),
        ("models.0.path=somewhere", "models.0: give exactly one of `pretrain`"),
        (
            "verification=[{method: random, name: a-b}, {method: random, name: a.b}]",
            "verification.1.name: 'a.b' differs from 'a-b' in punctuation alone",
        ),
    ],
)
def test_a_wrong_study_is_refused_by_field(tmp_path: Path, override: str, told: str) -> None:
    if "verification.0" in override:
        override = "verification=[tea_leaves]"
    done = run_cli(tmp_path, "run", str(MINI), override)
    assert done.returncode == 1
    assert told in message(done)
    assert "Traceback" not in message(done)
    assert not (tmp_path / "data").exists()


def test_a_missing_study_file_lists_what_is_there(tmp_path: Path) -> None:
    done = run_cli(tmp_path, "run", "studies/quickstrat.yaml")
    assert done.returncode == 1
    assert "studies/quickstart.yaml" in message(done)


def test_a_field_that_stands_twice_is_refused(tmp_path: Path) -> None:
    study = tmp_path / "twice.yaml"
    study.write_text("iterations: 1\ntasks: []\niterations: 2\n")
    with pytest.raises(StudyError, match=r"iterations stands here twice[\s\S]*line 3"):
        load_study(study)


def test_validate_tells_every_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ntasks: [{name: sudoku4}]\n")
    done = run_cli(tmp_path, "validate", str(bad), str(MINI), "--json")
    assert done.returncode == 1
    problems = json.loads(done.stdout)
    assert "models: required, but not there" in problems[str(bad)]
    assert problems[str(MINI)] is None


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    done = run_cli(
        tmp_path,
        *("run", str(MINI), "name=questions", "models=[{name: m, path: nowhere/model}]"),
        *("tasks=[{name: gsm8k, options: {path: nowhere/gsm8k}}]", "distillation.replay_fraction=0"),
    )
    assert done.returncode == 1
    assert "nowhere/" in message(done)
    assert "Traceback" not in message(done)


def test_a_checkpoint_with_one_byte_changed_is_refused(home: Path) -> None:
    weights = home / "data" / "mini" / "base_checkpoint" / CELL / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = run_cli(home, "doctor", "--json")
    assert done.returncode == 1
    assert str(weights) in message(done)
    assert "expected sha256" in message(done)


def test_a_checkpoint_without_its_manifest_is_not_used(home: Path) -> None:
    folder = home / "data" / "mini" / "iteration_0" / "checkpoint" / CELL
    (folder / "manifest.json").unlink()
    rows = json.loads(run_cli(home, "status", str(MINI), "--json").stdout)
    states = {row["artifact"]: row["state"] for row in rows}
    assert states["mini/iteration_0/checkpoint/pico|sudoku4"] == "begun"


def test_half_a_parquet_file_is_set_aside_and_made_again(finished: Path, home: Path) -> None:
    part = home / ITERATION / "generations" / CELL / "eval" / "part-000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    done = run_cli(home, "run", str(MINI), "--chunk-prompts", "4")
    assert done.returncode == 0, message(done)
    assert (part.parent / "part-000001.parquet.corrupt").read_bytes() == whole[: len(whole) // 2]
    assert "set aside" in message(done)
    tables = [run_cli(folder, "gap", "mini", "--json").stdout for folder in (home, finished)]
    assert tables[0] == tables[1]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    done = run_cli(tmp_path / "home", "run", str(MINI), f"models=[{{name: m, path: {model}}}]")
    assert done.returncode == 1
    assert "no *.safetensors weights" in message(done)
