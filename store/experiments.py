"""The table ``experiments``: an index of the experiments' files, as ``runs`` is of the runs'. The files are the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

from store.plan import FILE, document_of, read_plan
from store.query import Query
from store.schema import EXPERIMENT_COLUMNS
from store.transaction import transaction
from telemetry.folder import RUN_ID
from telemetry.json_file import Unreadable


class ExperimentIndex:
    """Keeps the table as the folder is. Looks at a file again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int]] = {}  # experiment -> time and size of the file that is in the table

    def sync(self, con: duckdb.DuckDBPyConnection) -> int:
        """Take in what is new or changed, take out what is gone; returns how many rows changed."""
        if not self._folder.is_dir():  # unmounted, not emptied
            return 0
        stamps = {}
        for path in self._folder.glob(f"*/{FILE}"):
            if not RUN_ID.fullmatch(path.parent.name):
                continue
            try:
                about = path.stat()
            except OSError:  # deleted meanwhile
                continue
            stamps[path.parent.name] = (about.st_mtime_ns, about.st_size)
        stored = {row[0] for row in con.execute("SELECT experiment_id FROM experiments").fetchall()}
        changed = [name for name, stamp in stamps.items() if self._seen.get(name) != stamp or name not in stored]
        rows = {name: row_of(self._folder / name) for name in changed}
        gone = stored - stamps.keys()
        if rows or gone:
            with transaction(con):
                for name in (*rows, *gone):
                    con.execute("DELETE FROM experiments WHERE experiment_id = ?", [name])
                for row in rows.values():
                    if row is not None:
                        marks = ", ".join("?" for _ in row)
                        con.execute(f"INSERT INTO experiments ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        self._seen = stamps
        return len(rows) + len(gone)


def row_of(folder: Path) -> dict[str, Any] | None:
    """An experiment's row from its folder. One that cannot be read is there by its id, with what is wrong; None: it is gone."""
    row: dict[str, Any] = dict.fromkeys(EXPERIMENT_COLUMNS) | {"experiment_id": folder.name}
    try:
        plan = read_plan(folder)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        return row | {"state": "failed", "title": folder.name, "variants": [], "run_ids": [], "problem": f"{error}."}
    return row | {
        "kind": plan.kind,
        "state": plan.state,
        "scenario": plan.scenario,
        "title": plan.title,
        "question": plan.question,
        "baseline": plan.baseline,
        "variants": [variant.name for variant in plan.variants],
        "repeats": plan.repeats,
        "runs": len(plan.turns),
        "runs_done": sum(turn.done for turn in plan.turns),
        "run_ids": [turn.run_id for turn in plan.turns if turn.run_id],
        "workload_hash": plan.workload_hash,
        "problem": plan.problem,
        "created_unix_ns": plan.created_unix_ns,
        "plan": json.dumps(document_of(plan), ensure_ascii=False, sort_keys=True),
    }


def experiments_query(limit: int = 500) -> Query:
    return Query(
        """
SELECT experiment_id, kind, state, scenario, title, variants, repeats, runs, runs_done, created_unix_ns, problem
FROM experiments ORDER BY created_unix_ns DESC NULLS LAST, experiment_id DESC LIMIT $limit""".strip(),
        {"limit": limit},
    )


def experiments(con: duckdb.DuckDBPyConnection, limit: int = 500) -> list[dict[str, Any]]:
    """The newest experiments, newest first."""
    return experiments_query(limit).rows(con)
