"""The database file: opened by one process, read by any of its threads.

Each thread takes a cursor of its own. Settings that need saying: the write-ahead log may grow to ``WAL_LIMIT`` before
DuckDB folds it in by itself, because that pause (up to half a second at the default) would fall into a run;
:meth:`Database.checkpoint` does it between runs instead. Files and network are out of reach for every statement, and
the settings are locked, before anything is run.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from store.errors import StoreError
from store.migrations import migrate

DATABASE_NAME = "servescope.duckdb"
WAL_LIMIT = "1GB"
MEMORY_LIMIT = "2GB"
CHECKPOINT_MARGIN = 16 << 20
NO_EXTENSIONS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
CLOSE_S, CLOSE_LOOK_S = 3.0, 0.02
REINDEX = "Run `servescope reindex` to rebuild it from the runs; nothing is lost."


class Database:
    """The store's one connection to its file. Raises StoreError from the constructor when the file cannot be
    opened."""

    def __init__(self, path: Path, *, memory_limit: str = MEMORY_LIMIT, threads: int | None = None) -> None:
        self.path = path
        self._memory_limit, self._threads = memory_limit, threads
        self._cursor_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._con = self._open()

    def _open(self) -> duckdb.DuckDBPyConnection:
        con = _connect(self.path)
        try:
            con.execute(f"SET wal_autocheckpoint = '{WAL_LIMIT}'")
            con.execute("SET memory_limit = ?", [self._memory_limit])
            if self._threads is not None:
                con.execute("SET threads = ?", [self._threads])
            # a loop is chosen by a guess at the rows, far too low for a run's requests: minutes instead of a second
            con.execute("SET GLOBAL asof_loop_join_threshold = 0")
            con.execute("SET enable_external_access = false")
            con.execute("SET lock_configuration = true")
            migrate(con)
        except duckdb.Error as error:
            con.close()
            raise _opening_error(self.path, error) from error
        except StoreError:
            con.close()
            raise
        return con

    def reopen(self) -> None:
        """Start over after an error that DuckDB calls fatal (it then refuses everything until its last connection closes).

        Raises:
            StoreError: the file cannot be opened, or a reader still holds on to the broken instance; call again later.
        """
        with self._cursor_lock:
            self._con.close()
            self._con = self._open()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for the calling thread alone; close it when done (it costs about 10 us)."""
        with self._cursor_lock:
            return self._con.cursor()

    @contextlib.contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor for the length of a block."""
        cursor = self.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def checkpoint(self) -> bool:
        """Fold the write-ahead log into the file.

        False, and nothing done, while a transaction is under way or the disk has no room for it: a checkpoint that runs
        out of space is fatal to the open database.
        """
        log = self.path.with_name(f"{self.path.name}.wal")
        logged = log.stat().st_size if log.exists() else 0
        if shutil.disk_usage(self.path.parent).free < 2 * logged + CHECKPOINT_MARGIN:
            return False
        try:
            with self.read() as cursor:
                cursor.execute("CHECKPOINT")
        except duckdb.Error:
            return False
        return True

    def close(self) -> None:
        """Close the file. A reader that will not end keeps it from that for ``CLOSE_S`` and no longer.

        What is committed is safe either way: the next start folds the write-ahead log in.
        """
        deadline = time.monotonic() + CLOSE_S
        while True:
            try:
                self._con.close()
            except duckdb.ResourceInUseException:
                if time.monotonic() > deadline:
                    return
                time.sleep(CLOSE_LOOK_S)
            else:
                return

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(path), config=NO_EXTENSIONS)
    except duckdb.Error as error:
        raise _opening_error(path, error) from error


def _opening_error(path: Path, error: duckdb.Error) -> StoreError:
    text = str(error)
    if re.search(r"set lock|conflicting lock|configuration has been locked", text, re.IGNORECASE):
        holder = re.search(r"PID (\d+)", text)
        here = "this process already" if "configuration" in text else "another process"
        who = f"process {holder.group(1)}" if holder else here
        return StoreError(
            "busy",
            f"The database {path} is in use by {who}; one process at a time may own it.",
            "Close that lab, or use it: its address is in lab.json.",
        )
    if "No space left" in text:
        return StoreError("space", f"The database {path} cannot be opened: no space left on the disk.", "Make room.")
    if isinstance(error, duckdb.IOException) and ("Permission denied" in text or "read-only" in text.lower()):
        return StoreError("missing", f"The database {path} cannot be opened: {text}", "Check who may write there.")
    return StoreError("corrupt", f"The database {path} cannot be read: {text.splitlines()[0]}", REINDEX)
