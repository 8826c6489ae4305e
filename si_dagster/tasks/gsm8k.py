"""GSM8K: grade-school word problems with one number as the answer.

Catalogue card
    Source: `openai/gsm8k`, config `main`; or local `train.jsonl` and `test.jsonl` (question, answer).
    Paper: Cobbe et al. 2021, arXiv 2110.14168.
    Licence: MIT.
    Size: train 7,473, eval (test) 1,319; training rows that nearly repeat a test row are left out.
    Utility: 1 where the final number is the reference, by value. Strict: the line `#### n` asked for.
    Few-shot: 4 of the chain-of-thought examples of Wei et al. 2022 (arXiv 2201.11903), which are not in
        GSM8K, rewritten to end in `#### n`; wrong answers and checks are ours.

What it does not do: look at the reasoning, or give part marks.
"""

from typing import ClassVar

from si_dagster.tasks.base import Split
from si_dagster.tasks.dataset_task import DatasetTask
from si_dagster.tasks.grading.graders import number_reference
from si_dagster.tasks.sources import Record


class Gsm8k(DatasetTask):
    """Grade-school word problems."""

    name: ClassVar[str] = "gsm8k"
    LICENCE: ClassVar[str] = "MIT"
    HUB_ID: ClassVar[str] = "openai/gsm8k"
    HUB_CONFIG: ClassVar[str | None] = "main"
    HUB_SPLITS: ClassVar[dict[Split, str]] = {"train": "train", "eval": "test"}
    FILES: ClassVar[dict[Split, tuple[str, ...]]] = {
        "train": ("train.jsonl", "train.parquet"),
        "eval": ("test.jsonl", "test.parquet"),
    }
    GRADER: ClassVar[str] = "number"

    def reference_of(self, record: Record) -> str:
        """The number behind `####`."""
        return number_reference(str(record["answer"]))
