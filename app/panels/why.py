"""Why one request was not served sooner: the figures, and what they say."""

from __future__ import annotations

from typing import Any

import duckdb

from app.errors import LabError
from app.panels.sentences import reasons
from app.words.waits import (
    blame_in_words,
    gaps_in_words,
    longest_gaps_in_words,
    spells_in_words,
    waited_in_words,
)
from store import waits
from store.query import Query

NAMED = 12  # requests that an error names


def why_not_sooner(con: duckdb.DuckDBPyConnection, run_id: str, request: int) -> dict[str, Any]:
    """Of a request that ended: ``waited`` (a row of ``store.waits.waits``), ``spells``, ``because_of``, ``gaps``; in
    sentences ``says``, all together, and ``details``, the longest waits and gaps.

    Raises:
        LabError: no such request ended in the run.
    """
    rows = {row["request"]: row for row in waits.waits(con, run_id).to_pylist()}
    if request not in rows:
        raise unknown_request(run_id, str(request), [str(number) for number in rows])
    spells = waits.spells(con, run_id, request)
    names = {number: row["request_id"] for number, row in rows.items()}
    blamed = waits.blame(con, run_id, request).to_pylist()
    gaps = waits.gaps(con, run_id, request).to_pylist()
    says = (waited_in_words(rows[request]), blame_in_words(blamed), gaps_in_words(gaps))
    return {
        "run_id": run_id,
        "waited": rows[request],
        "spells": spells,
        "because_of": blamed,
        "gaps": gaps,
        "says": [sentence for sentence in says if sentence],
        "details": [*spells_in_words(spells, request, reasons(), names), *longest_gaps_in_words(gaps)],
    }


def request_number(con: duckdb.DuckDBPyConnection, run_id: str, asked: str) -> int:
    """The number of a request that is named by it, or by its name in the workload. Raises ``LabError`` for neither."""
    known = Query("SELECT request, request_id FROM requests WHERE run_id = $run ORDER BY request", {"run": run_id})
    rows = known.rows(con)
    for row in rows:
        if row["request_id"] == asked or str(row["request"]) == asked:
            return int(row["request"])
    raise unknown_request(run_id, asked, [row["request_id"] for row in rows])


def unknown_request(run_id: str, asked: str, known: list[str]) -> LabError:
    listed = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
    return LabError(
        "unknown-request",
        field="request",
        value=asked,
        message=f"No request {asked!r} ended in the run {run_id}.",
        mend=f"These did: {listed}." if known else "None did.",
    )
