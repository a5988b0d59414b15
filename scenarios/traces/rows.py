"""What a trace holds, and how a line that cannot be used is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import ConfigError

LONGEST_PROMPT = 1_000_000_000  # tokens; more is no count


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request. What cannot be served as it was recorded is kept here, to be counted and said."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = 0  # tokens of each but the last block; 0 where the trace has none
    images: int = 0
    medium: str = "text"  # or search, image, file, ...
    in_session: bool = (
        False  # a conversation's later turn, or one that has a session's name, served at its recorded moment
    )
    session: str | None = None  # whose turns give what is new in them, and come after one another
    delay_s: float = 0.0  # of such a turn, from the end of the one before it
    elapsed_s: float | None = None  # from its arrival to its answer's end, where its session is known by the clock


@dataclass(frozen=True)
class Trace:
    """The rows of a trace in order of arrival, how many failed requests were left out, and how many turns were cut off
    from what was said before.
    """

    rows: tuple[TraceRow, ...]
    failed: int
    cut: int = 0


def unserved(rows: Iterable[TraceRow]) -> list[str]:
    """What of these requests is not served as recorded, each in a few words for the run's labels."""
    listed = list(rows)
    pictured = [row.images for row in listed if row.images]
    others: dict[str, int] = {}
    for row in listed:
        if row.medium != "text":
            others[row.medium] = others.get(row.medium, 0) + 1
    chained = sum(row.in_session for row in listed)
    notes = []
    if pictured:
        notes.append(
            f"{len(pictured)} of {len(listed)} requests of the trace had images ({sum(pictured)} in all), served as text of the recorded lengths"
        )
    if others:
        counts = ", ".join(f"{count} {medium}" for medium, count in sorted(others.items()))
        notes.append(f"not all of the trace was plain text ({counts}), served as text of the recorded lengths")
    if chained:
        notes.append(
            f"{chained} of {len(listed)} requests belong to sessions of the trace, served at their recorded moments"
        )
    return notes


def number(path: Path, line: int, record: Mapping[str, Any], key: str) -> float:
    """A finite number of at least 0. Raises ``ConfigError`` for anything else."""
    value = record.get(key)
    try:
        parsed = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed) or parsed < 0:
        raise bad(path, line, value, f"{key} is missing or not a number of at least 0")
    return parsed


def count(path: Path, line: int, record: Mapping[str, Any], key: str) -> int:
    """A whole number of at least 0. Raises ``ConfigError`` for anything else."""
    parsed = number(path, line, record, key)
    if parsed != int(parsed):
        raise bad(path, line, record.get(key), f"{key} is not a whole number")
    if parsed > LONGEST_PROMPT:
        raise bad(path, line, record.get(key), f"{key} is above {LONGEST_PROMPT:,}")
    return int(parsed)


def bad(path: Path, line: int, value: Any, what: str, mend: str = "Mend or remove the line.") -> ConfigError:
    """The error for a line that cannot be used."""
    text = repr(value)
    shown = value if len(text) <= 200 else f"{text[:200]}..."
    return ConfigError(f"{path}:{line}", shown, f"Line {line} cannot be used: {what}.", mend)


def refuse_unknown(
    path: Path, line: int, names: Iterable[str], known: Iterable[str], refused: Mapping[str, str]
) -> None:
    """Every key or column is read, known to change nothing, or refused by name.

    ``refused``: keys that are understood but not replayed, each with the reason.
    """
    allowed = set(known)
    for name in names:
        if name in allowed:
            continue
        what = refused.get(name, "is not known here, so what it changes would be lost")
        raise bad(
            path,
            line,
            name,
            f"{name!r} {what}",
            f"Remove it if it changes nothing. Known: {', '.join(sorted(allowed))}.",
        )
