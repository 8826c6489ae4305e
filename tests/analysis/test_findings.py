"""The rules of the findings on policies of known making, the page, and the whole path in small."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_cli

from si_dagster.analysis import findings
from si_dagster.analysis.findings import FINDINGS, MARGIN, Contrast, Evidence, Measured, verdict
from si_dagster.analysis.findings_page import written
from si_dagster.core.intervals import Interval
from si_dagster.plan import Plan
from si_dagster.reproduction import SEEDS, finding_studies, shrunk, write_page
from si_dagster.store.artifacts import Store

NUM_PROMPTS, N = 120, 16
OFFSETS = np.arange(0, NUM_PROMPTS * N + 1, N)
MODELS = ("xs", "s", "m", "l")


def policy(
    study: str,
    seed: int,
    size: int,
    accuracy: float,
    skill: dict[str, float],
    iteration: int = 0,
    spread: float = 1.0,
) -> Measured:
    """A policy right with `accuracy` whose scores are u times a skill plus noise; skill 0 is noise alone."""
    rng = np.random.default_rng([seed, size, iteration])
    difficulty = np.clip(accuracy + spread * rng.normal(0, 0.15, NUM_PROMPTS), 0.01, 0.99)
    u = (rng.random((NUM_PROMPTS, N)) < difficulty[:, None]).astype(float).ravel()
    scores = {name: strength * u + rng.random(u.size) for name, strength in skill.items()}
    if "cot_binary" in scores:
        scores["cot_binary"] = (scores["cot_binary"] > 0.5 + skill["cot_binary"] / 2).astype(float)
    if "tournament" in scores:
        ranks = scores["tournament"].reshape(NUM_PROMPTS, N).argsort(axis=1).argsort(axis=1)
        scores["tournament"] = np.floor(-np.log2(1 - (ranks.ravel() + 0.5) / N))
    model = MODELS[size]
    return Measured(study, seed, iteration, model, 1000, 10.0 ** (11 + size), OFFSETS, u, scores)


def evidence(measured) -> Evidence:
    """Of policies that are all there is planned."""
    measured = tuple(measured)
    studies = {m.study for m in measured}
    return Evidence(measured, {s: frozenset(m.model for m in measured if m.study == s) for s in studies})


def family(accuracies: list[float], skills: list[float], by: list[float], seeds=SEEDS) -> Evidence:
    """Four bases on arithmetic: own skill, and the skill with which each verifies for all."""
    measured = []
    for seed in seeds:
        for size in range(4):
            own = dict.fromkeys(("cot_score", "cot_binary", "multiple_choice", "tournament"), skills[size])
            lent = {f"by_{model}": by[place] for place, model in enumerate(MODELS)}
            measured.append(policy("findings_arithmetic", seed, size, accuracies[size], own | lent))
    return evidence(measured)


def statuses(contrasts: list[Contrast]) -> list[str]:
    return [contrast.status for contrast in contrasts]


def test_verifiers_that_grow_with_compute_are_reproduced():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    assert statuses(findings.scaling(found)) == ["supported", "supported"]
    assert findings.cross_verification(found)[0].status == "supported"


def test_verifiers_that_shrink_with_compute_are_refuted():
    found = family([0.2, 0.3, 0.4, 0.5], [1.2, 0.8, 0.4, 0.0], [1.2, 0.8, 0.4, 0.0])
    assert verdict(findings.scaling(found)) == "refuted"
    assert verdict(findings.cross_verification(found)) == "refuted"


def test_noise_is_neither():
    found = family([0.5] * 4, [0.0] * 4, [0.0] * 4)
    slope, smallest = findings.scaling(found)
    assert slope.status == "open"
    assert slope.interval.low < 0 < slope.interval.high
    assert smallest.status == "supported"  # noise has no gap
    assert "open" in statuses(findings.cross_verification(found))


def test_generators_that_get_better_leave_less_of_a_gap():
    found = family([0.5, 0.7, 0.85, 0.97], [1.0] * 4, [1.0] * 4)
    assert findings.cross_verification(found)[1].status == "supported"


def test_two_seeds_are_open_whatever_they_say():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2], seeds=SEEDS[:2])
    assert {"open"} == {*statuses(findings.scaling(found)), *statuses(findings.cross_verification(found))}


def test_one_seed_that_disagrees_opens_a_claim():
    agreed = Contrast("x", "above", 0.0, {0: 0.3, 1: 0.3, 2: 0.01}, Interval(0.2, 0.1, 0.3))
    assert agreed.status == "supported"
    assert replace(agreed, per_seed={0: 0.3, 1: 0.3, 2: -0.01}).status == "open"
    assert replace(agreed, expected="below").status == "contradicted"
    assert replace(agreed, bound=0.25).status == "open"
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    assert replace(agreed, interval=nothing).status == "open"


@pytest.mark.parametrize(
    ("skill", "accuracy", "expected"), [(0.0, 0.98, "supported"), (1.0, 0.8, "contradicted")]
)
def test_facts_are_judged_by_the_margin(skill: float, accuracy: float, expected: str):
    study = "findings_facts"
    own = {"multiple_choice": skill, "cot_score": skill}
    found = evidence(policy(study, s, size, accuracy, own, spread=0.0) for s in SEEDS for size in (0, 3))
    contrasts = findings.no_gap_for_facts(found)
    assert [c.bound for c in contrasts] == [MARGIN] * 4
    assert statuses(contrasts) == [expected] * 4


def test_iterations_that_close_the_gap_and_lose_diversity_are_told():
    study = "findings_iteration"
    mc = "multiple_choice"
    measured = [policy(study, s, 0, 0.5, {mc: 1.0}, 0) for s in SEEDS]
    for seed in SEEDS:
        # What is left: prompts either solved or lost, which no verifier can mend
        last = policy(study, seed, 0, 0.7, {mc: 0.0}, 3)
        solved = np.repeat(np.random.default_rng(seed).random(NUM_PROMPTS) < 0.7, N).astype(float)
        measured.append(replace(last, utilities=solved))
    contrasts = findings.iteration(evidence(measured))
    assert statuses(contrasts) == ["supported"] * 4
    assert "3 updates" in contrasts[0].claim
    assert "pass@16" in contrasts[3].claim
    assert findings.iteration(evidence(measured[:3])) == []


def test_the_shape_of_a_curve_is_read_from_scores():
    """One wrong sample scored best of all: cutting hard loses what cutting half gained."""
    found = family([0.5] * 4, [1.0] * 4, [1.0] * 4)
    fooled = []
    for m in found.measured:
        scores = m.scores["multiple_choice"].reshape(NUM_PROMPTS, N).copy()
        wrong = m.utilities.reshape(NUM_PROMPTS, N) == 0
        first = wrong.argmax(axis=1)
        scores[np.arange(NUM_PROMPTS)[wrong.any(axis=1)], first[wrong.any(axis=1)]] = 9.0
        fooled.append(replace(m, scores=m.scores | {"multiple_choice": scores.ravel()}))
    mc, _, cot = findings.threshold_shape(evidence(fooled))
    assert (mc.status, cot.status) == ("supported", "supported")


def test_independent_verifiers_overlap_little_and_help_each_other():
    found = family([0.5] * 4, [0.4] * 4, [0.4] * 4)
    contrasts = findings.overlap(found)
    assert statuses(contrasts) == ["supported"] * 4
    copied = [
        replace(m, scores=m.scores | {"cot_score": m.scores["multiple_choice"]}) for m in found.measured
    ]
    assert findings.overlap(evidence(copied))[1].status == "contradicted"
    # Pearson from sums is numpy's.
    a, b = (found.measured[0].scores[v] for v in ("multiple_choice", "cot_score"))
    sums = findings.pearson_columns(a, b, OFFSETS).sum(axis=0)[None]
    assert findings.pearson_statistic(sums)[0] == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_a_seed_that_lacks_a_base_is_left_out():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    lacking = replace(found, measured=found.measured[:-1])
    assert set(lacking.seeds("findings_arithmetic")) == set(SEEDS[:2])
    # A run that was broken off in the first cell: one base, no line through it.
    begun = replace(found, measured=found.measured[:1])
    assert all(finding.contrasts(begun) == [] for finding in FINDINGS)
    assert "Not measured yet." in written(begun, SEEDS, set())


def test_the_page_holds_what_was_measured_and_says_what_was_not():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    points = {f.number: f.points(found) for f in FINDINGS}
    assert {number for number, table in points.items() if table.height} == {1, 2, 5, 6}
    assert all(
        (t["low"] <= t["value"]).all() and (t["value"] <= t["high"]).all()
        for t in points.values()
        if t.height
    )
    page = written(found, SEEDS, {"finding_1.svg"})
    assert page.count("](images/") == 1
    assert page.count("slope of the relative gap under ") == 4  # one judged, three beside it
    assert page.count("Expected: ") == len(FINDINGS) == 6
    assert page.count("Not measured yet.") == 2
    slope = findings.scaling(found)[0]
    assert f"{slope.interval.estimate:+.3f} [{slope.interval.low:+.3f}, {slope.interval.high:+.3f}]" in page
    nothing = written(evidence(()), SEEDS, set())
    assert "Nothing is measured yet." in nothing
    assert nothing.count("**not measured**") == 12


def test_studies_of_the_findings_can_be_drawn_and_cover_two_orders_of_magnitude():
    studies = finding_studies()
    assert len(studies) == 4 * len(SEEDS) == len({study.name for _, study in studies})
    for _, study in studies[:4]:
        assert Plan(study).nodes
    arithmetic = dict(studies)["findings_arithmetic"]
    rows = [
        m.pretrain.max_steps * m.pretrain.per_device_train_batch_size for m in arithmetic.models if m.pretrain
    ]
    widths = {m.pretrain.hidden_size for m in arithmetic.models if m.pretrain}
    # 269,056 parameters against 29,952: 8.98 times
    assert len(rows) >= 4
    assert len(widths) >= 2
    assert 8.98 * max(rows) / min(rows) > 100


def test_the_small_path_runs_judges_and_writes(tmp_path: Path):
    """One study of the path, real bases of a few steps; the others are told as not measured."""
    files = tmp_path / "studies"
    files.mkdir()
    home = tmp_path / "home"
    name = "findings_facts.yaml"
    (files / name).write_text((ROOT / "studies" / name).read_text())
    done = run_cli(home, "findings", "--small", "--studies", str(files), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["failures"] == []
    verdicts = list(told["verdicts"].values())
    assert verdicts[2] == "open at this scale"  # one seed
    assert verdicts.count("not measured") == 5
    page = Path(told["page"]).read_text()
    assert "findings_facts" in page
    assert (home / "findings" / "images" / "finding_3.svg").is_file()
    again, verdicts = write_page(Store(home), tmp_path / "again", small=True, studies=files)
    assert again.read_text() == page
    assert verdicts == told["verdicts"]


def test_the_small_path_is_the_same_path():
    for _, study in finding_studies(small=True):
        assert study.name.endswith("__small")
        assert {m.name for m in study.models} <= set(MODELS) | {"pico"}
    with_all = dict(finding_studies())["findings_arithmetic"]
    assert {v.method for v in shrunk(with_all).verification} == {v.method for v in with_all.verification}
