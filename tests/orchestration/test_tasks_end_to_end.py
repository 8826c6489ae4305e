"""The study of every task, made small, through the whole loop on a real, random, tiny policy.

The policy knows nothing, so no figure is worth a look; what is tested is that each task's rows, prompts,
labels, stop strings and grader fit the stages. Two tasks run by default (about 30 s of CPU each);
SI_DAGSTER_ALL_TASKS=1 runs all.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ROOT, run_cli

from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address

DATA = Path(os.environ.get("SI_DAGSTER_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))
OPTIONS: dict[str, dict[str, Any]] = {
    "crescent": {"task": "gsm8k", "path": str(DATA / "gsm8k"), "num_votes": 2},
    "nq_open": {"path": str(DATA / "nq_open")},
    "mbpp": {"path": str(DATA / "mbpp")},
    "gsm8k": {"path": str(DATA / "gsm8k")},
    "math": {"path": str(DATA / "math")},
    "svamp": {"path": str(DATA / "svamp")},
    "sudoku4": {"num_blanks": 6, "puzzle_set": "one_per_grid"},
    "custom": {
        "path": str(DATA / "svamp" / "SVAMP.json"),
        "columns": {"question": "Question", "reference": "Answer"},
        "grader": "number",
    },
}
BY_DEFAULT = ("crescent", "nq_open")
ALL = os.environ.get("SI_DAGSTER_ALL_TASKS") == "1"
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


@dataclass(frozen=True)
class _Shape:
    hidden_size: int = 16
    intermediate_size: int = 32
    num_hidden_layers: int = 1
    num_attention_heads: int = 2
    # Few-shot prompts are thousands of tokens where a token is a character.
    max_position_embeddings: int = 8192


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama and a character tokenizer."""
    from si_dagster.training.pico import character_tokenizer, new_policy

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = character_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    new_policy(_Shape(), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def overrides(task: str, policy: Path) -> list[str]:
    """The study of the task made as small as can be; completions long enough that some end by chance."""
    values = {
        "name": "tiny",
        "tasks.0.name": task,
        "tasks.0.options": OPTIONS[task],
        "models.0.name": "tiny",
        "models.0.path": str(policy),
        "splits": {"train": 4, "eval": 2},
        "generation": {"n": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 96},
        "verification": [{"method": "multiple_choice"}],
        "weighting": {"rule": "quantile", "q": 0.0},
        "distillation": {"max_steps": 2, "per_device_train_batch_size": 2, "max_length": 8192},
        "iterations": 1,
        "stop.min_gap": -1.0,
    }
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


@pytest.mark.parametrize("task", OPTIONS)
def test_a_task_runs_through_the_loop(task: str, policy: Path, tmp_path: Path) -> None:
    if task not in BY_DEFAULT and not ALL:
        pytest.skip("slow: SI_DAGSTER_ALL_TASKS=1 runs every task")
    if "path" in OPTIONS[task] and not Path(OPTIONS[task]["path"]).exists():
        pytest.skip(f"no {OPTIONS[task]['path']}: set SI_DAGSTER_TEST_DATA to the folder of the test data")
    file = ROOT / "studies" / f"{task if task != 'custom' else 'gsm8k'}.yaml"
    done = run_cli(tmp_path, "run", str(file), *overrides(task, policy), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failures"] == []
    tables = _Tables(Store(tmp_path), task)
    for split, count in (("train", 4), ("eval", 2)):
        prompts = tables.read(0, "prompts", split)
        assert prompts["prompt_id"].n_unique() == count
        assert prompts["prompt_id"].str.starts_with(f"{split}-").all()
        assert (prompts["reference"] != "").all()
        utilities = tables.read(0, "utilities", split)
        assert utilities.height == 2 * count
        assert set(utilities["status"]) <= {"scored", "unparsed", "truncated"}
        scores = tables.read(0, "verifications", f"{split}.multiple_choice")
        assert scores.height == 2 * count
        assert scores["proxy_utility"].is_between(0, 1).all()
        assert scores["proxy_utility"].n_unique() > 1
    kept = tables.read(0, "filtered_set", None)
    assert kept.height > 0
    result = json.loads((tables.folder(0, "checkpoint") / "result.json").read_text())
    assert result["steps"] == 2
    assert result["final_loss"] > 0  # a row whose completion was cut off whole would make it NaN
    assert tables.read(1, "gap_metrics", "eval.multiple_choice")["num_samples"].to_list() == [4]

    if task == "crescent":
        _check_made_up(tables)


def _check_made_up(tables: "_Tables") -> None:
    """Prompts of the policy's own making, spoken through its chat template."""
    made, given = (tables.read(0, "prompts", split) for split in ("train", "eval"))
    for prompt in [*made["prompt"], *given["prompt"]]:
        assert prompt.startswith("[user]\nSolve the problem")
    assert all(prompt.endswith("<eos>[assistant]\n") for prompt in made["prompt"])
    assert made["prompt"][0].count("[user]") == made["prompt"][0].count("[assistant]") == 5  # 4 shots
    assert set(made["question"]).isdisjoint(given["question"])
    assert all(0 < json.loads(slices)["agreement"] <= 1 for slices in made["slices"])
    manifest = tables.store.require(tables.address(0, "prompts", "train")).manifest
    assert {reference.role for reference in manifest.inputs} == {"policy", "tokenizer"}
    assert manifest.metadata["num_drawn"] >= 4
    trained = tables.read(0, "filtered_set", None)
    assert set(trained["prompt"]) <= set(made["prompt"])


@dataclass(frozen=True)
class _Tables:
    store: Store
    task: str

    def address(self, iteration: int, stage: str, part: str | None = None) -> Address:
        return Address("tiny", iteration, stage, "tiny", self.task, part)

    def folder(self, iteration: int, stage: str, part: str | None = None) -> Path:
        return self.store.folder(self.address(iteration, stage, part))

    def read(self, iteration: int, stage: str, part: str | None) -> pl.DataFrame:
        return self.store.require(self.address(iteration, stage, part)).read()
