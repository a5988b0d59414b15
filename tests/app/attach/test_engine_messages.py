"""ZeroMQ messages of engines, packed here as the formats say: read, counted, and their gaps seen by number."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.attach.messages import ForwardPasses, KvEvents, NotAMessage, Told
from tests.examples import examples


def frames(number: int, payload: Any) -> list[bytes]:
    return [b"kv-events", struct.pack(">q", number), msgpack.packb(payload)]


def stored(*hashes: Any, array: bool = False, medium: str = "GPU") -> Any:
    if array:
        return ["BlockStored", list(hashes), None, [1] * 16 * len(hashes), 16, None, medium]
    about = {
        "block_hashes": list(hashes),
        "parent_block_hash": None,
        "token_ids": [1],
        "block_size": 16,
        "lora_id": None,
    }
    return {"type": "BlockStored", **about, "medium": medium, "session_id": "new field"}


def removed(*hashes: Any, array: bool = False, medium: str = "GPU") -> Any:
    return ["BlockRemoved", list(hashes), medium] if array else {
        "type": "BlockRemoved", "block_hashes": list(hashes), "medium": medium,
    }  # fmt: skip


def values(told: Told) -> dict[str, float]:
    return {name: value for name, value, _ in told.figures}


@pytest.mark.parametrize("array", [True, False], ids=["events are arrays", "events are maps"])
def test_stored_and_removed_blocks_are_counted(array: bool) -> None:
    events = KvEvents()
    first = events.take(frames(0, [1.5, [stored(1, b"\x02" * 32, array=array)], 3]))
    assert (values(first), first.worker, first.lost) == (
        {"blocks_stored": 2, "blocks_removed": 0, "cache_cleared": 0, "blocks_held": 2}, 3, 0,
    )  # fmt: skip
    again = events.take(frames(1, [1.6, [stored(1, array=array), removed(b"\x02" * 32, array=array)], 3]))
    assert values(again)["blocks_held"] == 1
    copy = events.take(frames(2, [1.7, [stored(1, array=array, medium="CPU_PINNED")], 3]))
    assert values(copy)["blocks_held"] == 2, "a copy in host memory is a block of its own"


def test_after_a_gap_what_is_held_is_not_known_until_the_cache_is_cleared() -> None:
    events = KvEvents()
    events.take(frames(5, [0.0, [stored(1)], None]))
    lost = events.take(frames(9, [0.1, [stored(2)], None]))
    assert lost.lost == 3
    assert "blocks_held" not in values(lost)
    cleared = events.take(frames(10, [0.2, [{"type": "AllBlocksCleared"}], None]))
    assert values(cleared)["blocks_held"] == 0
    anew = events.take(frames(0, [0.3, [stored(7)]]))
    assert anew.lost == 1, "a publisher that began anew"


def passes(counter: int, wall: float = 0.02, **more: Any) -> list[bytes]:
    scheduled = {
        "num_prefill_requests": 2, "sum_prefill_tokens": 300, "var_prefill_length": 1.0, "sum_prefill_kv_tokens": 64,
        "num_decode_requests": 5, "sum_decode_kv_tokens": 4000, "var_decode_kv_tokens": 2.0,
    }  # fmt: skip
    queued = {"num_prefill_requests": 4, "sum_prefill_tokens": 800, "num_decode_requests": 1}
    payload = {"version": 1, "worker_id": "w", "dp_rank": 1, "counter_id": counter, "wall_time": wall}
    return [msgpack.packb(payload | {"scheduled_requests": scheduled, "queued_requests": queued} | more)]


def test_a_forward_pass_is_read_by_name_with_the_clock_it_names() -> None:
    reader = ForwardPasses()
    told = reader.take(passes(10))
    assert told is not None
    assert values(told) == {
        "forward_s": 0.02, "prefill_requests": 2, "prefill_tokens": 300, "decode_requests": 5, "decode_kv_tokens": 4000,
        "queued_requests": 5,
    }  # fmt: skip
    assert (told.worker, told.clock, told.lost, told.span_s) == (1, "gpu span", 0, 0.02)
    later = reader.take([b"", struct.pack(">q", 99), *passes(13, timing_scope="schedule_to_update")])
    assert later is not None
    assert (later.clock, later.lost) == ("engine wall", 2)


def test_a_heartbeat_tells_no_pass_but_counts() -> None:
    reader = ForwardPasses()
    assert reader.take(passes(1, wall=0.0)) is None
    after = reader.take(passes(2))
    assert after is not None
    assert after.lost == 0


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [b"a"] * 4,
        [b"", b"short", b"\x90"],
        [b"", struct.pack(">q", -1), b""],
        [b"\xc1"],
        [msgpack.packb([1.0])],
        [msgpack.packb([1.0, [17]])],
        [msgpack.packb({"version": 2, "wall_time": 1.0})],
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(wrong: list[bytes]) -> None:
    for take in (KvEvents().take, ForwardPasses().take):
        with pytest.raises(NotAMessage, match=r"\w"):
            take(wrong)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_frames_are_read_or_refused(drawn: list[bytes]) -> None:
    for take in (KvEvents().take, ForwardPasses().take):
        try:
            take(drawn)
        except NotAMessage:
            continue


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.dictionaries(st.sampled_from(["wall_time", "dp_rank", "counter_id", "scheduled_requests", "worker_id"]), JSON),
    JSON,
)
def test_any_payload_is_read_or_refused(fields: dict[str, Any], drawn: Any) -> None:
    for take, payload in (
        (ForwardPasses().take, fields),
        (KvEvents().take, [0.0, [{"type": "BlockStored", "block_hashes": drawn}], drawn]),
        (KvEvents().take, drawn),
    ):
        try:
            take([msgpack.packb(payload)])
        except NotAMessage:
            continue
