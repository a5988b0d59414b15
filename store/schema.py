"""The tables, derived from ``telemetry.rows``: one per row type, every one led by ``run_id``; and a few of the
store's own."""

from __future__ import annotations

from telemetry.rows import ROW_TYPES, Column, columns

TABLES: dict[str, str] = {
    "iteration": "iterations",
    "slice": "slices",
    "request": "requests",
    "decision": "decisions",
    "block": "blocks",
    "swap": "swaps",
    "layout": "layouts",
    "handover": "handovers",
    "tier": "tiers",
    "pin": "pins",
    "far": "far_steps",
    "lending": "lendings",
    "device": "devices",
    "foreign": "foreign_figures",
    "run": "run_events",
}

_SQL_TYPES = {
    "int64": "BIGINT",
    "int32": "INTEGER",
    "int8": "TINYINT",
    "float64": "DOUBLE",
    "float32": "FLOAT",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "list<int32>": "INTEGER[]",
    "list<float32>": "FLOAT[]",
}

# one row per run: what its run rows, spec.json and status.json say at the moment
RUN_COLUMNS: dict[str, str] = {
    "run_id": "VARCHAR PRIMARY KEY",
    "state": "VARCHAR",
    "scenario": "VARCHAR",
    "title": "VARCHAR",
    "experiment_id": "VARCHAR",
    "workload_hash": "VARCHAR",
    "created_unix_ns": "BIGINT",
    "started_unix_ns": "BIGINT",
    "ended_unix_ns": "BIGINT",
    "labels": "VARCHAR",
    "spec": "VARCHAR",
    "environment": "VARCHAR",
    "peaks": "VARCHAR",
    "model": "VARCHAR",
    "progress": "VARCHAR",
    "error": "VARCHAR",
    "summary": "VARCHAR",
    "problem": "VARCHAR",
    "figures": "VARCHAR",
}

# one row per experiment: what its file says at the moment
EXPERIMENT_COLUMNS: dict[str, str] = {
    "experiment_id": "VARCHAR PRIMARY KEY",
    "kind": "VARCHAR",
    "state": "VARCHAR",
    "scenario": "VARCHAR",
    "title": "VARCHAR",
    "question": "VARCHAR",
    "baseline": "VARCHAR",
    "variants": "VARCHAR[]",
    "repeats": "INTEGER",
    "runs": "INTEGER",
    "runs_done": "INTEGER",
    "run_ids": "VARCHAR[]",
    "workload_hash": "VARCHAR",
    "problem": "VARCHAR",
    "created_unix_ns": "BIGINT",
    "plan": "VARCHAR",
}

# one row per run and codec whose cost in quality was measured for the run, and one for full precision: what the run's quality.json says
QUALITY_COLUMNS: dict[str, str] = {
    "run_id": "VARCHAR NOT NULL",
    "place": "INTEGER NOT NULL",
    "name": "VARCHAR",
    "codec": "VARCHAR",
    "settings": "VARCHAR",
    "bits": "DOUBLE",
    "window_tokens": "INTEGER",
    "bytes_per_token": "DOUBLE",
    "capacity": "DOUBLE",
    "perplexity": "DOUBLE",
    "perplexity_ratio": "DOUBLE",
    "kl": "DOUBLE",
    "agreement": "DOUBLE",
    "greedy_agreement": "DOUBLE",
    "first_divergence": "INTEGER[]",
    "chunking_logits": "DOUBLE",
    "chunking_kl": "DOUBLE",
    "chunking_agreement": "DOUBLE",
    "chunking_codes": "DOUBLE",
    "needles": "INTEGER",
    "needles_found": "INTEGER",
    "key_error": "DOUBLE[][]",
    "value_error": "DOUBLE[][]",
    "model": "VARCHAR",
    "dtype": "VARCHAR",
    "device": "VARCHAR",
    "block_size": "INTEGER",
    "seed": "BIGINT",
    "labels": "VARCHAR",
    "text": "VARCHAR",
    "text_tokens": "INTEGER",
    "new_tokens": "INTEGER",
    "needle_tokens": "INTEGER",
    "digest": "VARCHAR",
}

# how far each spool file has been read, written in the transaction that inserted its rows
POSITION_COLUMNS: dict[str, str] = {
    "run_id": "VARCHAR",
    "row_type": "VARCHAR",
    "sequence": "BIGINT",
    "byte_offset": "BIGINT",
}


def sql_type(column: Column) -> str:
    """DuckDB type of a column; enumerated columns are text, since an ENUM could not grow."""
    return "VARCHAR" if column.choices else _SQL_TYPES[column.arrow_type]


def quoted(name: str) -> str:
    """An identifier of ours as SQL takes it (``group`` is a keyword)."""
    return '"' + name.replace('"', '""') + '"'


def create_swaps() -> str:
    """The table of swaps."""
    return _create_rows("swap")


def create_layouts() -> str:
    """The table of what the KV pool's memory was used for."""
    return _create_rows("layout")


def create_handovers() -> str:
    """The table of what prefill handed to decode."""
    return _create_rows("handover")


def create_tiers() -> str:
    """The table of what was done with blocks of tiers."""
    return _create_rows("tier")


def create_pins() -> str:
    """The table of pins of ended turns."""
    return _create_rows("pin")


def create_far_steps() -> str:
    """The table of steps with a far pool."""
    return _create_rows("far")


def create_lendings() -> str:
    """The table of blocks that went to a far pool."""
    return _create_rows("lending")


def create_foreign() -> str:
    """The table of other engines' figures."""
    return _create_rows("foreign")


def create_experiments() -> str:
    """The table of experiments."""
    return _create("experiments", EXPERIMENT_COLUMNS)


def create_quality() -> str:
    """The table of measured quality."""
    return _create("quality", QUALITY_COLUMNS, "run_id", "place")


def create_statements() -> list[str]:
    """Everything a new database needs, in order."""
    statements = [_create_rows(row) for row in TABLES]
    statements += [_create("runs", RUN_COLUMNS), create_experiments(), create_quality()]
    statements.append(_create("spool_positions", POSITION_COLUMNS, "run_id", "row_type"))
    return statements


def _create_rows(row: str) -> str:
    kinds = {name: sql_type(column) for name, column in columns(ROW_TYPES[row]).items()}
    return _create(TABLES[row], {"run_id": "VARCHAR NOT NULL"} | kinds)


def _create(table: str, kinds: dict[str, str], *key: str) -> str:
    """``key``: columns of the primary key, where it is more than one."""
    body = [f"{quoted(name)} {kind}" for name, kind in kinds.items()]
    body += [f"PRIMARY KEY ({', '.join(key)})"] if key else []
    return f"CREATE TABLE {table} ({', '.join(body)})"
