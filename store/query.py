"""A question to the database that can be shown: its text and the values bound to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa


@dataclass(frozen=True)
class Query:
    """SQL with ``$name`` parameters. Values are only ever bound, never put into the text."""

    sql: str
    parameters: dict[str, Any]

    def table(self, con: duckdb.DuckDBPyConnection) -> pa.Table:
        """The whole answer."""
        return con.sql(self.sql, params=self.parameters or None).to_arrow_table()

    def rows(self, con: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
        """The whole answer, a dict per row."""
        return self.table(con).to_pylist()

    def one(self, con: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
        """The first row, or None."""
        rows = self.rows(con)
        return rows[0] if rows else None
