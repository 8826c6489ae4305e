"""MBPP: short Python functions, graded by running their tests.

Catalogue card
    Source: `google-research-datasets/mbpp`, configs `full` and `sanitized`; or a local folder with
        `mbpp.jsonl` (974: text, code, test_list) and `sanitized-mbpp.json` (427: prompt, code, test_list).
    Paper: Austin et al. 2021, arXiv 2108.07732.
    Licence: CC BY 4.0 (Google).
    Splits: by task_id as in the paper: eval is its test split, 11 to 510; train is 511 to 974; 1 to 10 are
        the prompt examples of the paper and in neither.
    Utility: 1 where all tests hold. Strict: the completion is the program alone, bare up to [DONE] or in one
        fenced block. The prompt shows the tests, as in the paper.
    Few-shot: 4 of our own, none from MBPP.
    Isolation: see `grading.sandbox`; option `guard: rlimits` allows less, by name.

What it does not do: run challenge tests, or measure speed.
"""

import ast
import builtins
import json
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from si_dagster.tasks.base import Split, TaskDataError
from si_dagster.tasks.dataset_task import DatasetTask
from si_dagster.tasks.grading.code_grader import CodeGrader
from si_dagster.tasks.grading.graders import Grader
from si_dagster.tasks.grading.sandbox import Guard
from si_dagster.tasks.grading.syntax import parsed
from si_dagster.tasks.sources import Record, find_file, hub_records, read_records

IDS: dict[Split, range] = {"eval": range(11, 511), "train": range(511, 975)}
FILE_NAMES = {
    "full": ("mbpp.jsonl", "mbpp.parquet"),
    "sanitized": ("sanitized-mbpp.json", "sanitized-mbpp.jsonl", "sanitized.parquet"),
}
HUB_PARTS = ("prompt", "train", "validation", "test")


class Mbpp(DatasetTask):
    """Short Python functions."""

    name: ClassVar[str] = "mbpp"
    LICENCE: ClassVar[str] = "CC BY 4.0"
    HUB_ID: ClassVar[str] = "google-research-datasets/mbpp"
    STOP: ClassVar[tuple[str, ...]] = ("[DONE]",)

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        num_fewshot: int = 4,
        version: Literal["full", "sanitized"] = "full",
        guard: Guard = "namespaces",
    ) -> None:
        if version not in FILE_NAMES:
            raise TaskDataError(f"task mbpp: version is {version!r}, allowed are {', '.join(FILE_NAMES)}")
        super().__init__(path, revision, num_fewshot)
        self.version = version
        self.code_grader = CodeGrader(guard)

    @cached_property
    def grader(self) -> Grader:
        """The sandboxed grader."""
        return self.code_grader

    @cached_property
    def tasks(self) -> list[Record]:
        """All tasks of the version, those of no split included."""
        if self.path is None:
            parts = [hub_records(self.HUB_ID, self.version, part, self.revision) for part in HUB_PARTS]
            return [row for part in parts for row in part]
        return read_records(self._only_file())

    def _only_file(self) -> Path:
        """The file of the version; a `path` that is a file is the one."""
        path, names = self.path or Path(), FILE_NAMES[self.version]
        return path if path.is_file() else find_file(path, names) or path / names[0]

    def _file(self, split: Split) -> Path | None:
        """None holds one split alone."""
        return None

    def _numbered(self, split: Split) -> list[tuple[int, Record]]:
        return [(int(row["task_id"]), row) for row in self.tasks if int(row["task_id"]) in IDS[split]]

    def question_of(self, record: Record) -> str:
        """The task and its tests, which name the function."""
        text = str(record.get("text") or record["prompt"]).strip()
        return f"{text} Your code should pass these tests:\n\n" + "\n".join(record["test_list"])

    def reference_of(self, record: Record) -> str:
        """Tests, setup and imports as JSON, with the built-in names that the task wants defined."""
        data = {
            "tests": list(record["test_list"]),
            "setup": str(record.get("test_setup_code") or ""),
            "imports": list(record.get("test_imports") or ()),
            "shadowed": _shadowed(str(record["code"])) if record.get("code") else [],
        }
        return json.dumps(data)

    def columns_of(self, record: Record) -> dict[str, Any]:
        """The number of the task."""
        return {"task_id": int(record["task_id"])}


def _shadowed(code: str) -> list[str]:
    """Built-in names that a gold program defines as functions, e.g. `sum` in task 126."""
    body = parsed(code).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return sorted(names & set(dir(builtins)))
