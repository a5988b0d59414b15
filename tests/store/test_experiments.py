"""The table of experiments follows their files: new, changed, gone, damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from store.database import Database
from store.experiments import experiments
from store.ingest import Collector
from store.reindex import reindex


def write(folder: Path, name: str, **changes: Any) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    document = {
        "version": 1,
        "experiment_id": name,
        "kind": "compare",
        "state": "running",
        "scenario": "starter",
        "title": "<b>x</b>'; DROP TABLE runs --",
        "question": "?",
        "variants": [{"name": "a", "settings": {}}, {"name": "b", "settings": {"policy": "orca"}}],
        "repeats": 1,
        "turns": [
            {"variant": "a", "repeat": 0, "run_id": "r1", "done": True},
            {"variant": "b", "repeat": 0, "run_id": "", "done": False},
        ],
        "workload_hashes": {"a": "h", "b": "h"},
        "problem": "",
        "created_unix_ns": 5,
    } | changes
    (folder / name / "experiment.json").write_text(json.dumps(document))


def test_the_table_is_what_the_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    (tmp_path / "runs").mkdir()
    write(folder, "x-1")
    write(folder, "x-2", created_unix_ns=9)
    write(folder, "x-3", variants="none")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        collector = Collector(tmp_path / "runs", database)
        collector.index_experiments()
        assert [row["experiment_id"] for row in experiments(con)] == ["x-2", "x-1", "x-3"]
        _, first, unreadable = experiments(con)
        assert "experiment.json cannot be read: experiment.variants: " in unreadable["problem"], "there by its name"
        assert (first["state"], first["runs"], first["runs_done"], first["variants"]) == ("running", 2, 1, ["a", "b"])
        assert first["title"].endswith("DROP TABLE runs --")
        write(folder, "x-1", state="finished")
        shutil.rmtree(folder / "x-2")
        collector.index_experiments()
        assert [(row["experiment_id"], row["state"]) for row in experiments(con)] == [
            ("x-1", "finished"),
            ("x-3", "failed"),
        ]
    reindex(tmp_path / "db.duckdb", tmp_path / "runs")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        assert len(experiments(con)) == 2, "a rebuilt database has them too"


def test_an_older_database_gains_the_table(tmp_path: Path) -> None:
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        con.execute("DROP TABLE experiments")
        con.execute("DROP TABLE quality")
        con.execute("DROP TABLE swaps")
        con.execute("DROP TABLE layouts")
        con.execute("DROP TABLE handovers")
        con.execute("DROP TABLE tiers")
        con.execute("DROP TABLE pins")
        con.execute("DROP TABLE far_steps")
        con.execute("DROP TABLE lendings")
        con.execute("DROP TABLE foreign_figures")
        con.execute("UPDATE schema_version SET version = 2")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        assert experiments(con) == []
