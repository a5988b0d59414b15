"""KV events that were lost on the way come again from a publisher that keeps them, over real ZeroMQ."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from app.attach import replay as replaying
from app.attach.address import watched_at
from app.attach.listen import Listener
from app.attach.messages import KvEvents, Told
from app.attach.replay import Replay
from app.errors import LabError
from tests.apart import apart
from tests.app.small_runs import wait_for

LOST = {4, 5, 6, 11}


def batch(number: int) -> bytes:
    stored = {"type": "BlockStored", "block_hashes": [number], "medium": "GPU"}
    return msgpack.packb([0.0, [stored], 0])


@contextmanager
def publishing(folder: Path, answers: bool, with_topic: bool, kept_from: int = 0) -> Iterator[tuple[str, str]]:
    """Batches 0 to 14 without those that are lost, which are to be had from the second address."""
    events, again = f"ipc://{folder}/events", f"ipc://{folder}/again"
    over = threading.Event()

    def run() -> None:
        with zmq.Context() as context, context.socket(zmq.PUB) as published, context.socket(zmq.ROUTER) as kept:
            for socket, address in ((published, events), (kept, again)):
                socket.set(zmq.LINGER, 0)
                socket.bind(address)
            topic = [b""] if with_topic else []
            sent = 0
            while not over.is_set():
                if sent == 0:
                    over.wait(0.3)  # a subscription takes a moment to arrive
                while sent < 15:
                    if sent not in LOST:
                        published.send_multipart([b"", struct.pack(">q", sent), batch(sent)])
                    sent += 1
                if kept.poll(20):
                    who, _, first = kept.recv_multipart()
                    for number in range(max(kept_from, struct.unpack(">q", first)[0]), 15 if answers else 0):
                        kept.send_multipart([who, b"", *topic, struct.pack(">q", number), batch(number)])
                    if answers:
                        kept.send_multipart([who, b"", *topic, struct.pack(">q", -1), b""])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield events, again
    finally:
        over.set()
        thread.join()


def heard(events: str, replay: Replay | None) -> tuple[list[Told], Listener]:
    """All that a listener told of the 15 batches."""
    told: list[Told] = []
    listener = Listener("--kv-events", events, KvEvents().take, told.append, replay)

    async def listen() -> None:
        work = asyncio.ensure_future(listener.run())
        await asyncio.to_thread(wait_for, lambda: listener.messages == 15 - len(LOST))
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    apart(lambda: asyncio.run(listen()))
    return told, listener


def figure(told: list[Told], name: str) -> list[float]:
    return [value for each in told for named, value, _ in each.figures if named == name]


@pytest.mark.parametrize("with_topic", [True, False], ids=["topic", "no topic"])
def test_lost_batches_come_again_and_are_counted_in_their_order(tmp_path: Path, with_topic: bool) -> None:
    with publishing(tmp_path, True, with_topic) as (events, again):
        told, listener = heard(events, replay := Replay(again))
    assert (len(told), sum(each.lost for each in told)) == (15, 0)
    assert figure(told, "blocks_held") == list(range(1, 16)), "so what is held stays known"
    assert replay.batches == len(LOST)
    assert listener.words() == f"11 messages from {events}. 4 lost batches came again from {again}."


def test_what_is_no_longer_kept_stays_lost(tmp_path: Path) -> None:
    with publishing(tmp_path, True, True, kept_from=6) as (events, again):
        told, _ = heard(events, replay := Replay(again))
    assert (replay.batches, sum(each.lost for each in told)) == (2, 2)


def test_one_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "WAIT_S", 0.2)
    with publishing(tmp_path, False, True) as (events, again):
        told, listener = heard(events, replay := Replay(again))
    assert (replay.silent, replay.batches, sum(each.lost for each in told)) == (True, 0, len(LOST))
    assert "did not answer in time" in listener.words()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kv_replay": "tcp://127.0.0.1:5558"}, "--kv-replay"),
        ({"kv_events": "tcp://127.0.0.1:5557", "kv_replay": "http://127.0.0.1:5558"}, "--kv-replay"),
        ({"kv_events": "tcp://127.0.0.1:5557", "kv_replay": "tcp://10.0.0.1:5558"}, "--kv-replay"),
    ],
)
def test_an_address_that_is_none_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(LabError) as refused:
        watched_at("http://127.0.0.1:8000", **options)
    assert refused.value.field == field
