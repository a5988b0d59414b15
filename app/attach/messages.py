"""Messages that engines publish over ZeroMQ: events of the KV cache (vLLM, SGLang) and forward-pass metrics (SGLang,
and vLLM behind Dynamo's scheduler).

Frames are ``[topic, sequence number of 8 bytes, payload]`` or the payload alone; payloads are MessagePack. A batch of
events is an array ``[time stamp, events, data-parallel rank]``, an event a map tagged ``type`` or an array that begins
with its tag. Forward-pass metrics are maps, read by name: fields were inserted between versions.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

MOST_HASHES = 2_000_000  # blocks whose names are remembered
MOST_BYTES = 32 << 20  # of a message
MOST_ITEMS = 1 << 20  # of an array or a map in one
LARGEST_RANK = 2**31 - 1
FPM_VERSION = 1


class NotAMessage(ValueError):
    """Frames that are no message of the kind; the message says why."""


class Heard:
    """How many messages came; how many of them were not understood (``unread``), and ``why`` the first was not."""

    def __init__(self) -> None:
        self.messages, self.unread, self.why = 0, 0, ""

    def misunderstood(self, why: str) -> None:
        self.unread += 1
        self.why = self.why or why

    def counted(self, whose: str) -> str:
        """In a sentence. ``whose``: which messages they are."""
        unread = f", {self.unread:,} of them not understood ({self.why})" if self.unread else ""
        return f"{self.messages:,} messages {whose}{unread}."


@dataclass
class Told:
    """What a message says: rows' ``name`` and ``value``, whose, on which clock, and what was lost before it."""

    figures: list[tuple[str, float, bool]]  # name, value, whether it is a count
    worker: int | None
    clock: str
    lost: int
    span_s: float | None = None


@dataclass
class Sequence64:
    """Numbers that rise by one; tells how many were left out. A smaller one is a publisher that began anew."""

    last: int | None = None

    def lost(self, number: int) -> int:
        before, self.last = self.last, number
        if before is None or number == before:
            return 0
        return number - before - 1 if number > before else 1 + max(0, number)


def number_of(frames: Sequence[bytes]) -> int | None:
    """Sequence number of a message, -1 where a replay ends; None of one that has none."""
    number: int | None = struct.unpack(">q", frames[1])[0] if len(frames) == 3 and len(frames[1]) == 8 else None
    return number


