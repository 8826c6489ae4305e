"""Studies side by side: pairing by the text of prompts, what cannot be compared, the verb."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from analysis.made_up import drawn, noisy, scored, stored, study
from conftest import MINI, run_cli

from si_dagster.analysis.comparison import differing_fields, rows, shown, shown_differences
from si_dagster.analysis.data import StudyData
from si_dagster.core.intervals import bootstrap_mean, difference_of_means, paired_difference
from si_dagster.store.artifacts import Store
from si_dagster.stored import compared
from si_dagster.study import Study, StudyError

MC = "multiple_choice"
PROMPTS, SIZE = 100, 8
SLICES = [{}] * PROMPTS


def at(temperature: float, methods: tuple[str, ...] = (MC,)) -> Study:
    generation = {"n": SIZE, "temperature": temperature}
    return study(methods, name=f"at_{temperature:g}".replace(".", "_"), generation=generation)


def kept(home: Path, of: Study, seed: int, asked: str = "") -> StudyData:
    """The same prompts of the same difficulty, answered anew."""
    chances = np.random.default_rng(0).random((PROMPTS, 1))
    u = (np.random.default_rng([1, seed]).random((PROMPTS, SIZE)) < chances).astype(float)
    scores = {spec.name: noisy(u, 0.5, seed) for spec in of.verification}
    return stored(home, of, scored(of, u, scores), slices=SLICES, asked=asked)


def test_a_temperature_ablation_is_paired_by_the_text_of_prompts(tmp_path: Path) -> None:
    cold, warm = at(0.3), at(1.2)
    same = rows([kept(tmp_path / "a", cold, 1), kept(tmp_path / "b", warm, 2)])
    first, second = same.to_dicts()
    assert (first["num_paired"], second["num_paired"]) == (None, PROMPTS)
    for name in ("expected_utility", "gap", "relative_gap"):
        assert first[f"{name}_difference"] is None
        assert second[f"{name}_difference"] == pytest.approx(second[name] - first[name])
    other = rows([kept(tmp_path / "c", cold, 1), kept(tmp_path / "d", warm, 2, asked="else: ")]).to_dicts()[1]
    assert other["num_paired"] == 0
    assert other["expected_utility_difference"] == second["expected_utility_difference"]
    widths = [
        r["expected_utility_difference_high"] - r["expected_utility_difference_low"] for r in (second, other)
    ]
    assert (
        widths[0] < 0.6 * widths[1]
    )  # difficulty is most of the noise, and is gone where prompts are paired
    (told,) = shown_differences(same)
    assert (told["study"], told["prompts paired"]) == ("at_1_2", "100")
    assert [row["study"] for row in shown(same)] == ["at_0_3", "at_1_2"]
    assert differing_fields([cold, warm]) == [
        {"field": "generation.temperature", "at_0_3": 0.3, "at_1_2": 1.2}
    ]


def test_lists_are_compared_by_the_names_of_their_items() -> None:
    control = {"oracle": True, "weighting": {"rule": "threshold", "tau": 1.0}}
    both = [at(0.3, (MC, "random")), study(("oracle", "random"), name="control", **control)]
    told = {row["field"]: (row["at_0_3"], row["control"]) for row in differing_fields(both)}
    assert told["verification"] == ([MC, "random"], ["oracle", "random"])
    assert told["weighting.tau"] == (0.5, 1.0)
    assert not [field for field in told if field.startswith("verification.")]  # random is alike in both
    smaller = study((MC,), name="small", models=[{"name": "pico", "pretrain": {"max_steps": 7}}])
    larger = study((MC,), name="large", models=[{"name": "pico", "pretrain": {"max_steps": 9}}])
    (row,) = differing_fields([smaller, larger])
    assert row == {"field": "models.pico.pretrain.max_steps", "small": 7, "large": 9}


def test_a_difference_of_means_is_the_paired_one_or_that_of_two_samples() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(80), rng.random(80)
    names = np.array([f"{place:03d}" for place in range(80)])
    paired, ours = paired_difference(a, b, seed=5), difference_of_means(a, b, (names, names), seed=5)
    assert [ours.estimate, ours.low, ours.high] == pytest.approx([paired.estimate, paired.low, paired.high])
    apart = difference_of_means(a, b, (names, np.char.add("b", names)))
    # Independent samples: variances add.
    widths = [i.high - i.low for i in (bootstrap_mean(a), bootstrap_mean(b))]
    assert apart.high - apart.low == pytest.approx(np.linalg.norm(widths), rel=0.1)


def test_what_is_not_in_both_has_no_difference(tmp_path: Path) -> None:
    by_mc, by_cot = at(0.3), at(1.2, ("cot_score",))
    (_, second) = rows([kept(tmp_path / "a", by_mc, 1), kept(tmp_path / "b", by_cot, 1)]).to_dicts()
    assert second["gap_difference"] is None  # verified otherwise
    assert second["expected_utility_difference"] == 0.0  # answered alike
    one = kept(tmp_path / "c", by_mc, 1)
    u = drawn(PROMPTS, SIZE, 1)
    later = study((MC,), name="later", iterations=3)
    updated = stored(
        tmp_path / "d", later, scored(later, u, {MC: noisy(u, 0.5, 1)}, iteration=3), slices=SLICES
    )
    assert rows([one, updated])["expected_utility_difference"].to_list() == [None, None]
    with pytest.raises(StudyError, match="two studies or more"):
        compared([by_mc, by_mc], Store(tmp_path / "a"))


def test_compare_prints_stored_studies(tmp_path: Path) -> None:
    for seed, of in enumerate((at(0.3), at(1.2))):
        kept(tmp_path, of, seed)
        (tmp_path / "studies").mkdir(exist_ok=True)
        (tmp_path / "studies" / f"{of.name}.yaml").write_text(yaml.safe_dump(of.model_dump(mode="json")))
    done = run_cli(tmp_path, "compare", "at_0_3", "at_1_2", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [row["field"] for row in printed["fields"]] == ["generation.temperature"]
    expected = compared([at(0.3), at(1.2)], Store(tmp_path))
    assert (
        pl.DataFrame(printed["rows"], infer_schema_length=None)
        .select("study", "gap")
        .equals(expected.select("study", "gap"))
    )
    assert expected["num_paired"].to_list() == [None, PROMPTS]


def test_compare_says_whose_rows_are_not_of_the_recipe_it_prints(home: Path, tmp_path: Path) -> None:
    of = at(0.3)
    kept(home, of, 0)  # made up, by no recipe of any study
    (home / "studies" / f"{of.name}.yaml").write_text(yaml.safe_dump(of.model_dump(mode="json")))
    told = run_cli(home, "compare", "mini", of.name, "--json").stderr
    assert told.startswith("stale: 3 of these were made by another recipe than the study says now")
    assert len(told.splitlines()) == 1
    assert f"si-dagster status {of.name} says" in told
    edited = tmp_path / "mini.yaml"
    edited.write_text(MINI.read_text().replace("temperature: 1.0", "temperature: 1.5"))
    done = run_cli(home, "compare", str(edited), of.name)
    assert done.returncode == 0, done.stderr
    first, _ = done.stderr.splitlines()
    # Of three iterations: utilities and verifications; the prompts are the same.
    assert first.startswith("stale: 6 of these")
    assert "mini/iteration_0/utilities/pico|sudoku4/eval first" in first
    assert f"si-dagster status {edited} says which fields differ" in first
