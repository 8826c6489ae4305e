"""What the tasks over a data set have in common: rows by split, prompts from templates, a grader by name.

A task says how a record becomes a row and which records belong to which split; the rest is here. It holds
no `pico` style: its prompts are for base and tuned models, and a policy pre-trained here has its own tasks.
"""

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from si_dagster.tasks import prompts
from si_dagster.tasks.base import Grade, PromptStyle, Split, TaskDataError, TaskRow
from si_dagster.tasks.grading.graders import GRADERS, Grader
from si_dagster.tasks.hygiene import NearDuplicate, near_duplicates
from si_dagster.tasks.sources import Record, find_file, hub_records, read_records


class DatasetTask:
    """A task whose rows are records of files or of a data set on the hub.

    Args:
        path: A local file, or a folder with the files named in `FILES`; without it the hub is asked.
        revision: Revision on the hub; the default branch where none is given.
        num_fewshot: Examples before each prompt, for generation and for verification (even: balanced).
        train_path: A local file of the training split, where it is not beside the other.

    Raises:
        TaskDataError: If more examples are asked for than the task has.
    """

    name: ClassVar[str]
    path_options: ClassVar[tuple[str, ...]] = ("path", "train_path", "fewshot_path")
    grader_version: ClassVar[str] = "2"
    LICENCE: ClassVar[str]
    HUB_ID: ClassVar[str]
    HUB_CONFIG: ClassVar[str | None] = None
    HUB_SPLITS: ClassVar[dict[Split, str]]
    FILES: ClassVar[dict[Split, tuple[str, ...]]]
    """File names looked for in a folder, by split."""
    GRADER: ClassVar[str]
    STOP: ClassVar[tuple[str, ...]] = ("\nQuestion:",)
    EXAMPLES_OF: ClassVar[str | None] = None
    """Another task whose templates and examples are used."""
    EVAL_SHARE: ClassVar[float] = 0.5
    """Share of evaluation rows where one file holds both splits."""

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        num_fewshot: int = 4,
        train_path: str | None = None,
    ) -> None:
        self.path = Path(path) if path else None
        self.train_path = Path(train_path) if train_path else None
        self.revision = revision
        self.examples = self._examples(num_fewshot)
        self._rows_of: dict[Split, list[TaskRow]] = {}

    def _examples(self, num_fewshot: int) -> tuple[prompts.Example, ...]:
        examples = prompts.shipped_examples(self.templates)
        if num_fewshot > len(examples):
            raise TaskDataError(
                f"task {self.name}: num_fewshot is {num_fewshot}, it has {len(examples)} examples"
            )
        return examples[:num_fewshot]

    @property
    def templates(self) -> str:
        """Folder of its templates and examples."""
        return self.EXAMPLES_OF or self.name

    @cached_property
    def grader(self) -> Grader:
        """What grades its completions; made at first use."""
        return GRADERS[self.GRADER]()

    def question_of(self, record: Record) -> str:
        """The bare question of a record."""
        return str(record["question"]).strip()

    def reference_of(self, record: Record) -> str:
        """The gold answer of a record as `grade` reads it."""
        raise NotImplementedError

    def columns_of(self, record: Record) -> dict[str, Any]:
        """Columns for slices."""
        return {}

    def records(self, split: Split) -> list[Record]:
        """The records of one split, near-duplicates included, in the order of the source.

        Raises:
            TaskDataError: If the source is missing or unreadable.
        """
        return [record for _, record in self._numbered(split)]

    def _numbered(self, split: Split) -> list[tuple[int, Record]]:
        """Records of a split with their place in the source."""
        file = self._file(split)
        if file is not None:
            return list(enumerate(read_records(file)))
        if self.path is None:
            if split in self.HUB_SPLITS:
                return list(enumerate(self._from_hub(split)))
            return self._share(list(enumerate(self._from_hub(next(iter(self.HUB_SPLITS))))), split)
        return self._share(list(enumerate(read_records(self._only_file()))), split)

    def _from_hub(self, split: Split) -> list[Record]:
        return hub_records(self.HUB_ID, self.HUB_CONFIG, self.HUB_SPLITS[split], self.revision)

    def _file(self, split: Split) -> Path | None:
        """The local file that holds this split and no other."""
        if self.train_path is not None and self.path is not None:
            return self.train_path if split == "train" else self.path
        if self.path is None or not self.path.is_dir():
            return None
        other: Split = "eval" if split == "train" else "train"
        mine, its = (find_file(self.path, self.FILES.get(side, ())) for side in (split, other))
        return mine if its is not None and mine != its else None

    def _only_file(self) -> Path:
        """The one local file from which both splits are cut."""
        if self.path is None or not self.path.is_dir():
            return self.path or Path()
        names = [name for side in self.FILES.values() for name in side]
        file = find_file(self.path, names)
        if file is None:
            raise TaskDataError(f"task {self.name}: none of {', '.join(names)} in {self.path}")
        return file

    def _share(self, numbered: list[tuple[int, Record]], split: Split) -> list[tuple[int, Record]]:
        """Cut one file in two by a hash of the question, so that a row never changes sides."""
        return [
            (index, record)
            for index, record in numbered
            if (_unit(self.question_of(record)) < self.EVAL_SHARE) == (split == "eval")
        ]

    @cached_property
    def excluded(self) -> list[NearDuplicate]:
        """Training rows that nearly repeat an evaluation row; what the check found."""
        train, held = ([self.question_of(row) for row in self.records(split)] for split in ("train", "eval"))
        return near_duplicates(train, held)

    def all_rows(self, split: Split) -> list[TaskRow]:
        """Every row of a split; training rows that nearly repeat an evaluation row or an example are out."""
        if split not in self._rows_of:
            self._rows_of[split] = self._disjoint_rows(split)
        return self._rows_of[split]

    def _disjoint_rows(self, split: Split) -> list[TaskRow]:
        rows = [self._row(index, record, split) for index, record in self._numbered(split)]
        if split == "eval":
            return rows
        shown = near_duplicates(
            [row.question for row in rows], [example.question for example in self.examples]
        )
        out = {pair.train for pair in [*self.excluded, *shown]}
        return [row for position, row in enumerate(rows) if position not in out]

    def _row(self, index: int, record: Record, split: Split) -> TaskRow:
        try:
            return TaskRow(
                prompt_id=f"{self.name}-{split}-{index:05d}",
                split=split,
                question=self.question_of(record),
                reference=self.reference_of(record),
                columns=self.columns_of(record),
            )
        except KeyError as error:
            raise TaskDataError(
                f"task {self.name}: row {index} has no column {error}; it has {sorted(record)}"
            ) from error

    def data_files(self) -> list[Path]:
        """See `ReadsFiles.data_files`."""
        if self.path is None:
            return []
        splits: tuple[Split, ...] = ("train", "eval")
        files = [self._file(split) or self._only_file() for split in splits]
        return existing(files)

    def rows(self, split: Split, num_rows: int, seed: int) -> list[TaskRow]:
        """`num_rows` distinct rows of one split; more rows of the same seed begin with the same ones.

        Raises:
            TaskDataError: If the data is missing or holds fewer rows.
        """
        return self.dealt_rows(split, num_rows, seed, 0)

    def pool_size(self, split: Split) -> int:
        """Rows of a split, near-duplicates of the other left out."""
        return len(self.all_rows(split))

    def dealt_rows(self, split: Split, num_rows: int, seed: int, deal: int) -> list[TaskRow]:
        """See `DealsRows.dealt_rows`."""
        rows = self.all_rows(split)
        if num_rows > len(rows):
            place = self.path or self.HUB_ID
            raise TaskDataError(
                f"task {self.name}: {num_rows} {split} rows wanted, {place} holds {len(rows)}; ask for fewer"
            )
        hand = dealt([row.prompt_id for row in rows], num_rows, seed, deal)
        return [rows[index] for index in hand]

    def generation_prompt(self, row: TaskRow, style: PromptStyle) -> str:
        """The text a policy answers."""
        return prompts.generation_text(self.templates, row.question, self.examples, self._styled(style))

    def stop(self, style: PromptStyle) -> tuple[str, ...]:
        """Where a base model would go on to a next question; a tuned one ends its turn."""
        return self.STOP if self._styled(style) == "text" else ()

    def verification_prompt(self, row: TaskRow, completion: str, method: str, style: PromptStyle) -> str:
        """The text by which a verifier judges one completion; see `prompts.METHODS`.

        Raises:
            TaskDataError: If the task has no prompt for the method.
        """
        if method not in prompts.METHODS or method == "tournament":
            raise TaskDataError(f"task {self.name} has no single-answer prompt for method {method!r}")
        return prompts.verification_text(
            self.templates, row.question, completion, method, self.examples, self._styled(style)
        )

    def comparison_prompt(self, row: TaskRow, first: str, second: str, style: PromptStyle) -> str:
        """The text by which a verifier says which of two completions, A or B, is better."""
        return prompts.comparison_text(
            self.templates, row.question, first, second, self.examples, self._styled(style)
        )

    def verdict_labels(self, style: PromptStyle) -> tuple[str, str]:
        """The continuations of `Verdict:` that mean (correct, incorrect)."""
        return (" correct", " incorrect") if self._styled(style) == "text" else ("correct", "incorrect")

    def grade(self, references: Sequence[str], completions: Sequence[str]) -> list[Grade]:
        """Grade completions against their references, row by row."""
        return self.grader.grade(references, completions)

    def extract(self, completion: str) -> str | None:
        """The answer of a completion in the form equal answers share; no reference is read."""
        return self.grader.extract(completion)

    def gold_completion(self, row: TaskRow) -> str | None:
        """The reference in the format the grader reads; the reasoning is not stored, so there is none."""
        return self.grader.gold_text(row.reference)

    def _styled(self, style: PromptStyle) -> PromptStyle:
        if style == "pico":
            raise TaskDataError(f"task {self.name} has prompts in the styles text and chat, not pico")
        return style


