"""Traces of one JSON object a line: Mooncake's and Bailian's.

They share four keys and differ in what these mean, so each row says by its other keys which it is:

    Mooncake   timestamp in ms, a hash per 512 tokens; nothing else, or a session_id
    Bailian    timestamp in s, a hash per 16 tokens, chat_id, parent_chat_id, turn, type

How many hashes stand for how many tokens is checked on every row, so a file of other blocks is refused and not misread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.config import ConfigError
from scenarios.traces.rows import TraceRow, bad, count, number, refuse_unknown

Sessions = Literal["refused", "cumulative", "deltas"]

READ = ("timestamp", "input_length", "output_length", "hash_ids")
HARMLESS = ("id", "request_id", "model")  # names of things, which change nothing
CHAT_KEYS = ("chat_id", "parent_chat_id", "turn", "type")
REFUSED = {
    "delay": "times a turn after the one before, which is not replayed",
    "text_input": "holds a prompt's text, which is not replayed",
    "messages": "holds a prompt's text, which is not replayed",
    "payload": "holds a whole request, which is not replayed",
    "tools": "holds part of a prompt, which is not replayed",
    "priority": "is not replayed",
}


@dataclass(frozen=True)
class Shape:
    """What the four common keys mean in a format."""

    per_second: float  # units of timestamp
    block_tokens: int
    keys: tuple[str, ...]


SHAPES = {
    "mooncake": Shape(1e3, 512, (*READ, *HARMLESS, "session_id")),
    "bailian": Shape(1.0, 16, (*READ, *HARMLESS, *CHAT_KEYS)),
}


def shape_of(path: Path, line: int, record: Mapping[str, Any]) -> str:
    """The format a row shows itself to be in. Raises ``ConfigError`` where it shows two."""
    chat = [key for key in CHAT_KEYS if key in record]
    if chat and "session_id" in record:
        raise bad(path, line, chat[0], f"it has both {chat[0]!r} (Bailian) and 'session_id' (Mooncake)")
    return "bailian" if chat else "mooncake"


def read_jsonl(
    path: Path, lines: Iterable[str], format: str, *, block_tokens: int | None = None, sessions: Sessions = "refused"
) -> Iterator[TraceRow]:
    """The rows. ``block_tokens``: where a hash stands for other than the format's number of tokens. ``sessions``: as ``traces.read``."""
    shape = SHAPES[format]
    began: dict[str, Any] = {}  # timestamp of each session's first row
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        record = json_object(path, line, text)
        if shape_of(path, line, record) != format:
            keys = "without" if format == "bailian" else "with"
            raise bad(path, line, sorted(record), f"a row {keys} a chat_id is none of format {format}")
        deltas = sessions == "deltas" and record.get("session_id") is not None
        refuse_unknown(path, line, record, (*shape.keys, "delay") if deltas else shape.keys, REFUSED)
        if "session_id" in record and sessions == "refused":
            raise _which_lengths(path, line, record["session_id"])
        if not deltas:
            yield _row(path, line, record, shape, block_tokens or shape.block_tokens)
            continue
        session = str(record["session_id"])
        given: dict[str, Any] = {
            "timestamp": began.get(session),
            "hash_ids": [],
        } | record  # a later turn may leave its moment out
        row = _row(path, line, given, shape, block_tokens or shape.block_tokens)
        delay_s = number(path, line, {"delay": 0} | record, "delay") / shape.per_second
        began.setdefault(session, given["timestamp"])
        yield replace(row, in_session=False, session=session, delay_s=delay_s)


def _row(path: Path, line: int, record: Mapping[str, Any], shape: Shape, block_tokens: int) -> TraceRow:
    blocks = record.get("hash_ids")
    if not isinstance(blocks, list) or not all(isinstance(b, int) and not isinstance(b, bool) for b in blocks):
        raise bad(path, line, blocks, "hash_ids is missing or not a list of whole numbers")
    prompt, output = (count(path, line, record, key) for key in ("input_length", "output_length"))
    if blocks and abs(len(blocks) - prompt / block_tokens) > 1:
        raise bad(
            path,
            line,
            len(blocks),
            f"{prompt:,} tokens have {len(blocks)} hash_ids, so a block is not {block_tokens} tokens",
            "Say what a block is: arrivals.block_tokens.",
        )
    turn = count(path, line, record, "turn") if "turn" in record else 1
    parent, medium = record.get("parent_chat_id", -1), record.get("type", "text")
    if not isinstance(medium, str) or len(medium) > 40:
        raise bad(path, line, medium, "type is not a word")
    return TraceRow(
        number(path, line, record, "timestamp") / shape.per_second,
        prompt,
        output,
        tuple(blocks),
        block_tokens,
        medium=medium,
        in_session=turn > 1 or parent not in (-1, None) or record.get("session_id") is not None,
    )


def json_object(path: Path, line: int, text: str) -> dict[str, Any]:
    """A line's object. Raises ``ConfigError`` where it is none."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise bad(path, line, text.strip()[:80], f"not JSON ({error.msg})") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or endless nesting
        raise bad(path, line, text.strip()[:80], "not JSON that can be read") from None
    if not isinstance(record, dict):
        raise bad(path, line, text.strip()[:80], "not a JSON object")
    return record


def _which_lengths(path: Path, line: int, session: Any) -> ConfigError:
    return bad(
        path,
        line,
        session,
        "it has a session_id, and some writers give the whole prompt of each turn, others only what is new in it",
        "If input_length and hash_ids are those of whole prompts, say so: arrivals.sessions=cumulative; if of what is new in each turn: "
        "arrivals.sessions=deltas.",
    )
