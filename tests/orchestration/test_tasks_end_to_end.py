"""Every task through the whole loop on a real, random, tiny policy: prompts to checkpoint to gap.

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
import yaml
from conftest import run_cli

from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address

DATA = Path(os.environ.get("SI_DAGSTER_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))
OPTIONS: dict[str, dict[str, Any]] = {
    "nq_open": {"path": str(DATA / "nq_open")},
    "mbpp": {"path": str(DATA / "mbpp")},
    "gsm8k": {"path": str(DATA / "gsm8k")},
    "math": {"path": str(DATA / "math")},
    "svamp": {"path": str(DATA / "svamp")},
    "sudoku4": {"num_blanks": 6},
    "custom": {
        "path": str(DATA / "svamp" / "SVAMP.json"),
        "columns": {"question": "Question", "reference": "Answer"},
        "grader": "number",
    },
}
BY_DEFAULT = ("nq_open", "custom")
ALL = os.environ.get("SI_DAGSTER_ALL_TASKS") == "1"


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
    new_policy(_Shape(), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def study_file(folder: Path, task: str, policy: Path) -> Path:
    """A study as small as can be; long enough completions that some of them end by chance."""
    study = {
        "name": "tiny",
        "tasks": [{"name": task, "options": OPTIONS[task]}],
        "models": [{"name": "tiny", "path": str(policy)}],
        "splits": {"train": 4, "eval": 2},
        "generation": {"n": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 96},
        "weighting": {"rule": "quantile", "q": 0.0},
        "distillation": {"max_steps": 2, "per_device_train_batch_size": 2, "max_length": 8192},
        "iterations": 1,
        "stop": {"min_gap": -1.0},
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


@pytest.mark.parametrize("task", OPTIONS)
def test_a_task_runs_through_the_loop(task: str, policy: Path, tmp_path: Path) -> None:
    if task not in BY_DEFAULT and not ALL:
        pytest.skip("slow: SI_DAGSTER_ALL_TASKS=1 runs every task")
    if "path" in OPTIONS[task] and not Path(OPTIONS[task]["path"]).exists():
        pytest.skip(f"no {OPTIONS[task]['path']}: set SI_DAGSTER_TEST_DATA to the folder of the test data")
    done = run_cli(tmp_path, "run", str(study_file(tmp_path, task, policy)), "--json")
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


@dataclass(frozen=True)
class _Tables:
    store: Store
    task: str

    def folder(self, iteration: int, stage: str, part: str | None = None) -> Path:
        return self.store.folder(Address("tiny", iteration, stage, "tiny", self.task, part))

    def read(self, iteration: int, stage: str, part: str | None) -> pl.DataFrame:
        return self.store.require(Address("tiny", iteration, stage, "tiny", self.task, part)).read()
