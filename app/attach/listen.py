"""Listening to an engine's ZeroMQ publishers: messages as they come, and how many could not be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from app.attach.messages import MOST_BYTES, Heard, NotAMessage, Told
from app.attach.replay import Replay
from app.errors import LabError

Take = Callable[[Sequence[bytes]], Told | None]
MOST_WAITING = 100_000  # messages held by the socket; what comes beyond is lost, and seen by its number
SILENT = (
    " vLLM's publisher waits to be connected to only where its endpoint names ipc:// or a * (tcp://*:5557); at "
    "tcp://127.0.0.1:5557 it connects, as this reader does, and neither hears the other."
)


class Listener(Heard):
    """One subscription."""

    def __init__(
        self, option: str, address: str, take: Take, heard: Callable[[Told], None], replay: Replay | None = None
    ) -> None:
        super().__init__()
        self.option, self.address, self.replay = option, address, replay
        self._take, self._heard = take, heard

    def words(self) -> str:
        """What came, for who watches; where nothing did, what may be why."""
        if self.messages:
            again = f" {self.replay.words()}" if self.replay else ""
            return f"{self.counted(f'from {self.address}')}{again}"
        why = SILENT if self.option == "--kv-events" and self.address.startswith("tcp://") else ""
        return f"No messages from {self.address}.{why}"

    async def run(self) -> None:
        """Until cancelled. A publisher that is not there yet is waited for, as ZeroMQ does.

        Raises ``LabError`` where ZeroMQ refuses the address.
        """
        import zmq
        import zmq.asyncio

        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVHWM, MOST_WAITING)
            socket.set(zmq.MAXMSGSIZE, MOST_BYTES)
            socket.set(zmq.SUBSCRIBE, b"")
            try:
                socket.connect(self.address)
            except zmq.ZMQError as error:
                raise LabError(
                    "bad-option",
                    field=self.option,
                    value=self.address,
                    message=f"ZeroMQ does not take this address: {error}.",
                    mend="Such as tcp://127.0.0.1:5557",
                ) from error
            while True:
                frames: list[bytes] = await socket.recv_multipart()
                for lost in await self.replay.before(context, frames) if self.replay else ():
                    self._one(lost)
                self.messages += 1
                self._one(frames)
                if self.messages % 1000 == 0:
                    await asyncio.sleep(0)

    def _one(self, frames: Sequence[bytes]) -> None:
        try:
            told = self._take(frames)
        except NotAMessage as error:
            self.misunderstood(str(error))
            return
        if told is not None:
            self._heard(told)
