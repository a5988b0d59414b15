"""Recorded traces of real services: who came when, with how long a prompt, and how long an answer.

The project ships none. Formats, told apart by the keys or columns of the file itself, or named by the scenario:

- ``mooncake``: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length`` and ``hash_ids``, one for each
  512 tokens of the prompt.
- ``bailian``: the same keys with ``timestamp`` in s and a hash for each 16 tokens, and ``chat_id``, ``parent_chat_id``, ``turn``, ``type``.
- ``splitwise``: CSV with ``arrived_at`` (s), ``num_prefill_tokens``, ``num_decode_tokens`` (Vidur's form of the Azure
  traces), or the original ``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``, in newer ones with ``NumImages``.
- ``burstgpt``: CSV with ``Timestamp`` (s), ``Request tokens``, ``Response tokens`` and more; newer files add
  ``Session ID`` and ``Elapsed time`` (s, from the request to the response).

ServeGen's clients (``servegen``) are no trace, and requests are drawn from them.

A response (or prompt) of 0 tokens is a failed request of the recorded service: it is skipped and counted. Every other key and column is
read, known to change nothing, or refused by name. Files may be packed with gzip.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

from engine.config import ConfigError
from scenarios.traces.files import lines, opened
from scenarios.traces.json_lines import Sessions, json_object, read_jsonl, shape_of
from scenarios.traces.rows import Trace, TraceRow, bad, unserved
from scenarios.traces.sessions import in_turns
from scenarios.traces.tables import columns_of, has_sessions, read_table

__all__ = ["Sessions", "Trace", "TraceFormat", "TraceRow", "in_turns", "licence_of", "read", "unserved"]

TraceFormat = Literal["auto", "mooncake", "bailian", "splitwise", "burstgpt"]
JSON_FORMATS = ("mooncake", "bailian")
MOST_ROWS = 20_000_000  # BurstGPT has 10.6 million

LICENCES = {
    "mooncake": "published by kvcache-ai/Mooncake under Apache-2.0",
    "bailian": "published in alibaba-edu/qwen-bailian-usagetraces-anon under Apache-2.0",
}
"""Of the published traces in each JSON format; a scenario may state another."""


def read(
    path: Path,
    format: TraceFormat = "auto",
    limit: int | None = None,
    *,
    block_tokens: int | None = None,
    sessions: Sessions = "refused",
) -> Trace:
    """Read a trace.

    Args:
        path: of the file, plain or gzip.
        format: ``auto``: as the file's own keys or columns say.
        limit: stop after so many good rows; a file that is not in order of arrival is read to its end first.
        block_tokens: what one of ``hash_ids`` stands for, where that is not the format's own number.
        sessions: ``cumulative``: rows with a ``session_id`` have the lengths and blocks of whole prompts; ``deltas``: of what is new in
            each turn, which comes ``delay`` after the one before. With ``Session ID`` either makes turns (``in_turns``).

    Raises:
        ConfigError: no such file, unknown format, or a bad line, with its number.
    """
    rows: list[TraceRow] = []
    failed, in_order, last = 0, True, float("-inf")
    with opened(path) as file:
        _, parsed = _parser(path, file, format, block_tokens, sessions)
        for row in parsed:
            if row.prompt_tokens < 1 or row.output_tokens < 1:
                failed += 1
                continue
            if len(rows) >= MOST_ROWS:
                raise bad(path, len(rows) + failed, None, f"a trace may have {MOST_ROWS:,} rows", "Cut the file.")
            in_order, last = in_order and row.arrival_s >= last, row.arrival_s
            rows.append(row)
            if in_order and limit is not None and len(rows) >= limit:
                break
    return Trace(tuple(sorted(rows, key=lambda row: row.arrival_s)[:limit]), failed)


def licence_of(path: Path, format: TraceFormat = "auto") -> str:
    """The licence of the published traces in the file's format. Raises ``ConfigError`` as ``read`` does."""
    with opened(path) as file:
        return _parser(path, file, format)[0]


def _parser(
    path: Path, file: TextIO, format: TraceFormat, block_tokens: int | None = None, sessions: Sessions = "refused"
) -> tuple[str, Iterator[TraceRow]]:
    """The licence of the published traces in the file's format, and its rows."""
    number, first = next(((n, line) for n, line in enumerate(lines(path, file), start=1) if line.strip()), (1, ""))
    file.seek(0)
    if format in JSON_FORMATS or (format == "auto" and first.lstrip().startswith("{")):
        name = shape_of(path, number, json_object(path, number, first)) if format == "auto" else format
        rows = read_jsonl(path, lines(path, file), name, block_tokens=block_tokens, sessions=sessions)
        return LICENCES[name], rows
    table = columns_of(path, first, format)
    if block_tokens is not None:
        message = f"A trace in the columns of {table.format} has no hash_ids."
        raise ConfigError("block_tokens", block_tokens, message, "Leave block_tokens out.")
    if sessions != "refused" and not has_sessions(first):
        message = f"This trace in the columns of {table.format} has no session_id: no Session ID with an Elapsed time."
        raise ConfigError("sessions", sessions, message, "Leave sessions out.")
    return table.licence, read_table(path, lines(path, file), table, sessions=sessions != "refused")
