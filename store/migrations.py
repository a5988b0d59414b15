"""Versions of the database, and the steps from one to the next.

The database is an index of the spool, so a step need only be right for the tables; what it cannot carry over,
``servescope reindex`` rebuilds. A step is a function of a cursor inside a transaction; ``MIGRATIONS[n]`` leads from
version n to n + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import duckdb

from store.errors import StoreError
from store.schema import (
    create_experiments,
    create_far_steps,
    create_foreign,
    create_handovers,
    create_layouts,
    create_lendings,
    create_pins,
    create_quality,
    create_statements,
    create_swaps,
    create_tiers,
)
from store.transaction import transaction

Step = Callable[[duckdb.DuckDBPyConnection], None]


def _technique_columns(con: duckdb.DuckDBPyConnection) -> None:
    """Iterations say what prefix sharing spared and what guessing cost; those recorded before did neither."""
    con.execute("ALTER TABLE iterations ADD COLUMN draft_ns BIGINT DEFAULT 0")
    con.execute("ALTER TABLE iterations ADD COLUMN blocks_spared INTEGER DEFAULT 0")
    con.execute("ALTER TABLE iterations ADD COLUMN kv_bytes_spared DOUBLE DEFAULT 0")


def _experiments(con: duckdb.DuckDBPyConnection) -> None:
    """Experiments have a table; the collector fills it from their files."""
    con.execute(create_experiments())


def _quality(con: duckdb.DuckDBPyConnection) -> None:
    """What codecs of the KV cache cost has a table; the collector fills it from the runs' files."""
    con.execute(create_quality())


def _prompt_columns(con: duckdb.DuckDBPyConnection) -> None:
    """Iterations say whose prompt was finished and what was looked up. Summaries have more figures: the collector makes them anew."""
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS prompt_tokens INTEGER DEFAULT 0")
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS prefix_query_tokens INTEGER DEFAULT 0")
    con.execute("UPDATE runs SET figures = NULL")


def _preempted_hits(con: duckdb.DuckDBPyConnection) -> None:
    """What preempted requests found again is counted apart; in iterations recorded before it is among the prefix hits."""
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS preempted_hit_tokens INTEGER DEFAULT 0")


def _chunking(con: duckdb.DuckDBPyConnection) -> None:
    """Quality knows how much depends on where a text is cut; what was measured before does not say."""
    for name in ("chunking_logits", "chunking_kl", "chunking_agreement", "chunking_codes"):
        con.execute(f"ALTER TABLE quality ADD COLUMN IF NOT EXISTS {name} DOUBLE")


def _padding(con: duckdb.DuckDBPyConnection) -> None:
    """Iterations count padding. Summaries have one more figure, of the steady state: the collector makes them anew."""
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS padded_tokens INTEGER DEFAULT 0")
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS padded_keys BIGINT DEFAULT 0")
    con.execute("UPDATE runs SET figures = NULL")


def _groups(con: duckdb.DuckDBPyConnection) -> None:
    """Summaries have figures by group of requests: the collector makes them anew."""
    con.execute("UPDATE runs SET figures = NULL")


def _swaps(con: duckdb.DuckDBPyConnection) -> None:
    """Copies between the KV pool and host memory have a table; runs recorded before made none."""
    con.execute(create_swaps())


def _layouts(con: duckdb.DuckDBPyConnection) -> None:
    """What the KV pool's memory was used for has a table; runs recorded before do not say."""
    con.execute(create_layouts())


def _foreign(con: duckdb.DuckDBPyConnection) -> None:
    """Figures of engines that were watched have a table; nobody watched any before."""
    con.execute(create_foreign())


def _halves(con: duckdb.DuckDBPyConnection) -> None:
    """Iterations say which half computed them, and what was handed over has a table; there was one engine before."""
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS half VARCHAR")
    con.execute(create_handovers())


def _tiers(con: duckdb.DuckDBPyConnection) -> None:
    """What was done with blocks of tiers has a table; runs recorded before had none."""
    con.execute(create_tiers())


