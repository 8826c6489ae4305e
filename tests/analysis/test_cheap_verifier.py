"""Students beside a teacher of known quality: agreement, AUROC and the plot."""

import json
from pathlib import Path

import numpy as np
import pytest
from analysis.made_up import drawn, noisy, scored, stored, study

from si_dagster.analysis import cheap_verifier, threshold_sweep
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.store.schemas import TABLES

METHODS = ["cot_score", {"method": "cheap", "teacher": "cot_score", "budget": [0, 16, 64]}]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory):
    """Students that copy the teacher the better the more they were taught."""
    of = study(METHODS)
    utilities = drawn(60, 8, seed=0)
    teacher = noisy(utilities, 0.5, seed=1)
    students = {
        "cheap-of-cot_score-0": np.random.default_rng(2).normal(size=teacher.shape),
        "cheap-of-cot_score-16": teacher + np.random.default_rng(3).normal(size=teacher.shape),
        "cheap-of-cot_score-64": np.exp(teacher),
    }
    home: Path = tmp_path_factory.mktemp("home")
    data = stored(home, of, scored(of, utilities, {"cot_score": teacher, **students}))
    return TABLES["cheap_verifier"].filled(cheap_verifier.rows(data))


def test_agreement_rises_with_the_budget_and_a_monotone_copy_agrees_wholly(rows) -> None:
    by_budget = {row["budget"]: row for row in rows.to_dicts()}
    assert list(by_budget) == [0, 16, 64]
    assert by_budget[0]["pair_agreement_low"] < 0.5 < by_budget[0]["pair_agreement_high"]
    assert by_budget[0]["pair_agreement_high"] < by_budget[16]["pair_agreement_low"]
    assert by_budget[64]["pair_agreement"] == by_budget[64]["spearman"] == pytest.approx(1.0)
    assert by_budget[64]["over_teacher"] == pytest.approx(0.0)
    assert by_budget[0]["over_teacher_high"] < 0
    assert by_budget[64]["auroc"] > 0.8


def test_the_plot_has_every_budget_in_order_with_its_interval(rows) -> None:
    chart = json.dumps(cheap_verifier.chart(rows).to_dict())
    assert '"sort": ["0", "16", "64"]' in chart
    assert "value_low" in chart
    assert [row["budget"] for row in cheap_verifier.shown(rows)] == ["0", "16", "64"]


def test_a_study_without_students_says_nothing(tmp_path: Path) -> None:
    of = study()
    utilities = drawn(8, 4, seed=0)
    data = stored(tmp_path, of, scored(of, utilities, {"multiple_choice": noisy(utilities, 0.5, seed=1)}))
    assert cheap_verifier.rows(data).is_empty()
    assert cheap_verifier.shown(TABLES["cheap_verifier"].filled(cheap_verifier.rows(data))) == []
    assert Store(tmp_path).manifest(Address(of.name, None, "cheap_verifier")) is None


def test_the_sweep_compares_no_ensembles_of_other_members() -> None:
    """A teacher that only teaches has no scores of training prompts."""
    of = study(METHODS, weighting={"verification": "cheap-of-cot_score-16"})
    utilities = drawn(20, 4, seed=0)
    names = ["cot_score", *(f"cheap-of-cot_score-{budget}" for budget in (0, 16, 64))]
    scores = {name: noisy(utilities, 0.5, seed) for seed, name in enumerate(names)}
    held_out = scored(of, utilities, scores)
    train = scored(of, utilities, {name: scores[name] for name in names[1:]}, split="train")
    swept = threshold_sweep.sweep_rows(held_out, train)
    told = {
        name: rows["rows_staying"].null_count() == 0
        for (name,), rows in swept.filter(swept["rule"] == "quantile").group_by("verification")
    }
    assert told.pop("cot_score") is False
    assert {name for name, known in told.items() if known} == set(names[1:])
    assert len(told) > len(names[1:])
