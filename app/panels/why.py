"""Why one request was not served sooner: the figures, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
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
    rows = waits.waits(con, run_id, request).to_pylist()
    if not rows:
        raise unknown_request(run_id, str(request), [str(row["request"]) for row in _known(con, run_id, NAMED + 1)])
    spells = waits.spells(con, run_id, request)
    heads = sorted({spell["head"] for spell in spells if spell["head"] is not None})
    names = {row["request"]: row["request_id"] for row in _known(con, run_id, heads=heads)} if heads else {}
    blamed = waits.blame(con, run_id, request).to_pylist()
    gaps = waits.gaps(con, run_id, request).to_pylist()
    says = (waited_in_words(rows[0]), blame_in_words(blamed), gaps_in_words(gaps))
    return {
        "run_id": run_id,
        "waited": rows[0],
        "spells": spells,
        "because_of": blamed,
        "gaps": gaps,
        "says": [sentence for sentence in says if sentence],
        "details": [*spells_in_words(spells, request, reasons(), names), *longest_gaps_in_words(gaps)],
    }


def request_number(con: duckdb.DuckDBPyConnection, run_id: str, asked: str) -> int:
    """The number of a request that is named by it, or by its name in the workload. Raises ``LabError`` for neither."""
    rows = _known(con, run_id)
    for row in rows:
        if row["request_id"] == asked or str(row["request"]) == asked:
            return int(row["request"])
    raise unknown_request(run_id, asked, [row["request_id"] for row in rows])


def _known(
    con: duckdb.DuckDBPyConnection, run_id: str, most: int | None = None, heads: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """``request`` and ``request_id`` of those that ended; of ``heads`` only, where they are given."""
    return Query(
        """
SELECT request, request_id FROM requests
WHERE run_id = $run AND ($heads::INTEGER[] IS NULL OR list_contains($heads::INTEGER[], request))
ORDER BY request LIMIT $most""".strip(),
        {"run": run_id, "heads": None if heads is None else list(heads), "most": most},
    ).rows(con)


def unknown_request(run_id: str, asked: str, known: list[str]) -> LabError:
    listed = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
    return LabError(
        "unknown-request",
        field="request",
        value=asked,
        message=f"No request {asked!r} ended in the run {run_id}.",
        mend=f"These did: {listed}." if known else "None did.",
    )
