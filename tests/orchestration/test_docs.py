"""The examples of the docs that are not Python: their SQL, on a finished study."""

import re
from pathlib import Path

import duckdb
from conftest import ROOT


def test_the_sql_of_the_docs_runs_and_finds_rows(finished: Path) -> None:
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "loop.md").read_text(), re.DOTALL)
    queries = [query for block in blocks for query in block.split(";") if query.strip()]
    assert len(queries) >= 3
    with duckdb.connect(str(finished / "lineage.duckdb"), read_only=True) as lineage:
        for query in queries:
            assert lineage.sql(query.replace("quickstart", "mini")).fetchall(), query
