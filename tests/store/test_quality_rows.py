"""The table of measured quality follows the runs' files: once each, new, changed, gone, damaged, rebuilt, handed on."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from row_maker import record_run

from store.database import Database
from store.ingest import Collector
from store.quality import FILE, quality, rows_of
from store.reindex import reindex
from store.snapshot import export_snapshot
from store.snapshot_import import import_snapshot

HOSTILE = "<b>x</b>'; DROP TABLE runs --"


def codec(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "settings": {"codec": "int4", "group": 32},
        "bits": 5.0,
        "window": 0,
        "bytes_per_token": 100.0,
        "capacity": 3.2,
        "perplexity": 10.2,
        "perplexity_change": 0.02,
        "kl": 0.01,
        "agreement": 0.97,
        "greedy_agreement": 0.5,
        "first_divergence": [3, 24],
        "key_error": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
        "value_error": [[0.01, 0.02]] * 3,
        "needles": [{"depth": 0.1, "found": True}, {"depth": 0.9, "found": False}],
        "chunking": {"tokens": 64, "logits": 0.25, "kl": 0.001, "agreement": 0.98, "codes": 0.2},
    } | changes


def document(*codecs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "model": "embedded",
        "dtype": "bfloat16",
        "device": "cpu",
        "block_size": 16,
        "seed": 0,
        "labels": [HOSTILE],
        "text": "held text",
        "tokens": 512,
        "new_tokens": 32,
        "needle_tokens": 256,
        "layers": 3,
        "kv_heads": 2,
        "full": {"perplexity": 10.0, "bytes_per_token": 320, "needles": [{"depth": 0.1, "found": True}]},
        "codecs": list(codecs or [codec(HOSTILE)]),
    } | changes


def write(run_dir: Path, *codecs: dict[str, Any], **changes: Any) -> None:
    (run_dir / FILE).write_text(json.dumps(document(*codecs, **changes)))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for run_id in ("r1", "r2"):
        record_run(folder, run_id, steps=4)
    return folder


def counted(con: Any) -> int:
    return int(con.execute("SELECT count(*) FROM quality").fetchall()[0][0])


def test_the_rows_say_what_the_file_says(runs: Path, tmp_path: Path) -> None:
    write(runs / "r1")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(runs, database).index_quality()
        full, packed = quality(con, "r1")
        assert (full["name"], full["perplexity"], full["perplexity_ratio"], full["needles_found"]) == (
            "full precision",
            10.0,
            1.0,
            1,
        )
        assert packed["name"] == HOSTILE
        assert packed["perplexity_ratio"] == pytest.approx(1.02)
        assert packed["key_error"] == [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
        assert (packed["first_divergence"], packed["needles"], packed["needles_found"]) == ([3, 24], 2, 1)
        cut = ("chunking_logits", "chunking_kl", "chunking_agreement", "chunking_codes")
        assert [packed[name] for name in cut] == [0.25, 0.001, 0.98, 0.2]
        assert [full[name] for name in cut] == [None] * 4, "measured before it was told"
        assert json.loads(packed["settings"]) == {"codec": "int4", "group": 32}
        assert json.loads(packed["labels"]) == [HOSTILE]
        asked = "SELECT avg(h) FROM (SELECT unnest(flatten(key_error)) AS h FROM quality WHERE run_id = 'r1')"
        assert con.execute(asked).fetchall()[0][0] == pytest.approx(0.35)


def test_a_file_is_in_the_table_once_however_often_it_is_looked_at(runs: Path, tmp_path: Path) -> None:
    write(runs / "r1", codec("a"), codec("b"))
    path = tmp_path / "db.duckdb"
    with Database(path) as database, database.read() as con:
        collector = Collector(runs, database)
        for _ in range(3):
            collector.index_quality()
            collector.ingest_once("r1")
        assert counted(con) == 3
    with Database(path) as database, database.read() as con:  # another process, which has seen nothing yet
        Collector(runs, database).index_quality()
        assert counted(con) == 3


def test_new_changed_gone_and_damaged_files_are_followed(runs: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        collector = Collector(runs, database)
        collector.index_quality()
        assert counted(con) == 0
        write(runs / "r1", codec("a"))
        write(runs / "r2", codec("b"), codec("c"))
        collector.index_quality()
        assert counted(con) == 5
        write(runs / "r1", codec("a"), codec("d, measured again"), codec("e"))
        shutil.rmtree(runs / "r2")
        collector.index_quality()
        assert [row["name"] for row in quality(con, "r1")][2:] == ["d, measured again", "e"]
        assert counted(con) == 4
        (runs / "r1" / FILE).write_text('{"codecs": "none"}')
        collector.index_quality()
        assert counted(con) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        json.dumps(document() | {"codecs": []}).encode(),
        json.dumps(document() | {"full": {}}).encode(),
        json.dumps(document(codec("a", bits="many"))).encode(),
        json.dumps(document(codec("a", key_error=[[0.1], [0.1, 0.2]]))).encode(),
        json.dumps(document(codec("a", settings="int4"))).encode(),
        json.dumps(document() | {"full": {"perplexity": 0, "bytes_per_token": 1, "needles": []}}).encode(),
    ],
)
def test_what_is_no_result_gives_no_rows(data: bytes) -> None:
    assert rows_of("r1", data) is None


def test_a_database_that_refuses_is_asked_again(runs: Path, tmp_path: Path) -> None:
    import duckdb

    write(runs / "r1")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        collector = Collector(runs, database)
        con.execute("ALTER TABLE quality RENAME TO elsewhere")
        with pytest.raises(duckdb.Error):
            collector.index_quality()
        con.execute("ALTER TABLE elsewhere RENAME TO quality")
        collector.index_quality()
        assert counted(con) == 2


def test_reindex_rebuilds_the_table_and_an_older_database_gains_it(runs: Path, tmp_path: Path) -> None:
    write(runs / "r1")
    path = tmp_path / "db.duckdb"
    reindex(path, runs)
    with Database(path) as database, database.read() as con:
        before = quality(con, "r1")
        assert len(before) == 2
        con.execute("DROP TABLE quality")
        con.execute("DROP TABLE swaps")
        con.execute("DROP TABLE layouts")
        con.execute("DROP TABLE handovers")
        con.execute("DROP TABLE tiers")
        con.execute("DROP TABLE pins")
        con.execute("DROP TABLE far_steps")
        con.execute("DROP TABLE lendings")
        con.execute("DROP TABLE foreign_figures")
        con.execute("UPDATE schema_version SET version = 3")
    with Database(path) as database, database.read() as con:
        assert counted(con) == 0
        Collector(runs, database).index_quality()
        assert quality(con, "r1") == before


def test_a_snapshot_carries_it_and_exporting_again_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    write(runs / "r1")
    file, again = tmp_path / "out.servescope", tmp_path / "again.servescope"
    export_snapshot(file, [runs / "r1", runs / "r2"])
    there = tmp_path / "there"
    for name in ("runs", "experiments"):
        (there / name).mkdir(parents=True)
    folders = (there / "runs", there / "experiments", there)
    import_snapshot(file, *folders, _named, _named)
    export_snapshot(again, [there / "runs" / "r2", there / "runs" / "r1"])
    assert again.read_bytes() == file.read_bytes()
    rows = []
    for number, folder in enumerate((runs, there / "runs")):
        with Database(tmp_path / f"{number}.duckdb") as database, database.read() as con:
            Collector(folder, database).ingest_once("r1")
            rows.append(quality(con, "r1"))
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


def test_a_damaged_result_is_not_handed_on(runs: Path, tmp_path: Path) -> None:
    (runs / "r1" / FILE).write_text('{"codecs": [1]}')
    file = tmp_path / "out.servescope"
    export_snapshot(file, [runs / "r1"])
    assert not any(FILE in name for name in zipfile.ZipFile(file).namelist())


def _named(data: bytes) -> str:
    return str(json.loads(data)["run_id"])
