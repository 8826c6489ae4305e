"""NQ-open: short factual questions that real people asked.

Catalogue card
    Source: `google-research-datasets/nq_open` (train 87,925, validation 3,610); or local `train.jsonl` and
        `dev.jsonl` (question, list of answers). With `dev.jsonl` alone it is cut in two by a hash of the
        question.
    Paper: Kwiatkowski et al. 2019; open version Lee et al. 2019, arXiv 1906.00300.
    Licence: CC BY-SA 3.0.
    Utility: exact match with any accepted answer after SQuAD normalisation. Strict: the first line as it
        stands; flexible also reads "the answer is ..." and `A: ...`.
    Few-shot: 4 of our own.

What it does not do: accept a right answer that the annotators did not write down; numbers are compared as
text, as the official script does.
"""

import json
from typing import ClassVar

from si_dagster.tasks.base import Split
from si_dagster.tasks.dataset_task import DatasetTask
from si_dagster.tasks.sources import Record


class NqOpen(DatasetTask):
    """Open-domain questions."""

    name: ClassVar[str] = "nq_open"
    LICENCE: ClassVar[str] = "CC BY-SA 3.0"
    HUB_ID: ClassVar[str] = "google-research-datasets/nq_open"
    HUB_SPLITS: ClassVar[dict[Split, str]] = {"train": "train", "eval": "validation"}
    FILES: ClassVar[dict[Split, tuple[str, ...]]] = {
        "train": ("train.jsonl", "train.parquet"),
        "eval": ("dev.jsonl", "validation.jsonl", "validation.parquet"),
    }
    GRADER: ClassVar[str] = "exact_match"
    STOP: ClassVar[tuple[str, ...]] = ("\n",)

    def reference_of(self, record: Record) -> str:
        """All accepted answers as a JSON list."""
        answers = record["answer"]
        return json.dumps([answers] if isinstance(answers, str) else list(answers), ensure_ascii=False)