def frames_of(frames: Sequence[bytes]) -> tuple[int | None, Any]:
    """Sequence number, where there is one, and payload. Raises ``NotAMessage``."""
    if not 1 <= len(frames) <= 3 or sum(map(len, frames)) > MOST_BYTES:
        raise NotAMessage(f"{len(frames)} frames of {sum(map(len, frames)):,} bytes")
    number = number_of(frames)
    if len(frames) == 3 and number is None:
        raise NotAMessage(f"a sequence number of {len(frames[1])} bytes")
    if number is not None and number < 0:
        raise NotAMessage("the end of a replay")
    try:
        payload = msgpack.unpackb(
            frames[-1],
            raw=False,
            unicode_errors="replace",
            strict_map_key=False,
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_ITEMS,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise NotAMessage(f"no MessagePack ({type(error).__name__})") from error
    return number, payload


@dataclass
class KvEvents:
    """A publisher's events of the KV cache, one batch after the other."""

    _numbers: Sequence64 = field(default_factory=Sequence64)
    _held: dict[int | None, set[Any]] = field(default_factory=dict)  # by rank
    _whole: bool = True  # no batch was lost, so what is held is known

    def take(self, frames: Sequence[bytes]) -> Told:
        """Raises ``NotAMessage``."""
        number, payload = frames_of(frames)
        lost = 0 if number is None else self._numbers.lost(number)
        self._whole &= lost == 0
        if not isinstance(payload, list) or len(payload) < 2 or not isinstance(payload[1], list):
            raise NotAMessage("no batch of events")
        rank = _rank(payload[2] if len(payload) > 2 else None)
        held = self._held.setdefault(rank, set())
        counts = dict.fromkeys(("blocks_stored", "blocks_removed", "cache_cleared"), 0)
        for event in payload[1]:
            kind, about = _event(event)
            if kind == "AllBlocksCleared":
                counts["cache_cleared"] += 1
                held.clear()
                self._whole = True
                continue
            hashes = about.get("block_hashes")
            names = {_named(each, about) for each in hashes if _can_name(each)} if isinstance(hashes, list) else set()
            if kind == "BlockStored":
                counts["blocks_stored"] += len(names)
                held |= names
            elif kind == "BlockRemoved":
                counts["blocks_removed"] += len(names)
                held -= names
        if sum(map(len, self._held.values())) > MOST_HASHES:
            held.clear()
            self._whole = False
        figures: list[tuple[str, float, bool]] = [(name, count, True) for name, count in counts.items()]
        if self._whole:
            figures.append(("blocks_held", len(held), False))
        return Told(figures, rank, "engine wall", lost)


def _event(event: Any) -> tuple[str, Mapping[str, Any]]:
    """Tag and fields of an event, a map or an array. Raises ``NotAMessage``."""
    if isinstance(event, dict):
        return str(event.get("type")), event
    if isinstance(event, list) and event:
        kind = str(event[0])
        about: dict[str, Any] = {"block_hashes": event[1] if len(event) > 1 else None}
        place = {"BlockStored": 6, "BlockRemoved": 2}.get(kind)
        if place is not None and len(event) > place:
            about["medium"] = event[place]
        return kind, about
    raise NotAMessage("an event that is neither a map nor an array")


def _can_name(each: Any) -> bool:
    return isinstance(each, int | bytes | str)


def _named(each: Any, about: Mapping[str, Any]) -> tuple[Any, str, str]:
    """A block's name is its hash where it lies: GPU and host memory may hold copies of one."""
    return (each, str(about.get("medium")), str(about.get("group_idx")))


@dataclass
class ForwardPasses:
    """A publisher's forward-pass metrics, one message after the other; each rank counts its own."""

    _numbers: dict[tuple[str, int | None], Sequence64] = field(default_factory=dict)

    def take(self, frames: Sequence[bytes]) -> Told | None:
        """None of a heartbeat, which tells no pass. Raises ``NotAMessage``."""
        number, payload = frames_of(frames)
        if not isinstance(payload, dict):
            raise NotAMessage("forward-pass metrics that are no map")
        if payload.get("version", FPM_VERSION) != FPM_VERSION:
            raise NotAMessage(f"forward-pass metrics of version {str(payload.get('version'))[:20]}")
        rank, counter = _rank(payload.get("dp_rank")), payload.get("counter_id", number)
        lost = 0
        if type(counter) is int and counter >= 0:
            numbers = self._numbers.setdefault((str(payload.get("worker_id"))[:100], rank), Sequence64())
            lost = min(numbers.lost(counter), 2**31 - 1)
            if len(self._numbers) > 10_000:
                raise NotAMessage("too many workers")
        wall_s = _number(payload.get("wall_time"))
        if wall_s is None or wall_s <= 0:
            return None
        scheduled, queued = payload.get("scheduled_requests"), payload.get("queued_requests")
        figures: list[tuple[str, float, bool]] = [("forward_s", wall_s, False)]
        for name, key in (
            ("prefill_requests", "num_prefill_requests"),
            ("prefill_tokens", "sum_prefill_tokens"),
            ("decode_requests", "num_decode_requests"),
            ("decode_kv_tokens", "sum_decode_kv_tokens"),
        ):
            value = _number(scheduled.get(key)) if isinstance(scheduled, dict) else None
            if value is not None:
                figures.append((name, value, False))
        if isinstance(queued, dict):
            waits = [_number(queued.get(key)) for key in ("num_prefill_requests", "num_decode_requests")]
            figures.append(("queued_requests", sum(each for each in waits if each is not None), False))
        scope = str(payload.get("timing_scope", ""))
        clock = "engine wall" if scope and "gpu" not in scope.lower() else "gpu span"
        return Told(figures, rank, clock, lost, wall_s)


def _rank(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= LARGEST_RANK else None


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return float(value) if known and math.isfinite(value) and value >= 0 else None
