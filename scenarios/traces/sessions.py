"""Sessions of a trace whose rows have moments of the clock: turns that come after the answer to the one before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from scenarios.traces.rows import TraceRow


def in_turns(rows: Iterable[TraceRow], *, whole: bool) -> tuple[tuple[TraceRow, ...], int]:
    """The rows, those of a session as what is new in each turn, which comes as long after the answer as it did in the
    recorded service; and how many turns could not be.

    A row's ``elapsed_s`` is the time its answer took. ``whole``: prompts hold all that was said before. Where one is
    too short for that, its talk was cut, and it begins a session of its own.
    """
    before: dict[str, TraceRow] = {}  # of each session, as it was recorded
    parts: dict[str, int] = {}  # of each session: how often it began
    turns, cut = [], 0
    for row in rows:
        session, elapsed_s = row.session, row.elapsed_s
        if session is None or elapsed_s is None:
            turns.append(row)
            continue
        last = before.get(session)
        new = row.prompt_tokens
        if last is not None and whole:
            new -= last.prompt_tokens + last.output_tokens
        if new < 1:
            parts[session] = parts.get(session, 0) + 1
            last, new, cut = None, row.prompt_tokens, cut + 1
        before[session] = row
        pause_s = 0.0 if last is None else max(0.0, row.arrival_s - last.arrival_s - (last.elapsed_s or 0.0))
        name = f"{session} {parts[session]}" if session in parts else session
        turns.append(replace(row, prompt_tokens=new, session=name, delay_s=pause_s))
    return tuple(turns), cut
