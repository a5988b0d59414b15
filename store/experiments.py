"""The table ``experiments``: an index of the experiments' files, as ``runs`` is of the runs'. The files are the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

from store.query import Query
from store.rundirs import read_json
from store.schema import EXPERIMENT_COLUMNS
from store.transaction import transaction

FILE = "experiment.json"


class ExperimentIndex:
    """Keeps the table as the folder is. Looks at a file again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int]] = {}  # experiment -> time and size of the file that is in the table

    def sync(self, con: duckdb.DuckDBPyConnection) -> int:
        """Take in what is new or changed, take out what is gone; returns how many rows changed."""
        if not self._folder.is_dir():  # unmounted, not emptied
            return 0
        found = {}
        for path in self._folder.glob(f"*/{FILE}"):
            try:
                about = path.stat()
            except OSError:  # deleted meanwhile
                continue
            found[path.parent.name] = (about.st_mtime_ns, about.st_size)
        stored = {row[0] for row in con.execute("SELECT experiment_id FROM experiments").fetchall()}
        changed = [name for name, stamp in found.items() if self._seen.get(name) != stamp or name not in stored]
        rows = {name: row_of(name, read_json(self._folder / name / FILE)) for name in changed}
        gone = stored - found.keys()
        if rows or gone:
            with transaction(con):
                for name in (*rows, *gone):
                    con.execute("DELETE FROM experiments WHERE experiment_id = ?", [name])
                for row in rows.values():
                    if row is not None:
                        marks = ", ".join("?" for _ in row)
                        con.execute(f"INSERT INTO experiments ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        self._seen = found
        return len(rows) + len(gone)


def row_of(name: str, document: dict[str, Any] | None) -> dict[str, Any] | None:
    """An experiment's row from its file; None for a file that is none."""
    try:
        assert document is not None
        turns, variants = document["turns"], [str(v["name"]) for v in document["variants"]]
        row = {
            "experiment_id": name,
            "kind": str(document["kind"]),
            "state": str(document["state"]),
            "scenario": str(document["scenario"]),
            "title": str(document["title"]),
            "question": str(document["question"]),
            "baseline": variants[0],
            "variants": variants,
            "repeats": int(document["repeats"]),
            "runs": len(turns),
            "runs_done": sum(bool(turn["done"]) for turn in turns),
            "run_ids": [str(turn["run_id"]) for turn in turns if turn["run_id"]],
            "workload_hash": str(document["workload_hashes"][variants[0]]),
            "problem": str(document["problem"]),
            "created_unix_ns": int(document["created_unix_ns"]),
            "plan": json.dumps(document, ensure_ascii=False, sort_keys=True),
        }
    except (AssertionError, KeyError, TypeError, ValueError, IndexError):
        return None
    assert list(row) == list(EXPERIMENT_COLUMNS)
    return row


def experiments_query(limit: int = 500) -> Query:
    return Query(
        """
SELECT experiment_id, kind, state, scenario, title, variants, repeats, runs, runs_done, created_unix_ns, problem
FROM experiments ORDER BY created_unix_ns DESC, experiment_id DESC LIMIT $limit""".strip(),
        {"limit": limit},
    )


def experiments(con: duckdb.DuckDBPyConnection, limit: int = 500) -> list[dict[str, Any]]:
    """The newest experiments, newest first."""
    return experiments_query(limit).rows(con)
