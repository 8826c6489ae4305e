"""Custom: any JSON Lines, JSON, CSV or Parquet file or data set on the hub, mapped by column names.

Catalogue card
    Source: option `path` (eval) with `train_path`, or `path` alone, cut in two by a hash of the question; or
        `hub_id` with `config`, `train_split` and `eval_split`.
    Licence: whatever the data's is; option `licence` keeps it with the task.
    Columns: option `columns`, e.g. `{question: problem, reference: answer}`; further ones are named in
        `keep` and become columns for slices.
    Utility: option `grader`: number, math, exact_match, choice or code.
    Few-shot: option `fewshot_path`, a file of objects with `question`, `solution` and, for verification,
        `wrong`, `right_check`, `wrong_check`.

What it does not do: clean the data, or join columns into one question.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from si_dagster.tasks import prompts
from si_dagster.tasks.base import Split, TaskDataError
from si_dagster.tasks.dataset_task import DatasetTask
from si_dagster.tasks.grading.graders import GRADERS, Grader
from si_dagster.tasks.sources import Record, hub_records, read_records

STOPS = {"exact_match": ("\n",), "choice": ("\n",), "code": ("\n[DONE]",)}


class Custom(DatasetTask):
    """A data set of one's own.

    Args:
        grader: Name of the grader.
        columns: Column of the data for `question` and for `reference`.
        path: Local file: the evaluation rows, or all rows.
        train_path: Local file of the training rows.
        hub_id: Data set on the hub, where no `path` is given.
        config: Its configuration.
        train_split: Name of its training split.
        eval_split: Name of its evaluation split.
        revision: Its revision.
        num_fewshot: Examples before each prompt; needs `fewshot_path`.
        fewshot_path: File of examples.
        keep: Further columns for slices.
        licence: Licence of the data.
    """

    name: ClassVar[str] = "custom"

    def __init__(
        self,
        grader: str,
        columns: Mapping[str, str],
        path: str | None = None,
        train_path: str | None = None,
        hub_id: str | None = None,
        config: str | None = None,
        train_split: str = "train",
        eval_split: str = "test",
        revision: str | None = None,
        num_fewshot: int = 0,
        fewshot_path: str | None = None,
        keep: Sequence[str] = (),
        licence: str | None = None,
    ) -> None:
        if grader not in GRADERS:
            raise TaskDataError(
                f"task custom: no grader {grader!r}: allowed are {', '.join(sorted(GRADERS))}"
            )
        if not {"question", "reference"} <= set(columns):
            raise TaskDataError("task custom: `columns` must name a column for question and for reference")
        if (path is None) == (hub_id is None):
            raise TaskDataError("task custom: give either `path` or `hub_id`")
        self.grader_name, self.columns, self.keep, self.licence = grader, dict(columns), tuple(keep), licence
        self.hub_id, self.config = hub_id, config
        self.hub_splits: dict[Split, str] = {"train": train_split, "eval": eval_split}
        self.fewshot_path = Path(fewshot_path) if fewshot_path else None
        super().__init__(path, revision, num_fewshot, train_path)

    def _examples(self, num_fewshot: int) -> tuple[prompts.Example, ...]:
        examples = (
            [prompts.example_of(row) for row in read_records(self.fewshot_path)] if self.fewshot_path else []
        )
        if num_fewshot > len(examples):
            raise TaskDataError(
                f"task custom: num_fewshot is {num_fewshot}, fewshot_path holds {len(examples)}"
            )
        return tuple(examples[:num_fewshot])

    @cached_property
    def grader(self) -> Grader:
        """The grader named in the options."""
        return GRADERS[self.grader_name]()

    def _numbered(self, split: Split) -> list[tuple[int, Record]]:
        if self.hub_id is None:
            return super()._numbered(split)
        return list(enumerate(hub_records(self.hub_id, self.config, self.hub_splits[split], self.revision)))

    def data_files(self) -> list[Path]:
        """The rows' files and the examples'."""
        return [*super().data_files(), *([self.fewshot_path] if self.fewshot_path else [])]

    def question_of(self, record: Record) -> str:
        """The mapped question column."""
        return str(self._mapped(record, "question")).strip()

    def reference_of(self, record: Record) -> str:
        """The mapped reference column; lists as JSON."""
        value = self._mapped(record, "reference")
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def _mapped(self, record: Record, role: str) -> Any:
        column = self.columns[role]
        if column not in record:
            raise TaskDataError(
                f"custom: option columns maps {role!r} to {column!r}, but the rows have {', '.join(record)}"
            )
        return record[column]

    def columns_of(self, record: Record) -> dict[str, Any]:
        """The columns named in `keep`."""
        return {column: record.get(column) for column in self.keep}

    def stop(self, style: Any) -> tuple[str, ...]:
        """By the grader: one line for short answers."""
        return STOPS.get(self.grader_name, self.STOP) if self._styled(style) == "text" else ()
