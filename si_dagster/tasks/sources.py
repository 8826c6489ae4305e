"""Where the rows of a data set come from: a local file, or a data set hub through `datasets`.

Reads JSON Lines, JSON arrays, Parquet and CSV into plain dictionaries, whole and in the order of the file.
It does not map columns, split or clean: tasks do.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from si_dagster.tasks.base import TaskDataError

Record = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


def read_records(path: Path) -> list[Record]:
    """All rows of one file.

    Raises:
        TaskDataError: If the file is missing, of an unknown kind or unreadable; names the file and, for
            JSON Lines, the line.
    """
    if not path.is_file():
        raise TaskDataError(f"no file {path}; give its place in the task option `path`")
    try:
        if path.suffix == ".jsonl":
            return [_line(path, number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
        if path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
            return rows if isinstance(rows, list) else _lists(path, rows)
        if path.suffix in (".parquet", ".csv"):
            return _table(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TaskDataError(f"{path} is not readable as {path.suffix[1:]}: {error}") from error
    raise TaskDataError(f"{path} is of an unknown kind; readable are {', '.join(SUFFIXES)}")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split(
        "\n"
    )  # not splitlines: U+2028 inside a string is no line end


def _line(path: Path, number: int, line: str) -> Record:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise TaskDataError(f"{path}, line {number}: {error}") from error
    if not isinstance(row, dict):
        raise TaskDataError(f"{path}, line {number}: a JSON object is wanted, not {type(row).__name__}")
    return row


def _lists(path: Path, rows: Any) -> list[Record]:
    """A JSON object with one list in it, e.g. `{"data": [...]}`."""
    lists = [value for value in rows.values() if isinstance(value, list)] if isinstance(rows, dict) else []
    if len(lists) != 1:
        raise TaskDataError(f"{path}: a JSON array of objects is wanted")
    return lists[0]


def _table(path: Path) -> list[Record]:
    import polars as pl

    table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    return table.to_dicts()


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the named files that is in the folder, `None` where none is."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def hub_records(hub_id: str, config: str | None, split: str, revision: str | None) -> list[Record]:
    """All rows of one split of a data set on the hub, or from its local cache.

    Raises:
        TaskDataError: If it cannot be fetched; says which option takes a local file instead.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(hub_id, config, split=split, revision=revision)
    except Exception as error:
        raise TaskDataError(
            f"data set {hub_id} ({split}) could not be loaded: {type(error).__name__}: {str(error)[:200]}; "
            "give a local file or folder in the task option `path`"
        ) from error
    return [dict(row) for row in rows]  # pyright: ignore[reportArgumentType, reportCallIssue]
