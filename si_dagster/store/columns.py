"""What a table is made of: columns with a type, nulls or none, and one line on what they hold.

Only widening casts are made: a conversion that could lose something is refused. Which tables there are is in
`schemas`.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from si_dagster.store.errors import SchemaError

Kind = Literal["string", "int", "float", "bool"]

_DTYPES: dict[Kind, pl.DataType] = {
    "string": pl.String(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "bool": pl.Boolean(),
}
_WIDENS: dict[Kind, tuple[type[pl.DataType], ...]] = {
    "string": (pl.Categorical, pl.Enum),
    "int": (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32),
    "float": (pl.Float32,),
    "bool": (),
}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        kind: `string` (UTF-8), `int` (64 bit), `float` (64 bit, never NaN) or `bool`.
        description: What it holds, in one line.
        nullable: Whether null is allowed; null means unknown, never zero.
        choices: The only values allowed, where they are few.
        added: Came after the first artifacts were stored; parts from before lack it, which reads as null.
    """

    name: str
    kind: Kind
    description: str
    nullable: bool = False
    choices: tuple[str, ...] = ()
    added: bool = False


@dataclass(frozen=True)
class TableStage:
    """A stage whose artifact is a table in Parquet parts.

    Attributes:
        name: Name of the stage.
        view: Name of its view or table in the lineage catalogue.
        description: What one row is.
        columns: All columns, in order.
        key: The natural key: unique within an artifact, and the order of the rows in a part.
    """

    name: str
    view: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Column -> polars type, in order."""
        return {column.name: _DTYPES[column.kind] for column in self.columns}

    def empty(self) -> pl.DataFrame:
        """A table of this stage without rows."""
        return pl.DataFrame(schema=self.dtypes)

    def filled(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with columns of nulls for those that nothing was said of; for tables of figures."""
        if frame.is_empty():
            return self.empty()
        absent = [name for name in self.dtypes if name not in frame.columns]
        return frame.with_columns(pl.lit(None).cast(self.dtypes[name]).alias(name) for name in absent)

    def checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with columns in declared order and types, sorted by natural key.

        Columns that were added later may be missing and are null then.

        Raises:
            SchemaError: If a column is missing, unknown or of another type, holds a null, NaN or value it
                must not hold, or if a natural key occurs twice. All faults are named at once.
        """
        lacking = [
            column.name for column in self.columns if column.added and column.name not in frame.columns
        ]
        frame = frame.with_columns(pl.lit(None, self.dtypes[name]).alias(name) for name in lacking)
        faults = [*self._column_faults(frame)]
        if not faults:
            frame = frame.select(pl.col(name).cast(dtype) for name, dtype in self.dtypes.items())
            faults = [*self._value_faults(frame), *self._key_faults(frame)]
        if faults:
            raise SchemaError(f"not a table of stage {self.name!r}: " + "; ".join(faults))
        return frame.sort(self.key)

    def _column_faults(self, frame: pl.DataFrame) -> list[str]:
        faults = []
        if missing := [name for name in self.dtypes if name not in frame.columns]:
            faults.append(f"missing columns: {', '.join(missing)}")
        if unknown := [name for name in frame.columns if name not in self.dtypes]:
            faults.append(f"unknown columns: {', '.join(unknown)}")
        for column in self.columns:
            if column.name in frame.columns and not _accepts(column, frame.schema[column.name]):
                found = frame.schema[column.name]
                faults.append(f"column {column.name} is {found}, declared {_DTYPES[column.kind]}")
        return faults

    def _value_faults(self, frame: pl.DataFrame) -> list[str]:
        faults = []
        for column in self.columns:
            values = frame[column.name]
            if not column.nullable and (nulls := values.null_count()):
                faults.append(f"column {column.name} may not be null, {nulls} of {len(values)} rows are")
            if column.kind == "float" and (nans := values.is_nan().sum()):
                faults.append(f"column {column.name} holds {nans} NaN: write null for unknown")
            if column.choices and (odd := set(values.drop_nulls().unique()) - set(column.choices)):
                faults.append(
                    f"column {column.name} holds {min(odd)!r}, allowed: {', '.join(column.choices)}"
                )
        return faults

    def _key_faults(self, frame: pl.DataFrame) -> list[str]:
        twice = frame.select(self.key).is_duplicated()
        if not twice.any():
            return []
        example = frame.select(self.key).filter(twice).row(0, named=True)
        return [f"natural key occurs twice, e.g. {example}"]


@dataclass(frozen=True)
class FileStage:
    """A stage whose artifact is a folder of files that another program wrote.

    Attributes:
        name: Name of the stage.
        description: What the folder holds.
        suffixes: The only file types it may hold; none of them can carry code that runs on loading.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]


def _accepts(column: Column, found: pl.DataType) -> bool:
    if found == _DTYPES[column.kind] or isinstance(found, _WIDENS[column.kind]):
        return True
    return column.nullable and found == pl.Null()


def interval_columns(
    name: str, description: str, nullable: bool = True, added: bool = False
) -> tuple[Column, Column, Column]:
    """A number with the ends of its interval."""
    low, high = (f"{end} end of the bootstrap interval of {name}." for end in ("Lower", "Upper"))
    return (
        Column(name, "float", description, nullable, added=added),
        Column(f"{name}_low", "float", low, True, added=added),
        Column(f"{name}_high", "float", high, True, added=added),
    )
