"""A fuzzer over every file the lab reads, with one rule: no input may stop the lab, lose another run's rows, or stay unnamed."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from row_maker import record_run, set_status, spooled, stored

from app.errors import LabError
from app.experiments.file import create_experiment, delete_experiment, read_experiment
from app.exports.export import export
from app.exports.import_file import import_file
from app.home import Home
from app.locks import running_lab
from app.runs.listing import entry, list_runs
from app.runs.notes import write_notes
from app.runs.result import result_of
from app.runs.trash import delete_run, empty_trash, restore_run
from store.database import Database
from store.errors import StoreError
from store.experiments import experiments
from store.ingest import Collector
from store.plan import Experiment, Turn, Variant
from store.reindex import reindex
from telemetry.damage import spool_sizes
from telemetry.json_file import write_json
from telemetry.process import own_identity
from telemetry.status import is_final, read_status
from tests.app.small_runs import small_spec
from tests.store.test_quality_rows import codec, document

ROUNDS = int(os.environ.get("SERVESCOPE_SOAK_ROUNDS", "3"))
TRIES = 6 if ROUNDS < 10 else 30 * ROUNDS  # of each file; few of them in the suite
SEED = int(os.environ.get("SERVESCOPE_SOAK_SEED", "15"))
HOSTILE = (
    None, True, -1, 5, 2**31 - 1, 2**64, 1e308, float("nan"), "", "x", "\x1b[2J", "x" * 100_000, [], {}, [[]], {"a": 1},
)  # fmt: skip
VICTIM, GOOD, PLAN = "victim", "good", "x-plan"
Change = Callable[[random.Random, bytes], bytes]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home").prepare()
    for run_id in (VICTIM, GOOD):
        run_dir = record_run(home.runs, run_id, steps=12)
        write_json(run_dir / "spec.json", small_spec(run_id))
        set_status(
            run_dir, "finished", summary={"iterations": 12, "requests": {"total": 4}}, spool=spool_sizes(run_dir)
        )
        write_notes(home, run_id, name="mine", notes="some")
        (run_dir / "quality.json").write_text(json.dumps(document(codec("a"))))
    variants, turns = (Variant("a"), Variant("b")), (Turn("a", 0, run_id=GOOD, done=True), Turn("b", 0))
    hashes = {"a": "h", "b": "h"}
    plan = Experiment(PLAN, "compare", "starter", "t", "q", variants, 1, turns, hashes, state="finished")
    create_experiment(home, plan, {name: small_spec("v") for name in "ab"})
    write_json(
        home.lab_file, {"host": "127.0.0.1", "port": 1, "token": "t", "url": "u", "started_unix_ns": 1} | own_identity()
    )
    return home


def cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def flip(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 3, 30))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def noise(chance: random.Random, data: bytes) -> bytes:
    return chance.choice((b"", b"\x00" * 4096, b"[" * 100_000, b'{"a": "\\ud800"}', b"9" * 5000, chance.randbytes(300)))


def repeat(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[max(0, at - 200) : at] * chance.choice((2, 50)) + data[at:]


def replace_value(chance: random.Random, data: bytes) -> bytes:
    """One value of a JSON document, at any depth, becomes a hostile one."""
    value = json.loads(data)
    holder, places = value, list(_places(value))
    *way, last = chance.choice(places)
    for key in way:
        holder = holder[key]
    holder[last] = chance.choice(HOSTILE)
    return json.dumps(value).encode()


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*way, key)
        yield from _places(inner, (*way, key))


BYTES: tuple[Change, ...] = (cut, flip, noise, repeat)
JSON: tuple[Change, ...] = (*BYTES, *[replace_value] * 6)


def tries(name: str, path: Path, changes: tuple[Change, ...]) -> Iterator[str]:
    """Change the file again and again; it is whole afterwards. Yields what was done, for the message of a failure."""
    whole, chance = path.read_bytes(), random.Random(f"{SEED} {name}")
    try:
        for number in range(TRIES):
            change = chance.choice(changes)
            path.write_bytes(change(chance, whole))
            yield f"try {number} of {name} ({change.__name__}): {path.read_bytes()[:300]!r}"
    finally:
        path.write_bytes(whole)


def look(home: Home, database: Database) -> None:
    """Everything that looks at all runs, as the lab and the command line do."""
    collector = Collector(home.runs, database)
    for run_dir in collector.run_dirs():
        collector.ingest_once(run_dir.name)
    collector.index_experiments()
    collector.index_quality()
    assert collector.problem is None
    assert {run["run_id"] for run in list_runs(home)} == {VICTIM, GOOD}, "every run is there by its name"
    json.dumps(list_runs(home)).encode()
    about = entry(home, GOOD)
    assert (about["problem"], about["error"], about["name"]) == (None, None, "mine")
    with database.read() as con:
        assert stored(con, GOOD, "slice") == spooled(home.run_dir(GOOD), "slice"), "another run's rows"


@pytest.mark.parametrize("name", ["status.json", "spec.json", "notes.json", "quality.json", "brief.json"])
def test_a_file_beside_a_runs_rows(home: Home, tmp_path: Path, name: str) -> None:
    path = home.run_dir(VICTIM) / name
    list_runs(home)  # draws brief.json
    with Database(tmp_path / "db.duckdb") as database:
        for what in tries(name, path, JSON):
            look(home, database)
            assert is_final(read_status(home.run_dir(VICTIM))), f"it would be served again: {what}"
            with contextlib.suppress(LabError, StoreError):
                result_of(home, VICTIM)
        delete_run(home, VICTIM)
        restore_run(home, VICTIM)


@pytest.mark.parametrize("row", ["run", "slice", "request"])
def test_a_spool(home: Home, tmp_path: Path, row: str) -> None:
    path = home.run_dir(VICTIM) / "telemetry" / f"{row}.arrow"
    for what in tries(row, path, BYTES):
        database_file = tmp_path / "db.duckdb"
        with Database(database_file) as database:
            look(home, database)
            with database.read() as con:
                labels = con.execute("SELECT labels FROM runs WHERE run_id = ?", [VICTIM]).fetchone()
        assert labels is not None
        assert "telemetry damaged" in labels[0], what
        database_file.unlink()


def test_an_experiment(home: Home, tmp_path: Path) -> None:
    path = home.experiments / PLAN / "experiment.json"
    with Database(tmp_path / "db.duckdb") as database:
        for what in tries("experiment.json", path, JSON):
            look(home, database)
            with database.read() as con:
                (row,) = experiments(con)
            assert row["experiment_id"] == PLAN, what
            if row["problem"]:
                with pytest.raises(LabError, match=PLAN):
                    read_experiment(home, PLAN)
                delete_experiment(home, PLAN)
                restore_run(home, PLAN)


def test_the_labs_address(home: Home) -> None:
    for _ in tries("lab.json", home.lab_file, JSON):
        running_lab(home)


def test_the_database(home: Home) -> None:
    with Database(home.database) as database:
        look(home, database)
        database.checkpoint()
    for _ in tries("database", home.database, BYTES):
        home.database.with_name(f"{home.database.name}.wal").unlink(missing_ok=True)
        with contextlib.suppress(StoreError, duckdb.Error, AssertionError), Database(home.database) as database:
            look(home, database)  # it may be wrong by as much as was changed; nothing but the index is
        reindex(home.database, home.runs)
        with Database(home.database) as database:
            look(home, database)


def test_an_archive(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "run.servescope"
    export(home, VICTIM, file)
    there = Home(tmp_path / "there").prepare()
    before = sorted(there.root.rglob("*"))
    for what in tries("archive", file, BYTES):
        refused = True
        with contextlib.suppress(LabError, StoreError):
            import_file(there, file)
            refused = False  # a byte that a zip file carries for nothing
            delete_run(there, VICTIM)
            empty_trash(there)
        assert sorted(there.root.rglob("*")) == before, f"something is left, refused: {refused}: {what}"
