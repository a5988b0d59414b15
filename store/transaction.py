"""One transaction: committed at the end of the block, rolled back if anything in it raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb


@contextlib.contextmanager
def transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Raises what the block or the commit raises; afterwards the connection is free for the next transaction."""
    con.begin()
    try:
        yield
        con.commit()
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a commit that failed for want of space has rolled back by itself
            con.rollback()
        raise