def _tier_codec(con: duckdb.DuckDBPyConnection) -> None:
    """Tiers say how blocks were stored; until then as the cache has them."""
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS stored_bytes BIGINT")
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS codec_ns BIGINT DEFAULT 0")
    con.execute("UPDATE tiers SET stored_bytes = bytes")


def _programs(con: duckdb.DuckDBPyConnection) -> None:
    """Requests say which program they are a turn of, and pins of ended turns have a table; runs recorded before do not say."""
    con.execute("ALTER TABLE requests ADD COLUMN IF NOT EXISTS program INTEGER")
    con.execute(create_pins())


def _far_pools(con: duckdb.DuckDBPyConnection) -> None:
    """Steps with a far pool and what was lent to it have tables."""
    con.execute(create_far_steps())
    con.execute(create_lendings())


def _half_threads(con: duckdb.DuckDBPyConnection) -> None:
    """Iterations say how many threads their half had; halves had a fixed number before."""
    con.execute("ALTER TABLE iterations ADD COLUMN IF NOT EXISTS half_threads INTEGER")


def _logprobs(con: duckdb.DuckDBPyConnection) -> None:
    """Requests may say how likely their tokens were; none did before."""
    con.execute("ALTER TABLE requests ADD COLUMN IF NOT EXISTS output_logprobs FLOAT[]")


def _tier_waits(con: duckdb.DuckDBPyConnection) -> None:
    """Tiers say how long the engine stood still for copies; until then it did for all of each."""
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS asked_ns BIGINT")
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS waited_ns BIGINT")
    con.execute("UPDATE tiers SET waited_ns = duration_ns")


def _tier_levels(con: duckdb.DuckDBPyConnection) -> None:
    """Tiers say which level of a codec was read, and by what it was chosen; every run had one before."""
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS level VARCHAR")
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS link_bytes_per_s DOUBLE")
    con.execute("ALTER TABLE tiers ADD COLUMN IF NOT EXISTS left_s DOUBLE")


VERSION = 21
MIGRATIONS: Mapping[int, Step] = {
    1: _technique_columns, 2: _experiments, 3: _quality, 4: _prompt_columns, 5: _preempted_hits, 6: _chunking, 7: _padding,
    8: _groups, 9: _swaps, 10: _layouts, 11: _foreign,
    12: _halves, 13: _tiers, 14: _tier_codec, 15: _programs, 16: _far_pools,
    17: _half_threads, 18: _logprobs, 19: _tier_waits, 20: _tier_levels,
}  # fmt: skip


def migrate(con: duckdb.DuckDBPyConnection, *, version: int = VERSION, steps: Mapping[int, Step] = MIGRATIONS) -> None:
    """Bring the database to ``version``: create it if it is empty, else take each step in its own transaction.

    Raises:
        StoreError: the database was written by a newer ServeScope, or a step is missing.
    """
    stored = _found(con)
    if stored is None:
        with transaction(con):
            for statement in create_statements():
                con.execute(statement)
            con.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            con.execute("INSERT INTO schema_version VALUES (?)", [version])
        return
    if stored > version:
        raise StoreError(
            "newer",
            f"The database has version {stored}; this ServeScope knows versions up to {version}.",
            "Use the newer ServeScope, or run `servescope reindex` to rebuild the database from the runs.",
        )
    for current in range(stored, version):
        step = steps.get(current)
        if step is None:
            raise StoreError(
                "newer",
                f"The database has version {stored}, and no step leads from {current} to {current + 1}.",
                "Run `servescope reindex` to rebuild the database from the runs.",
            )
        with transaction(con):
            step(con)
            con.execute("UPDATE schema_version SET version = ?", [current + 1])


def _found(con: duckdb.DuckDBPyConnection) -> int | None:
    tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE table_name = 'schema_version'").fetchall()
    if not tables:
        return None
    return int(con.execute("SELECT version FROM schema_version").fetchall()[0][0])
