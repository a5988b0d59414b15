"""One run's way into the database.

Batches are read from the spool once, kept until they are committed, and inserted together with the position they
bring the reader to, in one transaction. Whatever dies when: the next reader starts at the committed positions, so
every batch gets in exactly once.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from store.schema import POSITION_COLUMNS, RUN_COLUMNS, TABLES, quoted
from store.summary import compute_summary
from store.transaction import transaction
from telemetry.arrow import of_today
from telemetry.damage import damage_of
from telemetry.folder import SPEC, STATUS
from telemetry.json_file import Unreadable, plain, read_as
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.run_facts import SpecHead, as_text, fact, facts_of
from telemetry.spool import SpoolBatch, SpoolCorrupt, SpoolReader, spool_path
from telemetry.status import FINAL_STATES, LABEL_DAMAGED, Status, read_status

OnBatch = Callable[[str, str, pa.RecordBatch], None]

MAX_PENDING_BYTES = 64 << 20
PROGRESS_INTERVAL_S = 1.0


class RunTail:
    """Follows one run directory. Not thread-safe: the collector's thread owns it."""

    def __init__(self, run_dir: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.run_dir = run_dir
        self.run_id = run_dir.name
        self.status: Status = {}
        self.problems: dict[str, str] = {}  # row type or file -> what is wrong with it; such rows are read no further
        self._stamps: dict[str, tuple[int, int] | None] = {}  # file -> time and inode at the last look
        self._written_row = self._stored_row(con)  # the run's row in `runs` as it is committed
        self._row = dict(self._written_row)
        self._row_changed_at = 0.0
        self._pending: dict[str, list[SpoolBatch]] = {}
        self._pending_bytes = 0
        self._readers = {
            row: SpoolReader(spool_path(run_dir, row), after=sequence, offset=offset)
            for row, (sequence, offset) in self._positions(con).items()
        }

    @property
    def complete(self) -> bool:
        """Whether everything the run left is in the database, its summary included."""
        return self._written_row.get("figures") is not None

    @property
    def ended(self) -> bool:
        """Whether the run is over, so that nothing more will be written."""
        return self.status.get("state") in FINAL_STATES

    def read(self, on_batch: OnBatch | None = None) -> int:
        """Take in what is new in the folder; returns how many batches. A damaged file stops, the others go on."""
        self._read_status()
        batches = 0
        for row, reader in self._readers.items():
            if row in self.problems or self._pending_bytes > MAX_PENDING_BYTES:
                continue
            try:
                for item in reader.read():
                    batch = of_today(item.batch, row)
                    batches += 1
                    self._pending.setdefault(row, []).append(SpoolBatch(item.sequence, batch, item.offset))
                    self._pending_bytes += batch.nbytes
                    if on_batch is not None:
                        on_batch(self.run_id, row, batch)
                    if self._pending_bytes > MAX_PENDING_BYTES:
                        break
            except (SpoolCorrupt, OSError, pa.ArrowException, KeyError) as error:
                self._give_up(row, error)
        return batches

    def insert(self, con: duckdb.DuckDBPyConnection, *, force: bool = False) -> int:
        """Commit everything read so far; returns how many rows. On an error nothing is committed and all of it is
        kept.

        Raises:
            duckdb.Error: the database refused; call again later.
        """
        if not self._pending and not (force or self._row_is_due()):
            return 0
        with transaction(con):
            rows = sum(self._insert_rows(con, name, items) for name, items in self._pending.items())
            self._keep_positions(con)
            row = self._run_row()
            if row != self._written_row:
                self._upsert_run(con, row)
        self._written_row = row
        self._row_changed_at = time.monotonic()
        self._pending.clear()
        self._pending_bytes = 0
        return rows

    def read_whole(self, con: duckdb.DuckDBPyConnection, on_batch: OnBatch | None = None) -> int:
        """Read and commit until nothing new comes; returns how many rows. Raises as ``insert`` does."""
        rows = self.insert(con) if self._pending else 0  # beyond a bound no more is read
        while self.read(on_batch):
            rows += self.insert(con)
        return rows + self.insert(con)

    def complete_run(self, con: duckdb.DuckDBPyConnection) -> None:
        """For a run that is over and read to its end: look for damage at the tail, store its summary, close the book.

        Raises:
            duckdb.Error: the database refused; call again later.
        """
        for row, reader in self._readers.items():
            if row not in self.problems:
                try:
                    reader.finish()
                except (SpoolCorrupt, OSError) as error:
                    self._give_up(row, error)
        self._look_for_damage()
        self.insert(con)
        figures = compute_summary(con, self.run_id)
        self._row["figures"] = json.dumps(figures)
        if figures is not None:
            self._row["labels"] = as_text(figures["labels"])  # with what only the rows show
        self.insert(con, force=True)

    def look_again(self, con: duckdb.DuckDBPyConnection) -> None:
        """For a run that is in the database whole: say so in its row if its spool is no longer as it was.

        Raises:
            duckdb.Error: the database refused; call again later.
        """
        self._read_status()
        self._look_for_damage()
        if self.problems:
            self.insert(con, force=True)

    def abandon(self, con: duckdb.DuckDBPyConnection, error: Exception) -> None:
        """What the run holds cannot be stored: keep what is in the database, and say so in the run's row.

        Raises:
            duckdb.Error: the database refused.
        """
        self._pending.clear()
        self._pending_bytes = 0
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        self.problems["rows"] = f"what it recorded cannot be stored: {reason}"
        row = dict.fromkeys(RUN_COLUMNS) | self._written_row | {"run_id": self.run_id}
        labels = _merged(fact("labels", row["labels"] or "[]"), [LABEL_DAMAGED])
        state = self.status.get("state", "queued")
        changes = {"state": state, "labels": as_text(labels), "problem": "; ".join(self.problems.values())}
        with transaction(con):
            self._upsert_run(con, row | changes)

    # ------------------------------------------------------------------ rows

    def _stored_row(self, con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
        rows = con.sql("SELECT * FROM runs WHERE run_id = ?", params=[self.run_id]).to_arrow_table().to_pylist()
        return rows[0] if rows else {}

    def _positions(self, con: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int]]:
        rows = con.execute(
            "SELECT row_type, sequence, byte_offset FROM spool_positions WHERE run_id = ?", [self.run_id]
        ).fetchall()
        return dict.fromkeys(TABLES, (-1, 0)) | {row: (sequence, offset) for row, sequence, offset in rows}

    def _insert_rows(self, con: duckdb.DuckDBPyConnection, row: str, items: list[SpoolBatch]) -> int:
        table = pa.Table.from_batches([item.batch for item in items])
        listed = ", ".join(quoted(name) for name in table.column_names)
        con.register("incoming", table)
        try:
            con.execute(f"INSERT INTO {TABLES[row]} (run_id, {listed}) SELECT ?, {listed} FROM incoming", [self.run_id])
        finally:
            with contextlib.suppress(
                duckdb.Error
            ):  # refused in a transaction that failed; the next register replaces it
                con.unregister("incoming")
        if row == "run":
            self._take_run_rows(table)
        return table.num_rows

    def _keep_positions(self, con: duckdb.DuckDBPyConnection) -> None:
        """Up to where every row type is read; one statement for all, as each costs milliseconds."""
        _upsert(
            con,
            "spool_positions",
            tuple(POSITION_COLUMNS),
            ("run_id", "row_type"),
            *([self.run_id, row, items[-1].sequence, items[-1].offset] for row, items in self._pending.items()),
        )

    def _take_run_rows(self, table: pa.Table) -> None:
        """What the engine says of the run as a whole; a later row's nulls leave the earlier's values."""
        for event in table.to_pylist():
            said, unreadable = facts_of(event)
            labels = said.pop("labels", [])
            self._row |= {name: as_text(value) for name, value in said.items()}
            self._row["labels"] = as_text(_merged(json.loads(self._row.get("labels") or "[]"), labels))
            if unreadable:
                self.problems["facts"] = "; ".join(unreadable)

    # ------------------------------------------------------------------ the run's own row

    def _changed(self, name: str) -> bool:
        """Whether a file of the folder is another one than at the last look."""
        try:
            about = (self.run_dir / name).stat()
            stamp = (about.st_mtime_ns, about.st_ino)
        except OSError:
            stamp = None
        changed = name not in self._stamps or self._stamps[name] != stamp
        self._stamps[name] = stamp
        return changed

    def _read_status(self) -> None:
        if self._changed(STATUS):
            self.status = read_status(self.run_dir)

    def _read_spec(self) -> None:
        """Until the engine has said what it was given, the spec's file says it."""
        if self._row.get("spec") or not self._changed(SPEC):
            return
        self.problems.pop(SPEC, None)
        try:
            self._row["spec"] = as_text(plain(read_as(SpecHead, self.run_dir / SPEC, MOST_SPEC_BYTES)))
        except FileNotFoundError:
            return
        except Unreadable as error:
            self.problems[SPEC] = str(error)

    def _look_for_damage(self) -> None:
        for row, reason in damage_of(self.run_dir, self.status).items():
            self.problems.setdefault(row, reason)

    def _run_row(self) -> dict[str, Any]:
        """The ``runs`` row as of now: what the rows said, what ``spec.json`` and ``status.json`` say."""
        self._read_spec()
        row, status = self._row, self.status
        spec = json.loads(row["spec"]) if row.get("spec") else {}
        for name in ("scenario", "title", "experiment_id", "workload_hash", "created_unix_ns"):
            if spec.get(name) not in (None, ""):
                row[name] = spec[name]
        row["state"] = status.get("state", "queued")
        for name in ("started_unix_ns", "ended_unix_ns"):
            if status.get(name) is not None:
                row[name] = status[name]
        for name in ("progress", "error", "summary"):
            if status.get(name):
                row[name] = as_text(status[name])
        if status.get("summary", None) and status["summary"].get("workload_hash"):
            row["workload_hash"] = status["summary"]["workload_hash"]
        labels = _merged(json.loads(row.get("labels") or "[]"), spec.get("labels", []), status.get("labels", []))
        if self.problems.keys() - {SPEC}:
            labels = _merged(labels, [LABEL_DAMAGED])
        row["labels"] = as_text(labels)
        row["problem"] = "; ".join(self.problems.values()) or None
        return {"run_id": self.run_id} | {name: row.get(name) for name in RUN_COLUMNS if name != "run_id"}

    def _row_is_due(self) -> bool:
        row = self._run_row()
        changed = {name for name in row if row[name] != self._written_row.get(name)}
        return bool(changed - {"progress"}) or (
            bool(changed) and time.monotonic() - self._row_changed_at > PROGRESS_INTERVAL_S
        )

    def _upsert_run(self, con: duckdb.DuckDBPyConnection, row: dict[str, Any]) -> None:
        _upsert(con, "runs", tuple(row), ("run_id",), list(row.values()))

    def _give_up(self, row: str, error: Exception) -> None:
        if isinstance(error, SpoolCorrupt):
            said = f"{error.path.name} is damaged at byte {error.offset}, batch {error.sequence}: {error.reason}"
        else:
            said = f"{row}.arrow cannot be read: {error}"
        self.problems[row] = f"{said}; {row} rows before it are kept"


def _upsert(
    con: duckdb.DuckDBPyConnection, table: str, names: tuple[str, ...], key: tuple[str, ...], *rows: list[Any]
) -> None:
    if not rows:
        return
    places = f"({', '.join('?' * len(names))})"
    updates = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in names if n not in key)
    con.execute(
        f"INSERT INTO {table} ({', '.join(map(quoted, names))}) VALUES {', '.join([places] * len(rows))}"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}",
        [value for row in rows for value in row],
    )


def _merged(*lists: list[str]) -> list[str]:
    return list(dict.fromkeys(item for items in lists for item in items))
