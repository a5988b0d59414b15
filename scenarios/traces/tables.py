"""Traces with a header and commas: the Azure traces, in their own columns or Vidur's, and BurstGPT."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine.config import ConfigError
from scenarios.traces.rows import TraceRow, bad, count, number, refuse_unknown

SESSION, ELAPSED = "Session ID", "Elapsed time"


@dataclass(frozen=True)
class Columns:
    """A format by its columns."""

    format: str  # as a scenario names it
    arrival: str
    prompt: str
    output: str
    others: tuple[str, ...] = ()  # read, or known to change nothing
    licence: str = ""

    @property
    def needed(self) -> tuple[str, str, str]:
        return self.arrival, self.prompt, self.output


VIDUR = Columns(
    "splitwise",
    "arrived_at",
    "num_prefill_tokens",
    "num_decode_tokens",
    ("", "request_id", "num_total_tokens", "pd_ratio"),
    "published with microsoft/vidur under MIT",
)
AZURE = Columns(
    "splitwise",
    "TIMESTAMP",
    "ContextTokens",
    "GeneratedTokens",
    ("NumImages",),
    "published in Azure/AzurePublicDataset under CC-BY-4.0",
)
BURSTGPT = Columns(
    "burstgpt",
    "Timestamp",
    "Request tokens",
    "Response tokens",
    (SESSION, ELAPSED, "Model", "Total tokens", "Log Type"),
    "published as BurstGPT under CC-BY-4.0",
)
TABLES = (BURSTGPT, VIDUR, AZURE)


def has_sessions(first: str) -> bool:
    """Whether a table says by its header whose turn each row is, and how long its answer took."""
    return {SESSION, ELAPSED} <= set(_header(first))


def columns_of(path: Path, first: str, format: str) -> Columns:
    """The format of a table by its header. Raises ``ConfigError`` where it is none, or has columns nobody would read."""
    header = _header(first)
    fitting = [table for table in TABLES if format in ("auto", table.format)]
    for table in fitting:
        if set(table.needed) <= set(header):
            twice = next((name for name in header if header.count(name) > 1), None)
            if twice is not None:
                raise bad(path, 1, twice, f"the column {twice!r} is there twice", "Remove one of them.")
            refuse_unknown(path, 1, header, (*table.needed, *table.others), {})
            return table
    wanted = "; ".join(f"{table.format}: {', '.join(table.needed)}" for table in fitting)
    raise ConfigError(
        "path",
        f"{path}:1",
        "The first line is not the header of a known trace format.",
        f"It needs the columns of one of: {wanted}.",
    )


def read_table(path: Path, lines: Iterable[str], table: Columns, *, sessions: bool = False) -> Iterator[TraceRow]:
    """The rows of a table whose header is its first line. ``sessions``: those of a session are its turns."""
    reader = csv.reader(lines)
    origin: float | None = None
    try:
        header = [name.strip() for name in next(reader)]
        for values in reader:
            if not any(values):
                continue
            line = reader.line_num
            if len(values) > len(header):
                raise bad(path, line, len(values), f"it has {len(values)} values for {len(header)} columns")
            record = dict(zip(header, values, strict=False))
            if table is AZURE:
                moment = _moment(path, line, record[table.arrival])
                origin = moment if origin is None else origin
                arrival = moment - origin
            else:
                arrival = number(path, line, record, table.arrival)
            session = (record.get(SESSION) or "").strip()
            turns = sessions and bool(session)
            yield TraceRow(
                arrival,
                count(path, line, record, table.prompt),
                count(path, line, record, table.output),
                images=count(path, line, record, "NumImages") if record.get("NumImages") else 0,
                in_session=bool(session) and not sessions,
                session=session if turns else None,
                elapsed_s=number(path, line, record, ELAPSED) if turns else None,
            )
    except csv.Error as error:
        raise bad(path, reader.line_num, None, str(error)) from None


def _header(first: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([first]), [])]
    except csv.Error:
        return []


def _moment(path: Path, line: int, text: str) -> float:
    """Seconds since 1970; a time without a zone is UTC, so that no clock change of this machine's zone gets into the gaps."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise bad(path, line, text, "TIMESTAMP is not a date and time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
