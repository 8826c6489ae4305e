"""MATH: competition problems with LaTeX answers.

Catalogue card
    Source: `EleutherAI/hendrycks_math` and `HuggingFaceH4/MATH-500`; or a local folder with `test.jsonl`
        (problem, solution, level, type) and `math500.jsonl` (problem, solution, answer, subject, level).
    Paper: Hendrycks et al. 2021, arXiv 2103.03874; MATH-500 from Lightman et al. 2023, arXiv 2305.20050.
    Licence: MIT.
    Splits: eval is MATH-500; train is the test set without it (4,500), less near-duplicates of it. The paper
        (arXiv 2412.02674) measures on all 5,000 test problems; `split="full"` gives them as eval, and none
        for training.
    Utility: 1 where the final expression equals the reference: literally, as a number, or by math-verify.
        Strict: a box, or the sentence "Final Answer: The final answer is ...".
    Few-shot: the 4 of Lewkowycz et al. 2022 (Minerva, arXiv 2206.14858), all from MATH's training set; wrong
        answers and checks are ours.

What it does not do: load MATH's training set, or grade a proof.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from si_dagster.tasks.base import Split, TaskDataError
from si_dagster.tasks.dataset_task import DatasetTask, existing
from si_dagster.tasks.grading.graders import math_reference
from si_dagster.tasks.sources import Record, find_file, hub_records, read_records

SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


class Math(DatasetTask):
    """Competition mathematics."""

    name: ClassVar[str] = "math"
    LICENCE: ClassVar[str] = "MIT"
    HUB_ID: ClassVar[str] = "EleutherAI/hendrycks_math"
    MATH500_HUB_ID: ClassVar[str] = "HuggingFaceH4/MATH-500"
    GRADER: ClassVar[str] = "math"
    STOP: ClassVar[tuple[str, ...]] = ("\nProblem:",)

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        num_fewshot: int = 4,
        split: Literal["math500", "full"] = "math500",
    ) -> None:
        if split not in ("math500", "full"):
            raise TaskDataError(f"task math: split is {split!r}, allowed are math500, full")
        super().__init__(path, revision, num_fewshot)
        self.split = split

    @cached_property
    def _test(self) -> list[Record]:
        if self.path is None:
            return [
                row
                for subject in SUBJECTS
                for row in hub_records(self.HUB_ID, subject, "test", self.revision)
            ]
        return read_records(self._local("test"))

    @cached_property
    def _math500(self) -> set[str]:
        """Problems of MATH-500, without spaces, which differ between copies."""
        if self.path is None:
            rows = hub_records(self.MATH500_HUB_ID, None, "test", None)
        else:
            rows = read_records(self._local("math500"))
        return {_key(row) for row in rows}

    def _local(self, name: Literal["test", "math500"]) -> Path:
        """The file of that name in the folder; a `path` that is a file is the test set itself."""
        path = self.path or Path()
        if path.is_file() and name == "test":
            return path
        folder = path.parent if path.is_file() else path
        return find_file(folder, (f"{name}.jsonl", f"{name}.parquet")) or folder / f"{name}.jsonl"

    def data_files(self) -> list[Path]:
        """The test set and the list of MATH-500, where they are local."""
        if self.path is None:
            return []
        return existing([self._local("test"), *([] if self.split == "full" else [self._local("math500")])])

    def _numbered(self, split: Split) -> list[tuple[int, Record]]:
        if self.split == "full":
            return list(enumerate(self._test)) if split == "eval" else []
        numbered = [
            row for row in enumerate(self._test) if (_key(row[1]) in self._math500) == (split == "eval")
        ]
        if split == "eval" and len(numbered) != len(self._math500):
            raise TaskDataError(
                f"task math: {len(self._math500) - len(numbered)} problems of MATH-500 are missing"
            )
        return numbered

    def question_of(self, record: Record) -> str:
        """The problem statement."""
        return str(record["problem"]).strip()

    def reference_of(self, record: Record) -> str:
        """The answer column, else the box of the solution, in one spelling."""
        return math_reference(str(record.get("answer") or record["solution"]))

    def columns_of(self, record: Record) -> dict[str, Any]:
        """Level 1 to 5 and subject, whatever the copy calls them."""
        level = re.search(r"\d", str(record.get("level", "")))
        return {
            "level": int(level[0]) if level else None,
            "subject": record.get("type") or record.get("subject"),
        }


def _key(record: Record) -> str:
    return "".join(str(record["problem"]).split())
