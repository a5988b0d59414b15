"""Batches of KV events that were lost on the way, asked for again: vLLM and SGLang keep the last ones at their
``replay_endpoint``.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.attach.messages import MOST_BYTES, number_of

if TYPE_CHECKING:
    import zmq.asyncio

WAIT_S = 2.0  # for the next batch
MOST_BATCHES = 100_000
MOST_SUM = 256 << 20  # bytes


class Replay:
    """``batches`` that came again. One that did not answer is not asked again: ``silent``."""

    def __init__(self, address: str) -> None:
        self.address, self.batches, self.silent = address, 0, False
        self._last: int | None = None

    async def before(self, context: zmq.asyncio.Context, frames: Sequence[bytes]) -> list[list[bytes]]:
        """The batches between the one before and this one, in their order; none where none is missing or to be had."""
        number = number_of(frames)
        if number is None:
            return []
        last, self._last = self._last, number
        if last is None or number <= last + 1 or self.silent:
            return []
        again = await self._asked(context, last + 1, number)
        self.batches += len(again)
        return again

    async def _asked(self, context: zmq.asyncio.Context, first: int, end: int) -> list[list[bytes]]:
        """What comes between the empty frame and ``[topic,] number, payload``; the number -1 ends it."""
        import zmq

        again: dict[int, list[bytes]] = {}
        size = 0
        with context.socket(zmq.DEALER) as socket:
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.MAXMSGSIZE, MOST_BYTES)
            socket.connect(self.address)
            try:
                await asyncio.wait_for(socket.send_multipart([b"", struct.pack(">q", first)]), WAIT_S)
                while len(again) < MOST_BATCHES and size < MOST_SUM:
                    answer: list[bytes] = await asyncio.wait_for(socket.recv_multipart(), WAIT_S)
                    frames = [b"", *answer][-3:]
                    number = number_of(frames)
                    if number is None or number < 0:
                        break
                    if first <= number < end:
                        again[number] = frames
                        size += sum(map(len, frames))
            except TimeoutError:
                self.silent = True
        return [again[number] for number in sorted(again)]

    def words(self) -> str:
        """What came again, for who watches."""
        silence = " It did not answer in time and was not asked again." if self.silent else ""
        return f"{self.batches:,} lost batches came again from {self.address}.{silence}"
