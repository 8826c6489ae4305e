"""Sharpening: coverage by hand, the likeliest answer's utility, greedy decoding beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from analysis.made_up import scored, stored, study
from conftest import ROOT, run_cli

from si_dagster.analysis.data import StudyData
from si_dagster.analysis.sharpening import chart, rows, shown
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.schemas import TABLES
from si_dagster.stored import analysis_rows, study_data
from si_dagster.study import Study, load_study

UTILITIES = np.array([[1.0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 0, 0]])
LOGPROBS = np.log([[0.5, 0.2, 0.1, 0.1], [0.4, 0.2, 0.2, 0.1], [0.05, 0.2, 0.1, 0.1]])


def sharpened(home: Path, greedy: str | None = None) -> tuple[Study, StudyData]:
    of = study(("log_likelihood", "multiple_choice"), analysis={"num_resamples": 1000, "greedy": greedy})
    return of, stored(home, of, scored(of, UTILITIES, {"log_likelihood": LOGPROBS}))


def test_the_likeliest_answer_and_its_probability(tmp_path: Path):
    table = TABLES["sharpening"].checked(TABLES["sharpening"].filled(rows(sharpened(tmp_path)[1])))
    (row,) = table.to_dicts()
    assert row["expected_utility"] == pytest.approx(np.mean([1 / 4, 3 / 4, 1 / 2]))
    assert row["likeliest"] == pytest.approx(2 / 3)  # right, wrong, right
    assert row["inverse_likelihood"] == pytest.approx(np.mean([2.0, 2.5, 5.0]))
    assert row["inverse_likelihood_median"] == pytest.approx(2.5)
    assert row["inverse_likelihood_low"] <= row["inverse_likelihood"] <= row["inverse_likelihood_high"]
    assert row["greedy"] is None
    assert shown(table)[0]["greedy"] == "-"
    assert {point["answers"] for point in drawn_points(table)} == {"J", "likeliest"}


def drawn_points(table) -> list[dict]:
    (points,) = chart(table).to_dict()["datasets"].values()
    return points


def test_greedy_decoding_of_the_study_that_is_named_stands_beside_it(tmp_path: Path):
    of, alone = sharpened(tmp_path, greedy="decoded")
    assert rows(alone)["greedy"].to_list() == [None]  # named, and not run yet
    decoded = study(("log_likelihood",), name="decoded")
    stored(
        tmp_path, decoded, scored(decoded, np.array([[1.0], [0], [1]]), {"log_likelihood": LOGPROBS[:, :1]})
    )
    found = analysis_rows(of, "sharpening", Store(tmp_path))
    assert found["greedy"].to_list() == [pytest.approx(2 / 3)]
    assert {point["answers"] for point in drawn_points(found)} == {"J", "likeliest", "greedy"}
    others = {address.study for address in study_data(of, "diversity", Store(tmp_path)).artifacts}
    assert others == {"made_up"}


def test_greedy_decoding_is_of_the_base_and_of_the_same_prompts(tmp_path: Path):
    """The study that decodes greedily went on to train: its later policies are none of this study's."""
    of = study(("log_likelihood",), iterations=1, analysis={"num_resamples": 1000, "greedy": "decoded"})
    decoded = study(("log_likelihood",), name="decoded", iterations=1)
    policies = [scored(of, UTILITIES, {"log_likelihood": LOGPROBS}, iteration=t) for t in (0, 1)]
    greedy = [
        scored(decoded, UTILITIES[:, :1], {"log_likelihood": LOGPROBS[:, :1]}, iteration=t) for t in (0, 1)
    ]
    stored(tmp_path / "same", decoded, *greedy)
    told = rows(stored(tmp_path / "same", of, *policies))
    assert told.select("iteration", "greedy").rows() == [(0, pytest.approx(2 / 3)), (1, None)]
    fewer = scored(decoded, UTILITIES[:2, :1], {"log_likelihood": LOGPROBS[:2, :1]})
    stored(tmp_path / "fewer", decoded, fewer)
    assert rows(stored(tmp_path / "fewer", of, policies[0]))["greedy"].to_list() == [None]


def test_naming_it_changes_the_recipe_of_this_analysis_and_the_report_alone():
    plans = [
        Plan(load_study(ROOT / "studies" / "sharpening.yaml", [f"analysis.greedy={name}"])) for name in "ab"
    ]
    changed = {a.stage for a in plans[0].nodes if plans[0].fingerprint(a) != plans[1].fingerprint(a)}
    assert changed == {"sharpening", "report"}


def test_a_study_without_log_likelihoods_is_told(finished: Path):
    done = run_cli(finished, "analysis", "mini", "sharpening")
    assert done.returncode == 0
    assert "sharpening: none" in done.stdout
    assert "Of studies that verify by `log_likelihood`" in done.stdout


def test_the_studies_of_sharpening_are_drawn_and_greedy_has_the_same_base():
    file = ROOT / "studies" / "sharpening.yaml"
    overrides = ["name=sharpening_greedy", "iterations=0", "generation.temperature=0", "generation.n=1"]
    plans = [Plan(load_study(file)), Plan(load_study(file, overrides))]
    bases = [{p.fingerprint(a) for a in p.nodes if a.stage == "base_checkpoint"} for p in plans]
    assert bases[0] == bases[1]
    assert json.dumps(plans[0].study.weighting.rule_fields()) == '{"rule": "best_of_n", "k": 1}'
    assert plans[0].study.analysis.greedy == plans[1].study.name
    assert "sharpening_greedy" in file.read_text()
