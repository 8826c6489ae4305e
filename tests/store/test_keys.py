"""Keys that an artifact holds, against a set of them."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from si_dagster.store.keys import KeyHashes

Batches = st.lists(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=12), max_size=12)


def frame(rows: list[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"number": pl.Int32, "name": pl.String}, orient="row")


@given(Batches, st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"))))
def test_what_was_added_is_seen_and_nothing_else(batches, asked):
    known, exact = KeyHashes(), set()
    for batch in batches:
        known.add(frame(batch))
        exact.update(batch)
    assert known.seen(frame(asked)).tolist() == [row in exact for row in asked]


def test_looking_up_stays_cheap_and_small_over_many_parts():
    known = KeyHashes()
    for part in range(1000):
        known.add(pl.DataFrame({"key": pl.int_range(part * 100, part * 100 + 100, eager=True)}))
    runs = known._runs
    assert len(runs) <= 10
    assert sum(run.nbytes for run in runs) == 8 * 100_000
    assert known.seen(pl.DataFrame({"key": [0, 99_999, 100_000]})).tolist() == [True, True, False]
