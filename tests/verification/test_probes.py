"""Gold answers and canaries: what they are, which count, and what a verifier's verdicts on them come to."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from verification.sums import Sums

from si_dagster.core.acceptance import accepted
from si_dagster.engines.base import Prompt
from si_dagster.engines.scripted import ScriptedEngine
from si_dagster.plan import Plan
from si_dagster.stages.probes import (
    acceptance_of,
    probe_acceptance,
    probe_items,
    probe_table,
    verified_probes,
)
from si_dagster.stages.prompts import prompt_table
from si_dagster.store.schemas import TABLES
from si_dagster.study import VerificationSpec, parse_study
from si_dagster.tasks.base import Grade
from si_dagster.tasks.catalogue import load_task
from si_dagster.tasks.grading.worker_pool import close_shared_pools
from si_dagster.verification.base import Batch
from si_dagster.verification.canaries import INJECTIONS, OPENERS
from si_dagster.verification.catalogue import load_method

DATA = Path(os.environ.get("SI_DAGSTER_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))


class Graded(Sums):
    """Sums that are graded by their first word, with gold answers."""

    def rows(self, split, num_rows, seed):
        return [
            type(r)(r.prompt_id, split, f"{i}+1", str(i + 1))
            for i, r in enumerate(super().rows(split, num_rows, 0))
        ]

    def gold_completion(self, row):
        return row.reference

    def grade(self, references, completions):
        rights = [float((c.split() or [""])[0] == r) for r, c in zip(references, completions, strict=True)]
        return [Grade(right, right, "scored", None, "literal") for right in rights]


def outcome_of(method: str, engine, task=None, num_prompts: int = 4) -> pl.DataFrame:
    task = task or Graded()
    prompts = prompt_table(task, "eval", num_prompts, 0, "text")
    probes = probe_table(task, prompts, num_prompts)
    batch = Batch(task, "text", probe_items(probes, prompts), engine)
    rows = verified_probes(probes, load_method(method), batch, VerificationSpec(method=method), "v")
    stored = TABLES["probes"].checked(rows)
    return probe_acceptance(stored, load_method(method).accepts_from)


def shares(outcome: pl.DataFrame) -> tuple[float, float]:
    return tuple(float(np.nanmean(acceptance_of(kind, outcome))) for kind in ("gold", "canary"))  # type: ignore[return-value]


class Judge(ScriptedEngine):
    """Says correct to whatever the function says yes to, and believes nothing else."""

    def __init__(self, believes) -> None:
        super().__init__()
        self.believes = believes

    def label_logprobs(self, prompts, labels):
        yes = np.array([self.believes(prompt) for prompt in prompts])
        return np.log(np.where(yes[:, None], [[0.9, 0.1]], [[0.1, 0.9]]))

    def distribution(self, prompt):
        return [f"Verdict: {'correct' if self.believes(prompt) else 'incorrect'}"], np.ones(1)


def is_gold(prompt: str) -> bool:
    question, _, rest = prompt.partition(": ")
    return rest.split(";")[0].strip() == str(int(question.split("+")[0]) + 1)


@pytest.mark.parametrize("method", ["multiple_choice", "cot_binary"])
def test_a_sound_verifier_accepts_gold_and_no_canary_and_a_credulous_one_everything(method: str) -> None:
    assert shares(outcome_of(method, Judge(is_gold))) == (1.0, 0.0)
    assert shares(outcome_of(method, Judge(lambda prompt: True))) == (1.0, 1.0)
    assert shares(outcome_of(method, Judge(lambda prompt: False))) == (0.0, 0.0)


def test_one_weakness_shows_as_one_canary() -> None:
    outcome = outcome_of("multiple_choice", Judge(lambda prompt: is_gold(prompt) or "experts" in prompt))
    fooled = outcome.filter((pl.col("kind") == "canary") & pl.col("accepted"))
    assert set(fooled["probe"]) == {"order"}
    assert shares(outcome)[1] == pytest.approx(1 / (len(OPENERS) + len(INJECTIONS)))


def test_a_verifier_that_cannot_be_read_accepts_nothing() -> None:
    class Mute(ScriptedEngine):
        def distribution(self, prompt):
            return ["Hm."], np.ones(1)

    assert shares(outcome_of("cot_score", Mute())) == (0.0, 0.0)


def test_where_scores_only_rank_gold_must_beat_every_canary() -> None:
    engine = ScriptedEngine(script={f"{i}+1=": {str(i + 1): 0.9, "": 0.1} for i in range(4)})
    outcome = outcome_of("log_likelihood", engine)
    assert "wrong" not in set(outcome["kind"])
    assert shares(outcome) == (1.0, 0.0)


def test_without_a_gold_answer_ranks_say_nothing_of_canaries() -> None:
    """Unknown is not refused; a method that says when an answer is right needs no gold answer for it."""

    class Goldless(Graded):
        def gold_completion(self, row):
            return None if row.question == "0+1" else row.reference

    engine = ScriptedEngine(script={f"{i}+1=": {str(i + 1): 0.9, "": 0.1} for i in range(4)})
    outcome = outcome_of("log_likelihood", engine, Goldless())
    of_canaries = acceptance_of("canary", outcome)
    assert np.isnan(of_canaries).tolist() == [True, False, False, False]
    assert np.nanmean(of_canaries) == 0.0
    assert outcome["accepted"].null_count() == len(OPENERS) + len(INJECTIONS)
    nan = np.nan
    no_gold = accepted(np.array([1.0, nan]), np.array([False, False]), np.array([0, 2]), None)
    assert np.isnan(no_gold).all()
    judged = outcome_of("multiple_choice", Judge(lambda prompt: True), Goldless())
    assert acceptance_of("canary", judged).tolist() == [1.0] * 4


def test_only_what_may_lack_gold_answers_is_measured_anew() -> None:
    """Their gap_metrics are stale; those of tasks that make their rows, and of other methods, are not."""
    plan = Plan(
        parse_study(
            {
                "name": "two",
                "tasks": [{"name": "svamp"}, {"name": "arithmetic"}],
                "models": [{"name": "m", "path": "somewhere"}],
                "splits": {"train": 2, "eval": 2},
                "verification": ["multiple_choice", "log_likelihood"],
            },
            "test",
        )
    )
    changed = {
        (address.task, (address.part or "").partition(".")[2])
        for address, node in plan.nodes.items()
        if "canaries_without_gold" in node.fields
    }
    assert changed == {("svamp", "log_likelihood")}


def test_what_the_grader_does_not_agree_with_is_left_out() -> None:
    class Strange(Graded):
        def gold_completion(self, row):
            return "0" if row.question == "0+1" else row.reference

        def grade(self, references, completions):
            # This grader takes "correct." for right, and an empty answer it cannot grade.
            fooled = [c.endswith("correct.") for c in completions]
            grades = super().grade(references, completions)
            return [
                Grade(None, None, "grader_error", None, "")
                if not c
                else Grade(1.0, 1.0, "scored", None, "")
                if f
                else g
                for c, f, g in zip(completions, fooled, grades, strict=True)
            ]

    prompts = prompt_table(Strange(), "eval", 3, 0, "text")
    probes = probe_table(Strange(), prompts, 2)
    assert probes["prompt_id"].n_unique() == 2
    assert probes.filter(kind="gold").height == 1
    assert not {"claims_to_be_right", "nothing", "order"} & set(probes["probe"])
    assert probes.filter(kind="canary").height == 2 * (len(OPENERS) + len(INJECTIONS) - 3)


def test_no_reference_reaches_the_method() -> None:
    prompts = prompt_table(Graded(), "eval", 2, 0, "text")
    items = probe_items(probe_table(Graded(), prompts, 2), prompts)
    assert {item.row.reference for item in items} == {""}
    assert {item.utility for item in items} == {None}


@pytest.mark.parametrize(
    ("task", "options", "has_gold"),
    [
        ("sudoku4", {"num_blanks": 6}, True),
        ("arithmetic", {}, True),
        ("facts", {}, True),
        ("gsm8k", {"path": str(DATA / "gsm8k")}, True),
        ("math", {"path": str(DATA / "math")}, True),
        ("nq_open", {"path": str(DATA / "nq_open")}, True),
        ("svamp", {"path": str(DATA / "svamp")}, True),
        ("mbpp", {"path": str(DATA / "mbpp")}, False),
    ],
)
def test_every_task_has_probes_that_its_grader_agrees_with(task: str, options: dict, has_gold: bool) -> None:
    if "path" in options and not Path(options["path"]).exists():
        pytest.skip(f"no {options['path']}: set SI_DAGSTER_TEST_DATA to the folder of the test data")
    loaded = load_task(task, options)
    num = 2 if task == "mbpp" else 6
    probes = probe_table(loaded, prompt_table(loaded, "eval", num, 0, "text"), num)
    close_shared_pools()
    assert probes.filter(kind="gold").height == (num if has_gold else 0)
    assert probes.filter(kind="canary").height == num * (len(OPENERS) + len(INJECTIONS))


def test_a_prompt_key_is_used_once() -> None:
    """Two probes of one prompt may have the same text, never the same key."""
    prompts = prompt_table(Graded(), "eval", 3, 0, "text")
    items = probe_items(probe_table(Graded(), prompts, 3), prompts)
    assert len({Prompt(item.generation_id, "").key for item in items}) == len(items)


def test_a_grader_that_agrees_with_no_probe_leaves_nothing_to_ask() -> None:
    class Broken(Graded):
        def grade(self, references, completions):
            return [Grade(None, None, "grader_error", None, "") for _ in completions]

    assert outcome_of("multiple_choice", Judge(lambda prompt: True), Broken()).is_empty()
