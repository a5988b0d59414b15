"""A run's result: the object ``servescope run --json`` and ``show --json`` print, from the run's own spool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.home import Home
from app.runs.listing import entry
from store.database import Database
from store.ingest import Collector
from store.summary import summary

IN_MEMORY = Path(":memory:")


def result_of(home: Home, run_id: str) -> dict[str, Any]:
    """Everything known about a run, whether or not a lab has the database open; raises ``LabError`` for an unknown run.

    The rows go through the same ingest and the same queries as in the lab, into a database in memory.
    """
    home.existing_run_dir(run_id)
    about = entry(home, run_id)
    with Database(IN_MEMORY) as database:
        collector = Collector(home.runs, database)
        collector.ingest_once(run_id)
        with database.read() as cursor:
            found = summary(cursor, run_id)
    labels = list(dict.fromkeys([*about["labels"], *(found or {}).get("labels", ())]))
    result = about | (found or {}) | {"status": about["status"], "labels": labels}
    result["requests_done"] = result["requests"]["finished"]
    result["requests"]["total"] = result["requests"]["total"] or about["requests_total"]  # refused before it began
    problems = dict.fromkeys(filter(None, [about["problem"], collector.problems.get(run_id)]))
    return result | {"problem": "; ".join(problems) or None}
