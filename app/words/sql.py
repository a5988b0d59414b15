"""Words of the SQL page: what the tables hold, and queries to begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.words.plain import is_number
from store.metrics import METRICS
from store.schema import EXPERIMENT_COLUMNS, QUALITY_COLUMNS, RUN_COLUMNS, TABLES, sql_type
from telemetry.rows import ROW_TYPES, columns

TABLES_HELP = {
    **{table: (ROW_TYPES[row].__doc__ or "").splitlines()[0] for row, table in TABLES.items()},
    "runs": "A row for each run, as its spec, status and result say at the moment.",
    "experiments": "A row for each comparison, sweep and search for capacity.",
    "quality": "What codecs of the KV cache cost in quality, where it was measured for a run.",
}
"""What each table holds; those of rows from the rows' own definitions."""

EXAMPLES = {
    "The slowest iterations of a run": """
SELECT iteration, (end_ns - start_ns) / 1e6 AS ms, prefill_tokens, decode_tokens, waiting, admission_stop
FROM iterations WHERE run_id = 'RUN' ORDER BY ms DESC LIMIT 20""",
    "Inter-token latency by tokens of prefill beside it": f"""
SELECT floor(prefill_tokens / 64) * 64 AS prefill_tokens, count(*) AS gaps,
  median({METRICS["itl_ms"].expression}) AS itl_ms
FROM slices JOIN iterations USING (run_id, iteration)
WHERE run_id = 'RUN' AND itl_ns IS NOT NULL GROUP BY ALL ORDER BY 1""",
    "Why admission stopped, and for how long": """
SELECT admission_stop, count(*) AS iterations, sum(end_ns - start_ns) / 1e9 AS seconds
FROM iterations WHERE run_id = 'RUN' AND waiting > 0 GROUP BY ALL ORDER BY seconds DESC""",
    "Requests and their latencies": f"""
SELECT request, request_id, "group", {METRICS["ttft_ms"].expression} AS ttft_ms, output_tokens,
  preemptions, end_reason
FROM requests WHERE run_id = 'RUN' ORDER BY ttft_ms DESC""",
    "The batch of an iteration": f"""
SELECT request, kind, tokens, context_len, drafted, accepted, emitted,
  {METRICS["itl_ms"].expression} AS itl_ms
FROM slices WHERE run_id = 'RUN' AND iteration = 0 ORDER BY request""",
    "A request, step by step": f"""
SELECT iteration, (end_ns - start_ns) / 1e6 AS ms, kind, tokens, context_len, emitted,
  {METRICS["itl_ms"].expression} AS itl_ms
FROM slices JOIN iterations USING (run_id, iteration) WHERE run_id = 'RUN' AND request = 0 ORDER BY iteration""",
    "What happened to KV blocks": """
SELECT iteration, event, count(*) AS blocks FROM blocks WHERE run_id = 'RUN' GROUP BY ALL ORDER BY iteration, event""",
    "Output tokens of every run": """
SELECT runs.run_id, scenario, state, sum(emitted_tokens)::BIGINT AS tokens
FROM runs LEFT JOIN iterations USING (run_id) GROUP BY ALL ORDER BY tokens DESC NULLS LAST""",
}
"""Queries to begin with; ``RUN`` stands for the run's id, ``= 0`` for the iteration or request that is selected."""


def example(title: str, run_id: str, selected: Mapping[str, str] | None = None) -> str:
    """An example about a run, and about what is selected of it."""
    query = EXAMPLES[title].strip().replace("'RUN'", "'" + run_id.replace("'", "''") + "'")
    for name in ("iteration", "request"):
        number = (selected or {}).get(name, "")
        if is_number(number):
            query = query.replace(f" {name} = 0 ", f" {name} = {number} ")
    return query


def table_columns(table: str) -> list[dict[str, str]]:
    """The columns of a table with their types, and what is known of them."""
    rows = {name: row for row, name in TABLES.items()}
    if table not in rows:
        kinds = {"runs": RUN_COLUMNS, "experiments": EXPERIMENT_COLUMNS, "quality": QUALITY_COLUMNS}[table]
        return [{"column": name, "type": kind} for name, kind in kinds.items()]
    run = {"column": "run_id", "type": "VARCHAR", "unit": "", "meaning": "The run.", "is": ""}
    return [run] + [
        {
            "column": name,
            "type": sql_type(column),
            "unit": column.unit,
            "meaning": column.help + (f" One of: {', '.join(column.choices)}." if column.choices else ""),
            "is": column.provenance,
        }
        for name, column in columns(ROW_TYPES[rows[table]]).items()
    ]


def as_python(query: str) -> str:
    """A program that asks the same from the command line."""
    return f"""import json
import subprocess

QUERY = {_literal(query)}
done = subprocess.run(["servescope", "sql", QUERY, "--json"], capture_output=True, text=True, check=True)
rows = json.loads(done.stdout)["rows"]  # a dictionary for each row
print(len(rows), "rows")
"""


def _literal(query: str) -> str:
    """The text as a Python literal, over several lines where that says the same."""
    simple = "\n" in query and query.replace("\n", "").isprintable() and not re.search(r'"""|\\|"$', query)
    return f'"""{query}"""' if simple else repr(query)