def dealt(ids: Sequence[str], num_rows: int, seed: int, deal: int) -> list[int]:
    """Indices of hand number `deal` of a shuffled deck that is shuffled anew whenever it runs out.

    A hand that begins with the last cards of one shuffle takes the rest from the next one, other cards
    first, so no hand holds a card twice and every card comes once a shuffle.

    Examples:
        Two hands of four use eight of ten cards once; the third holds the last two and two old ones:

        >>> first, second, third = (dealt("abcdefghij", 4, 0, deal) for deal in range(3))
        >>> len({*first, *second}), len(set(third)), len({*first, *second} & {*third})
        (8, 4, 2)
    """
    hand: list[int] = []
    stock: list[int] = []
    shuffles = 0
    for _ in range(deal + 1):
        hand, stock = stock[:num_rows], stock[num_rows:]
        if len(hand) < num_rows:
            shuffled, held = _shuffled(ids, seed, shuffles), set(hand)
            taken = [index for index in shuffled if index not in held][: num_rows - len(hand)]
            gone = set(taken)
            hand, stock = [*hand, *taken], [index for index in shuffled if index not in gone]
            shuffles += 1
    return hand


def _shuffled(ids: Sequence[str], seed: int, shuffle: int) -> list[int]:
    salt = f"{seed}/{shuffle}/" if shuffle else f"{seed}/"
    return sorted(range(len(ids)), key=lambda index: (_unit(f"{salt}{ids[index]}"), ids[index]))


def existing(files: Sequence[Path]) -> list[Path]:
    """The files, each once.

    Raises:
        TaskDataError: If one is missing.
    """
    for file in files:
        if not file.is_file():
            raise TaskDataError(f"no file {file}; give its place in the task option `path`")
    return list(dict.fromkeys(files))


def _unit(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
