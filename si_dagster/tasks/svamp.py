"""SVAMP: short word problems made by varying the wording of simpler ones.

Catalogue card
    Source: `ChilleD/SVAMP` (train 700, test 300); or local `SVAMP.json` (Body, Question, Answer), 1,000 rows,
        cut by a hash of the question, 30% for evaluation.
    Paper: Patel et al. 2021, arXiv 2103.07191.
    Licence: MIT.
    Utility: 1 where the final number is the reference, by value. Strict: the line `#### n`.
    Few-shot: the examples and templates of gsm8k.
    Near-duplicates: the set varies 100 seed problems, so many training rows nearly repeat an evaluation row
        and are left out; `excluded` says which.

What it does not do: keep all variations of one seed problem on one side beyond that check.
"""

from typing import Any, ClassVar

from si_dagster.tasks.base import Split
from si_dagster.tasks.dataset_task import DatasetTask
from si_dagster.tasks.grading.graders import number_reference
from si_dagster.tasks.sources import Record


class Svamp(DatasetTask):
    """Varied word problems."""

    name: ClassVar[str] = "svamp"
    LICENCE: ClassVar[str] = "MIT"
    HUB_ID: ClassVar[str] = "ChilleD/SVAMP"
    HUB_SPLITS: ClassVar[dict[Split, str]] = {"train": "train", "eval": "test"}
    FILES: ClassVar[dict[Split, tuple[str, ...]]] = {
        "train": ("train.jsonl", "train.json", "SVAMP.json"),
        "eval": ("test.jsonl", "test.json", "SVAMP.json"),
    }
    GRADER: ClassVar[str] = "number"
    EXAMPLES_OF: ClassVar[str | None] = "gsm8k"
    EVAL_SHARE: ClassVar[float] = 0.3

    def question_of(self, record: Record) -> str:
        """Body and question as one text; bodies often lack their period."""
        body = str(record["Body"]).strip()
        joint = " " if body.endswith((".", "?", "!", ",")) else ". "
        return f"{body}{joint}{str(record['Question']).strip()}"

    def reference_of(self, record: Record) -> str:
        """The answer, written `51` where the file says 51.0."""
        return number_reference(str(record["Answer"]))

    def columns_of(self, record: Record) -> dict[str, Any]:
        """Kind of arithmetic."""
        return {"type": record.get("Type")}
