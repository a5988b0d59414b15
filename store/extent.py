"""How far a run's rows go: what of it can be asked for."""

from __future__ import annotations

from typing import Any

import duckdb

from store.query import Query


def extent_query(run_id: str) -> Query:
    """``first`` and ``last`` iteration, ``end_s`` (s since the start), ``blocks`` of the pool; nulls where none was recorded."""
    return Query(
        """
SELECT min(iteration) AS first, max(iteration) AS last, max(blocks_total) AS blocks,
       greatest(max(end_ns), (SELECT max(end_ns) FROM requests WHERE run_id = $run)) / 1e9 AS end_s
FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def extent(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    """The same, and the numbers of the requests that ended (``ended``)."""
    ended = Query("SELECT request FROM requests WHERE run_id = $run", {"run": run_id}).table(con)
    return extent_query(run_id).rows(con)[0] | {"ended": set(ended["request"].to_pylist())}
