"""Recorded traces of real services: who came when, with how long a prompt, and how long an answer.

The project ships none. Formats, told apart by their first line:

- ``mooncake``: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length`` and ``hash_ids``, one for each
  512 tokens of the prompt.
- ``splitwise``: CSV with ``arrived_at`` (s), ``num_prefill_tokens``, ``num_decode_tokens`` (Vidur's form of the Azure
  traces), or the original ``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``.
- ``burstgpt``: CSV with ``Timestamp`` (s), ``Request tokens``, ``Response tokens`` and more; newer files add
  ``Session ID`` and ``Elapsed time``.

A response (or prompt) of 0 tokens is a failed request of the recorded service: it is skipped and counted.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from engine.config import ConfigError

TraceFormat = Literal["auto", "mooncake", "splitwise", "burstgpt"]
MOONCAKE_BLOCK_TOKENS = 512
CSV_COLUMNS = {
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
    "splitwise": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    "splitwise (Azure)": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
}


LICENCES = {
    "mooncake": "published by kvcache-ai/Mooncake under Apache-2.0",
    "splitwise": "published with microsoft/vidur under MIT",
    "splitwise (Azure)": "published in Azure/AzurePublicDataset under CC-BY-4.0",
    "burstgpt": "published as BurstGPT under CC-BY-4.0",
}
"""Of the published traces in each format; a scenario may state another."""


@dataclass(frozen=True)
class TraceRow:
    """One recorded request."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = MOONCAKE_BLOCK_TOKENS


@dataclass(frozen=True)
class Trace:
    """The rows of a trace in order of arrival, and how many failed requests were left out."""

    rows: tuple[TraceRow, ...]
    failed: int


def read(path: Path, format: TraceFormat = "auto", limit: int | None = None) -> Trace:
    """Read a trace; with ``limit``, stop after so many good rows (then the file must be in order of arrival).

    Raises:
        ConfigError: no such file, unknown format, or a bad line, with its number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            parse = _parser(path, file, format)
            rows: list[TraceRow] = []
            failed = 0
            for row in parse:
                if row.prompt_tokens < 1 or row.output_tokens < 1:
                    failed += 1
                    continue
                rows.append(row)
                if limit is not None and len(rows) >= limit:
                    break
    except OSError as error:
        raise ConfigError(
            "path", str(path), f"The trace cannot be read: {error.strerror}.", "Give the path of a trace file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("path", str(path), "The trace is not text.", "Unpack it first if it is compressed.") from None
    return Trace(tuple(sorted(rows, key=lambda row: row.arrival_s)), failed)


def licence_of(path: Path, format: TraceFormat = "auto") -> str:
    """The licence of the published traces in the file's format. Raises ``ConfigError`` as ``read`` does."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    if format == "mooncake" or first.lstrip().startswith("{"):
        return LICENCES["mooncake"]
    header = {name.strip() for name in next(csv.reader([first]), [])}
    return next((LICENCES[name] for name, wanted in CSV_COLUMNS.items() if set(wanted) <= header), "not stated")


def _parser(path: Path, file: TextIO, format: TraceFormat) -> Iterator[TraceRow]:
    first = file.readline()
    file.seek(0)
    if format == "mooncake" or (format == "auto" and first.lstrip().startswith("{")):
        return _mooncake(path, file)
    header = [name.strip() for name in next(csv.reader([first]), [])]
    for name, wanted in CSV_COLUMNS.items():
        if (format == "auto" or name.startswith(format)) and set(wanted) <= set(header):
            return _csv(path, file, wanted)
    wanted_words = "; ".join(
        f"{name}: {', '.join(c)}" for name, c in CSV_COLUMNS.items() if format == "auto" or name.startswith(format)
    )
    raise ConfigError(
        "path",
        f"{path}:1",
        "The first line is not the header of a known trace format.",
        f"It needs the columns of one of: {wanted_words}.",
    )


def _mooncake(path: Path, file: TextIO) -> Iterator[TraceRow]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad(path, number, line.strip()[:80], f"not JSON ({error.msg})") from None
        if not isinstance(record, dict):
            raise _bad(path, number, line.strip()[:80], "not a JSON object")
        blocks = record.get("hash_ids")
        if not isinstance(blocks, list) or not all(isinstance(b, int) for b in blocks):
            raise _bad(path, number, blocks, "hash_ids is missing or not a list of whole numbers")
        arrival = _number(path, number, record, "timestamp") / 1e3
        prompt, output = (_count(path, number, record, key) for key in ("input_length", "output_length"))
        yield TraceRow(arrival, prompt, output, tuple(blocks))


def _csv(path: Path, file: TextIO, names: tuple[str, str, str]) -> Iterator[TraceRow]:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader)]
    origin: float | None = None
    for values in reader:
        if not any(values):
            continue
        record = dict(zip(header, values, strict=False))
        if names[0] == "TIMESTAMP":
            moment = _moment(path, reader.line_num, record[names[0]])
            origin = moment if origin is None else origin
            arrival = moment - origin
        else:
            arrival = _number(path, reader.line_num, record, names[0])
        prompt, output = (_count(path, reader.line_num, record, name) for name in names[1:])
        yield TraceRow(arrival, prompt, output)


def _number(path: Path, line: int, record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    try:
        number = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise _bad(path, line, value, f"{key} is missing or not a number of at least 0")
    return number


def _count(path: Path, line: int, record: Mapping[str, Any], key: str) -> int:
    number = _number(path, line, record, key)
    if number != int(number):
        raise _bad(path, line, record.get(key), f"{key} is not a whole number")
    return int(number)


def _moment(path: Path, line: int, text: str) -> float:
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise _bad(path, line, text, "TIMESTAMP is not a date and time") from None


def _bad(path: Path, line: int, value: Any, what: str) -> ConfigError:
    return ConfigError(f"{path}:{line}", value, f"Line {line} cannot be used: {what}.", "Mend or remove the line.")
