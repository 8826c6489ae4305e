from pathlib import Path

import polars as pl
import pytest

from si_dagster.store import schemas
from si_dagster.store.errors import SchemaError, StoreError
from si_dagster.store.schemas import TABLES


def test_the_committed_document_is_the_one_the_schemas_make():
    committed = Path(__file__).resolve().parents[2] / "docs" / "data.md"
    assert committed.read_text() == schemas.document(), "run: python -m si_dagster.store.schemas docs/data.md"


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_column_says_what_it_holds_and_keys_are_never_null(table):
    names = [column.name for column in table.columns]
    assert len(names) == len(set(names))
    assert all(column.description.endswith(".") for column in table.columns)
    keys = [column for column in table.columns if column.name in table.key]
    assert len(keys) == len(table.key)
    assert not any(column.nullable for column in keys)


def test_a_checked_table_is_in_declared_order_and_sorted_by_its_key(maker):
    shuffled = maker.generations(0).sample(fraction=1.0, shuffle=True, seed=1).select(pl.all().reverse())
    shuffled = shuffled.select(reversed(shuffled.columns)).with_columns(pl.col("sample_index").cast(pl.Int32))
    checked = TABLES["generations"].checked(shuffled)
    assert checked.equals(maker.generations(0).sort("generation_id"))


def with_nan(frame):
    return frame.with_columns(logprob=pl.lit(float("nan")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("completion"), "missing columns: completion"),
        (lambda f: f.with_columns(extra=1), "unknown columns: extra"),
        (lambda f: f.with_columns(num_tokens=pl.lit(1.5)), "column num_tokens is Float64, declared Int64"),
        (lambda f: f.with_columns(sample_index=pl.lit(None)), "sample_index is Null"),
        (
            lambda f: f.with_columns(completion=pl.lit(None, pl.String)),
            "completion may not be null, 12 of 12 rows are",
        ),
        (with_nan, "logprob holds 12 NaN: write null for unknown"),
        (lambda f: f.with_columns(split=pl.lit("test")), "split holds 'test', allowed: train, eval"),
        (lambda f: pl.concat([f, f.head(1)]), r"natural key occurs twice, e\.g\. .*/train-0/0"),
    ],
)
def test_a_table_that_breaks_its_schema_is_refused_with_the_reason(maker, change, message):
    with pytest.raises(SchemaError, match=message):
        TABLES["generations"].checked(change(maker.generations(0)))


def test_unknown_is_null_and_allowed_where_declared(maker):
    frame = maker.generations(0).with_columns(logprob=pl.lit(None))
    assert TABLES["generations"].checked(frame)["logprob"].dtype == pl.Float64()


def test_an_undeclared_stage_is_refused_with_those_declared():
    with pytest.raises(StoreError, match="no stage 'rewards' is declared; declared are prompts, generations"):
        schemas.stage("rewards")
