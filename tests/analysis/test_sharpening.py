"""Sharpening: coverage by hand, the likeliest answer's utility, greedy decoding beside it, the verb."""

import json
from pathlib import Path

import numpy as np
import pytest
from analysis.made_up import scored, study
from conftest import run_cli

from si_dagster.analysis.sharpening import rows, shown


class Stored:
    """What `rows` asks of a study's data: the samples of its policies."""

    def __init__(self, *samples) -> None:
        self._samples = samples

    def samples(self, split: str):
        assert split == "eval"
        return iter(self._samples)


UTILITIES = np.array([[1.0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 0, 0]])
LOGPROBS = np.log([[0.5, 0.2, 0.1, 0.1], [0.4, 0.2, 0.2, 0.1], [0.05, 0.2, 0.1, 0.1]])


def sharpened():
    return scored(study(("log_likelihood", "multiple_choice")), UTILITIES, {"log_likelihood": LOGPROBS})


def test_the_likeliest_answer_and_its_probability():
    (row,) = rows(Stored(sharpened())).to_dicts()  # type: ignore[arg-type]
    assert row["expected_utility"] == pytest.approx(np.mean([1 / 4, 3 / 4, 1 / 2]))
    assert row["likeliest"] == pytest.approx(2 / 3)  # right, wrong, right
    assert row["inverse_likelihood"] == pytest.approx(np.mean([2.0, 2.5, 5.0]))
    assert row["inverse_likelihood_median"] == pytest.approx(2.5)
    assert row["inverse_likelihood_low"] <= row["inverse_likelihood"] <= row["inverse_likelihood_high"]
    assert row["greedy"] is None
    assert shown(rows(Stored(sharpened())))[0]["greedy"] == "-"  # type: ignore[arg-type]


def test_greedy_decoding_stands_beside_the_same_policy_alone():
    answered = scored(
        study(("log_likelihood",)), np.array([[1.0], [0], [1]]), {"log_likelihood": LOGPROBS[:, :1]}
    )
    (row,) = rows(Stored(sharpened()), Stored(answered)).to_dicts()  # type: ignore[arg-type]
    assert row["greedy"] == pytest.approx(2 / 3)


def test_a_study_without_log_likelihoods_is_told(finished: Path):
    done = run_cli(finished, "sharpening", "mini", "--json")
    assert done.returncode == 1
    assert "has no verification by log_likelihood" in done.stderr


def test_the_studies_of_sharpening_are_drawn_and_greedy_has_the_same_base():
    from conftest import ROOT

    from si_dagster.plan import Plan
    from si_dagster.study import load_study

    file = ROOT / "studies" / "sharpening.yaml"
    overrides = ["name=sharpening_greedy", "iterations=0", "generation.temperature=0", "generation.n=1"]
    plans = [Plan(load_study(file)), Plan(load_study(file, overrides))]
    bases = [{p.fingerprint(a) for a in p.nodes if a.stage == "base_checkpoint"} for p in plans]
    assert bases[0] == bases[1]
    assert json.dumps(plans[0].study.weighting.rule_fields()) == '{"rule": "best_of_n", "k": 1}'
    assert "sharpening_greedy" in file.read_text()
