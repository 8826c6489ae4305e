"""Studies that once broke a run, or the loading of every other study."""

import json
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from conftest import MINI, run_cli

from assets.report import stop_reason
from resources.engine import EngineResource
from si_dagster.definitions import definitions, find_studies
from si_dagster.plan import Plan
from si_dagster.study import Study, StudyError, load_study, parse_study

CELL = "pico|sudoku4"


def mini(**changed: Any) -> Study:
    return parse_study({**yaml.safe_load(MINI.read_text()), **changed}, "mini")


def test_a_gap_that_no_prompt_has_is_told_as_a_stop() -> None:
    row = {"split": "eval", "verification": "multiple_choice", "iteration": 0, "model": "pico"}
    metrics = pl.DataFrame(
        [{**row, "task": "sudoku4", "gap_low": None}], schema_overrides={"gap_low": pl.Float64}
    )
    assert "iteration 0: no prompt has a gap" in (stop_reason(Plan(mini()), metrics) or "")


def keep(home: Path, file: str, **changed: Any) -> None:
    (home / "studies").mkdir(exist_ok=True)
    data = {**yaml.safe_load(MINI.read_text()), **changed}
    (home / "studies" / f"{file}.yaml").write_text(yaml.safe_dump(data))


def test_one_bad_study_keeps_no_other_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SI_DAGSTER_STUDIES", str(tmp_path / "none"))
    for name in ("a-b", "a.b", "c"):
        keep(tmp_path, name, name=name)
    keep(tmp_path, "d", name="d", tasks=[{"name": "sudoku4", "options": {"num_blanks": 99}}])
    studies = find_studies(tmp_path)
    assert [study.name for study in studies] == ["a-b", "c"]
    dg.Definitions.validate_loadable(definitions(studies))
    assert "'a.b' differs from 'a-b' in punctuation alone" in caplog.text
    assert "num_blanks is 99" in caplog.text


def test_a_bad_copy_hides_no_gap(home: Path) -> None:
    (home / "studies" / "zzz.yaml").write_text(": bad")
    done = run_cli(home, "gap", "mini", "--json")
    assert done.returncode == 0, done.stderr
    assert "zzz.yaml" in done.stderr


def test_a_study_that_cannot_be_drawn_leaves_no_copy(tmp_path: Path) -> None:
    assert run_cli(tmp_path, "run", str(MINI), "tasks.0.options.num_blanks=99").returncode == 1
    assert not list(tmp_path.glob("studies/*"))


def test_status_names_the_beginning_that_cannot_be_read(home: Path) -> None:
    file = home / "data" / "mini" / "iteration_0" / "prompts" / CELL / "eval" / "begin.json"
    file.write_text('{"fing')
    (file.parent / "manifest.json").unlink()
    done = run_cli(home, "status", str(MINI), "--json")
    [damaged] = [row for row in json.loads(done.stdout) if row["state"] == "damaged"]
    assert str(file) in damaged["reason"]


def test_a_verifier_of_another_model_is_spoken_to_in_its_own_style() -> None:
    pico = {"name": "pico", "path": "a/pico", "prompt_style": "pico"}
    verification = [{"verifier": "judge"}]
    templates = []
    for style in ("text", "pico"):
        judge = {"name": "judge", "path": "a/judge", "prompt_style": style}
        plan = Plan(mini(models=[pico, judge], verification=verification))
        [node] = [
            node
            for node in plan.parts("verifications", 0, "pico", "sudoku4")
            if (node.address.part or "").startswith("eval.")
        ]
        templates.append(node.fields["template"])
    assert templates[0] != templates[1]


@pytest.mark.parametrize("name", ["self", "base"])
def test_no_model_is_named_as_a_verifier_is(name: str) -> None:
    with pytest.raises(StudyError, match=name):
        load_study(MINI, [f"models.0.name={name}"])


def test_no_name_ends_in_a_new_line() -> None:
    with pytest.raises(StudyError, match="letters, digits"):
        mini(name="mini\n")


def test_scripted_answers_never_lie_beside_real_ones() -> None:
    scripted = load_study(MINI, ["scripted=true"])
    assert scripted.name == "mini__scripted"
    real, made_up = Plan(mini()), Plan(mini(scripted=True))
    cell = ("pico", "sudoku4")
    for stage in ("generations", "utilities"):
        address = real.address(stage, 0, cell, "eval")
        assert real.fingerprint(address) != made_up.fingerprint(address)
    base = real.address("base_checkpoint", None, cell)
    assert real.fingerprint(base) == made_up.fingerprint(base)
    with pytest.raises(ValueError, match="scripted: true"):
        EngineResource(kind="scripted").kind_for(scripted=False)


@pytest.mark.timeout(300)
def test_models_that_verify_each_other_run(finished: Path, tmp_path: Path) -> None:
    base = finished / "data" / "mini" / "base_checkpoint" / CELL
    models = [{"name": name, "path": str(base), "prompt_style": "pico"} for name in ("a", "b")]
    study = mini(
        name="pair",
        models=models,
        verification=[{"verifier": "b"}, {"verifier": "a"}],
        splits={"train": 4, "eval": 4},
        generation={"n": 2, "max_tokens": 20},
        distillation={"max_steps": 1},
        iterations=1,
    )
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_none=True)))
    done: subprocess.CompletedProcess[str] = run_cli(
        tmp_path / "home", "run", str(file), "--engine", "scripted"
    )
    assert done.returncode == 0, done.stdout + done.stderr
