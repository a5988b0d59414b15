"""A run's result: the object ``servescope run --json`` and ``show --json`` print, from the run's own spool."""

from __future__ import annotations

from typing import Any

from app.home import Home
from app.runs.listing import entry
from store.aside import rows_aside
from store.samples import objective_figures
from store.slo import DEFAULT_SLO, parse_slo
from store.summary import summary


def result_of(home: Home, run_id: str) -> dict[str, Any]:
    """Everything known about a run, whether or not a lab has the database open; raises ``LabError`` for an unknown run.

    The rows go through the same ingest and the same queries as in the lab, into a database in memory.
    """
    home.existing_run_dir(run_id)
    about = entry(home, run_id)
    with rows_aside(home.runs, [run_id]) as rows:
        measured = summary(rows.con, run_id)
        recording = rows.problems.get(run_id)
        objective = objective_figures(rows.con, run_id, parse_slo(DEFAULT_SLO))
    labels = list(dict.fromkeys([*about["labels"], *(measured or {}).get("labels", ())]))
    result = about | (measured or {}) | {"status": about["status"], "labels": labels, "slo": objective}
    result["requests_done"] = result["requests"]["finished"]
    result["requests"]["total"] = result["requests"]["total"] or about["requests_total"]  # refused before it began
    problems = dict.fromkeys(filter(None, [about["problem"], recording]))
    return result | {"problem": "; ".join(problems) or None}
