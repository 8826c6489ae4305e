"""The rules of the findings on policies of known making, the page, and the whole path in small."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from conftest import MINI, ROOT, run_cli

from assets.findings import findings_definitions
from si_dagster.analysis import findings
from si_dagster.analysis.findings import FINDINGS, MARGIN, Contrast, Evidence, Measured, verdict
from si_dagster.analysis.findings_page import section, sections, verdict_table, written
from si_dagster.core.intervals import Interval
from si_dagster.instance import open_instance
from si_dagster.plan import Plan
from si_dagster.reproduction import SEEDS, finding_studies, shrunk, write_page
from si_dagster.runs import materialize_findings
from si_dagster.store.artifacts import Store
from si_dagster.study import load_study

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
    prompts = np.array([f"{study}/{seed}/{place:03d}" for place in range(NUM_PROMPTS)])
    return Measured(study, seed, iteration, model, 1000, 10.0 ** (11 + size), prompts, OFFSETS, u, scores)


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


def page_of(found: Evidence) -> str:
    return written(found, SEEDS, sections(found))


def statuses(contrasts: list[Contrast]) -> list[str]:
    return [contrast.status for contrast in contrasts]


def test_verifiers_that_grow_with_compute_are_reproduced():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    assert statuses(findings.scaling(found)[:2]) == ["supported", "supported"]
    assert findings.cross_verification(found)[0].status == "supported"


def test_verifiers_that_shrink_with_compute_are_refuted():
    found = family([0.2, 0.3, 0.4, 0.5], [1.2, 0.8, 0.4, 0.0], [1.2, 0.8, 0.4, 0.0])
    assert verdict(findings.scaling(found)) == "refuted"
    assert verdict(findings.cross_verification(found)) == "refuted"


def test_noise_is_neither():
    found = family([0.5] * 4, [0.0] * 4, [0.0] * 4)
    slope, smallest, *laws = findings.scaling(found)
    assert slope.status == "open"
    assert statuses(laws) == ["open"] * 3  # nothing lies on a line, so nothing does so more closely
    assert slope.interval.low < 0 < slope.interval.high
    assert smallest.status == "supported"  # noise has no gap
    assert "open" in statuses(findings.cross_verification(found))


def test_generators_that_get_better_leave_less_of_a_gap():
    found = family([0.5, 0.7, 0.85, 0.97], [1.0] * 4, [1.0] * 4)
    assert findings.cross_verification(found)[1].status == "supported"


def test_a_law_that_others_do_not_follow_is_told_from_one_that_they_do():
    """CoT-score gets better step by step; the other methods are best in the middle, so no line fits them."""

    def with_skills(cot: list[float], others: list[float]) -> list[Contrast]:
        measured = []
        for seed in SEEDS:
            for size in range(4):
                own = dict.fromkeys(("cot_binary", "multiple_choice", "tournament"), others[size])
                skills = own | {"cot_score": cot[size]}
                measured.append(policy("findings_arithmetic", seed, size, 0.5, skills))
        return findings.scaling(evidence(measured))[2:]

    rising, hump = [0.0, 0.3, 0.6, 0.9], [0.0, 1.0, 1.0, 0.0]
    _, mc, tournament = with_skills(rising, hump)
    assert (mc.status, tournament.status) == ("supported", "supported")
    assert "R²" in mc.claim
    _, mc, tournament = with_skills(hump, rising)
    assert (mc.status, tournament.status) == ("contradicted", "contradicted")


def test_a_prompt_that_seeds_share_is_drawn_for_all_of_them_at_once():
    """The same values three times are one measurement, not three: no narrower than of one seed."""
    values = np.random.default_rng(0).random((NUM_PROMPTS, 1))

    def width(prompts_of: Callable[[int], list[str]]) -> float:
        seeds = {seed: findings.PerPrompt(np.array(prompts_of(seed)), values) for seed in SEEDS}
        _, interval = findings.of_means(seeds, [1.0])
        return interval.high - interval.low

    shared = width(lambda seed: [f"{place}" for place in range(NUM_PROMPTS)])
    apart = width(lambda seed: [f"{seed} {place}" for place in range(NUM_PROMPTS)])
    by_normal = 2 * 1.96 * values.std() / np.sqrt(NUM_PROMPTS)
    assert shared == pytest.approx(by_normal, rel=0.1)
    assert apart == pytest.approx(by_normal / np.sqrt(3), rel=0.1)


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
    *contrasts, sudoku = findings.no_gap_for_facts(found)
    assert [c.bound for c in contrasts] == [MARGIN] * 4
    assert statuses(contrasts) == [expected] * 4
    assert (sudoku.claim, sudoku.status) == ("Sudoku", "open")  # not measured: no finding by one half


def test_a_base_that_is_never_right_has_its_gap_by_identity():
    study, own = "findings_facts", {"multiple_choice": 1.0, "cot_score": 1.0}
    measured = [policy(study, s, size, 0.5, own) for s in SEEDS for size in (0, 3)]
    never = [replace(m, utilities=np.zeros_like(m.utilities)) if m.model == "xs" else m for m in measured]
    smallest, _, largest, *_ = findings.no_gap_for_facts(evidence(never))
    assert smallest.note == "J = 0: the gap is 0 by identity, whatever the verifier"
    assert (smallest.status, largest.note) == ("supported", "")
    page = page_of(evidence(never))
    assert "supported (J = 0: the gap is 0 by identity" in page
    assert "findings_facts, base xs: J = 0: the gap" in page
    assert "J = 0 in seed 3: " in findings.by_identity([never[0], *measured[2::2]])


def test_the_page_tells_a_blind_verifier_from_one_that_cannot_be_read():
    study = "findings_facts"
    own = {"multiple_choice": 0.0, "cot_score": 4.0}
    measured = [policy(study, s, 0, 0.5, own) for s in SEEDS]
    broken = []
    for m in measured:
        scores = m.scores["cot_score"].copy()
        scores[: OFFSETS[NUM_PROMPTS // 2]] = np.nan
        broken.append(replace(m, scores=m.scores | {"cot_score": scores}))
    table = {row.split(" | ")[2]: row for row in page_of(evidence(broken)).splitlines() if "| xs |" in row}
    # Half of the prompts cannot be read; of the others a quarter stays.
    cells = [cell.split(" (")[0].strip(" |") for cell in table["CoT-score"].split(" | ")]
    assert cells[3:5] == ["0.500", "0.500"]
    assert "most replies cannot be read" not in page_of(evidence(broken))
    silent = [replace(m, scores=m.scores | {"cot_score": np.full(OFFSETS[-1], np.nan)}) for m in broken]
    assert "is no verdict on answers. CoT-score on xs (findings_facts)." in page_of(evidence(silent))
    assert float(cells[5]) == pytest.approx(0.125, abs=0.01)
    assert float(cells[9]) == 1.0
    blind = [cell.split(" (")[0].strip(" |") for cell in table["MC"].split(" | ")]
    assert blind[3:6] == ["0.000", "1.000", "0.250"]
    assert float(blind[6]) == pytest.approx(float(blind[7]), abs=0.03)
    assert float(blind[9]) == pytest.approx(0.5, abs=0.03)


def test_the_page_says_of_how_many_seeds_a_figure_is_and_judges_nothing_by_what_cannot_be_read():
    """The smallest base answers legibly under MC alone; of its scores by CoT-score one seed can be read."""
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    silent = np.full(OFFSETS[-1], np.nan)

    def muted(m: Measured) -> Measured:
        unread = ["tournament", "cot_binary", *(["cot_score"] if m.seed != SEEDS[0] else [])]
        return replace(m, scores=m.scores | dict.fromkeys(unread, silent)) if m.model == "xs" else m

    mute = evidence(muted(m) for m in found.measured)
    rows = [row.strip("| ").split(" | ") for row in page_of(mute).splitlines() if "| xs |" in row]
    cells = {row[2]: row[3:] for row in rows if len(row) == 10}
    assert cells["CoT-score"][-1].endswith(" (1 of 3 seeds)")
    assert cells["CoT-binary"][-2:] == ["-", "-"]
    assert "seeds" not in cells["MC"][-1]
    contrast = findings.scaling(mute)[1]
    assert contrast.note.startswith("replies that cannot be read: CoT-score 66.7%, CoT-binary 100.0%, tour")
    assert contrast.status == replace(contrast, note="").status == "supported"
    assert f"supported ({contrast.note})" in page_of(mute)
    assert findings.scaling(found)[1].note == ""


def test_a_gap_in_sudoku_is_expected_of_the_largest_base_alone():
    def grids(middle: float) -> list[str]:
        skills = ((0, -0.5), (2, middle), (3, 1.0))
        measured = [
            policy("findings_sudoku4", seed, size, 0.5, {"multiple_choice": skill}, spread=0.0)
            for seed in SEEDS
            for size, skill in skills
        ]
        return statuses(findings.no_gap_for_facts(evidence(measured)))[:3]

    assert grids(middle=-0.5) == ["supported"] * 3
    assert grids(middle=1.0) == ["supported", "contradicted", "supported"]


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
    assert statuses(contrasts) == ["supported"] * 4 + ["open"] * 2
    assert [c.per_seed for c in contrasts[4:]] == [{}, {}]  # the arm of ground truth has not run
    assert "3 updates" in contrasts[0].claim
    assert "pass@16" in contrasts[3].claim
    assert findings.iteration(evidence(measured[:3])) == []
    # Ground truth that keeps every prompt solved now and then, and one that loses them like the other arm.
    base = [replace(m, study=findings.ORACLE) for m in measured[:3]]
    kept = [policy(findings.ORACLE, s, 0, 0.8, {mc: 0.0}, 3) for s in SEEDS]
    lost = [replace(m, study=findings.ORACLE) for m in measured if m.iteration == 3]
    by_truth = findings.iteration(evidence([*measured, *base, *kept]))
    assert statuses(by_truth[4:]) == ["supported", "supported"]
    assert statuses(findings.iteration(evidence([*measured, *base, *lost]))[4:]) == ["contradicted", "open"]
    beyond = findings.beyond_reweighting(
        evidence([replace(m, iteration=min(m.iteration, 1)) for m in measured])
    )
    (first,) = beyond
    assert first.claim == "J(f_1) - J(f_0[w])"
    before, after = measured[0], measured[3]
    by_hand = after.expected.mean() - before.expected.mean() - before.gap(mc).mean()
    assert first.per_seed[SEEDS[0]] == pytest.approx(by_hand)
    points = findings.iteration_points(evidence([*measured, *base, *kept]))
    assert {"pass@16", "pass@16 by ground truth"} < set(points["series"])


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.5, ["supported", "supported"]), (1.0, ["supported", "contradicted"])]
)
def test_thresholds_transfer_where_scores_mean_the_same(scale: float, expected: list[str]):
    """Right answers lie above .6 in arithmetic, in Sudoku above .6 x scale."""
    mc = "multiple_choice"

    def squeezed(study: str, size: int, seed: int, factor: float) -> Measured:
        m = policy(study, seed, size, 0.5, dict.fromkeys(("cot_score", mc, "cot_binary", "tournament"), 1.5))
        return replace(m, scores=m.scores | {mc: factor * m.scores[mc] / 2.5})

    sums = [squeezed("findings_arithmetic", size, seed, 1.0) for seed in SEEDS for size in (2, 3)]
    grids = [squeezed("findings_sudoku4", 3, seed, scale) for seed in SEEDS]
    contrasts = findings.threshold_shape(evidence([*sums, *grids]))[3:]
    assert statuses(contrasts) == expected
    assert "other size" in contrasts[0].claim
    assert "other task" in contrasts[1].claim
    beside = findings.other_transfers(evidence([*sums, *grids]))
    assert beside[1].status == "contradicted"  # a quantile is a share: no scale moves it
    assert findings.threshold_shape(evidence(sums))[-1].per_seed == {}  # the other task has not run


def test_cuts_are_chosen_and_scored_on_different_prompts():
    m = policy("findings_arithmetic", SEEDS[0], 3, 0.5, {"multiple_choice": 1.0})
    cut = findings.Cut("multiple_choice", "quantile")
    loss = cut.loss(m, m)
    assert np.isnan(loss).sum() == NUM_PROMPTS // 2
    assert np.nansum(np.abs(loss)) == 0.0  # its own cut loses nothing
    scored = ~np.isnan(loss)
    shuffled = m.utilities.reshape(NUM_PROMPTS, N).copy()
    shuffled[scored] = 1 - shuffled[scored]
    other = replace(m, utilities=shuffled.ravel())
    choosing = ~scored
    assert cut.best(cut.gaps(m), choosing) == cut.best(cut.gaps(other), choosing)


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
    mc, _, cot, *_ = findings.threshold_shape(evidence(fooled))
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
    assert "Not measured yet." in page_of(begun)


def test_the_page_holds_what_was_measured_and_says_what_was_not():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    points = {f.number: f.points(found) for f in FINDINGS}
    assert {number for number, table in points.items() if table.height} == {1, 2, 5, 6}
    assert all(
        (t["low"] <= t["value"]).all() and (t["value"] <= t["high"]).all()
        for t in points.values()
        if t.height
    )
    page = page_of(found)
    assert page.count("](images/") == 4
    assert page.count("slope of the relative gap under ") == 4  # one judged, three beside it
    assert page.count("Expected: ") == page.count("not measured here:") == len(FINDINGS) == 6
    assert page.count("Not measured yet.") == 2
    slope = findings.scaling(found)[0]
    assert f"{slope.interval.estimate:+.3f} [{slope.interval.low:+.3f}, {slope.interval.high:+.3f}]" in page
    nothing = page_of(evidence(()))
    assert "Nothing is measured yet." in nothing
    assert nothing.count("**not measured**") == 12


def test_the_verdicts_are_an_asset_where_any_study_of_them_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = [study for name, study in finding_studies() if name == findings.ITERATION]
    strangers = [load_study(MINI), load_study(ROOT / "studies" / "findings_facts.yaml")]  # seed 0: not judged
    assert not findings_definitions(strangers).assets
    (asset,) = findings_definitions([*ours, *strangers]).assets  # pyright: ignore[reportOptionalIterable, reportGeneralTypeIssues]
    assert isinstance(asset, dg.AssetsDefinition)
    gaps = {f"{s.name}/iteration_{t}/gap_metrics" for s in ours for t in range(4)}
    assert {key.to_user_string() for key in asset.asset_deps[dg.AssetKey("findings")]} == gaps
    assert {*asset.group_names_by_key.values()} == {"findings"}
    monkeypatch.setenv("SI_DAGSTER_HOME", str(tmp_path))
    assert materialize_findings(ours) == []
    with open_instance(tmp_path) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("findings"))
    made = event and event.asset_materialization
    assert made is not None
    assert set(made.metadata) == {"verdicts", *(f"finding_{number}" for number in range(1, 7))}
    assert str(made.metadata["verdicts"].value).count("**not measured**") == 6  # nothing is stored here


def test_what_the_asset_shows_is_what_the_page_holds():
    found = family([0.2, 0.3, 0.4, 0.5], [0.0, 0.4, 0.8, 1.2], [0.0, 0.4, 0.8, 1.2])
    told, page = sections(found), page_of(found)
    assert verdict_table(told) in page
    shown = section(told[0], told[0].inline_picture)
    assert "![The relative gap under CoT-score rises" in shown
    assert shown.count("data:image/png;base64,") == 1
    assert all(line in page for line in shown.splitlines() if "data:image" not in line)


def test_studies_of_the_findings_can_be_drawn_and_cover_two_orders_of_magnitude():
    studies = finding_studies()
    assert len(studies) == 5 * len(SEEDS) == len({study.name for _, study in studies})
    for _, study in studies[:: len(SEEDS)]:
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


def test_the_control_differs_in_its_filter_alone_and_shares_the_base():
    studies = {name: study for name, study in finding_studies() if study.seed == SEEDS[0]}
    plain, control = studies[findings.ITERATION], studies[findings.ORACLE]
    changed = {f for f in type(plain).model_fields if getattr(plain, f) != getattr(control, f)}
    assert changed == {"name", "verification", "weighting", "oracle"}
    assert plain.weighting.max_per_prompt == control.weighting.max_per_prompt
    bases = [Plan(study).address("base_checkpoint", None, study.cells()[0]) for study in (plain, control)]
    prints = {Plan(study).fingerprint(base) for study, base in zip((plain, control), bases, strict=True)}
    assert len(prints) == 1


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
    whole = dict(finding_studies())
    for name, study in finding_studies(small=True):
        assert study.name.endswith("__small")
        assert {m.name for m in study.models} <= {m.name for m in whole[name].models}
    with_all = whole["findings_arithmetic"]
    assert {v.method for v in shrunk(with_all).verification} == {v.method for v in with_all.verification}
