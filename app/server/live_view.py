"""What clients of the live socket are told: for one at its own pace, or for a room of them at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from telemetry.status import Status, is_final, read_status

if TYPE_CHECKING:
    from app.lab import Lab

FIGURES_S = 0.5
Message = str | bytes  # JSON, or a frame of rows


@dataclass(eq=False)
class Told:
    """What one client has been told of a run."""

    cursor: dict[str, int] = field(default_factory=dict)  # table -> rows sent
    status: Status = field(default_factory=dict)  # without what is in flight
    figures_due: float = 0.0
    all: bool = False  # the figures of the whole run were sent
    at_rest: bool = False  # the run is over and everything was sent


class LiveView:
    """News of one run. Used by one thread at a time, never by the event loop's."""

    def __init__(self, lab: Lab, run_id: str) -> None:
        self._lab = lab
        self._run_id = run_id
        self._run_dir = lab.home.run_dir(run_id)
        self._spent_s = 0.0  # processor time since the last figures
        self._figures_at = time.monotonic()

    def news(self, clients: Sequence[Told]) -> list[list[Message]]:
        """Messages for each client with what changed since it was last told; with the figures goes what watching costs
        here, for one of them."""
        began = time.thread_time()
        messages = self._news(clients)
        self._spent_s += (time.thread_time() - began) / max(1, len(clients))
        return messages

    def _news(self, clients: Sequence[Told]) -> list[list[Message]]:
        live = self._lab.live(self._run_id)
        status = read_status(self._run_dir)
        kept: Status = {key: value for key, value in status.items() if key != "in_flight"}
        said = _json({"type": "status"} | kept)
        messages: list[list[Message]] = [[] for _ in clients]
        for client, mine in zip(clients, messages, strict=True):
            if kept != client.status:
                client.status = kept
                mine.append(said)
        for mine, frames in zip(messages, live.frames_since([client.cursor for client in clients]), strict=True):
            mine += frames
        now, figures, final = time.monotonic(), "", False
        for client, mine in zip(clients, messages, strict=True):
            client.at_rest = is_final(status) and not mine and client.all
            if now >= client.figures_due and not client.at_rest:
                if not figures:
                    read = self._lab.figures(self._run_id, status)
                    final = read["final"]
                    figures = _json({"type": "figures", **read, "watching_percent": self._cost(now)})
                client.figures_due = now + 0.9 * FIGURES_S  # rounds are not quite that far apart
                client.all = final
                mine.append(figures)
        return messages

    def _cost(self, now: float) -> float:
        """Percent of a core that one client took since the last figures."""
        percent = 100 * self._spent_s / max(1e-9, now - self._figures_at)
        self._spent_s, self._figures_at = 0.0, now
        return percent


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


class SharedView:
    """News of one run for everybody who watches it at the same slow pace: read and encoded once for all of them.

    A client that reads slowly does not ask in time for the next round, and gets a larger frame in the one after it.
    Used on the event loop only.
    """

    def __init__(self, lab: Lab, run_id: str, every_s: float) -> None:
        self._view = LiveView(lab, run_id)
        self._every_s = every_s
        self._asking: list[tuple[Told, asyncio.Future[list[Message]]]] = []
        self._rounds: asyncio.Task[None] | None = None

    @property
    def in_use(self) -> bool:
        return self._rounds is not None and not self._rounds.done()

    async def news(self, client: Told) -> list[Message]:
        """The next round's messages for this client."""
        answer: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
        self._asking.append((client, answer))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """A round at each pace, until nobody has asked for one."""
        loop = asyncio.get_running_loop()
        while asking := [(client, answer) for client, answer in self._asking if not answer.done()]:
            self._asking = []
            began = loop.time()
            try:
                answers = await run_in_threadpool(self._view.news, [client for client, _ in asking])
            except Exception as error:  # it is theirs: each says it to its own client
                for _, answer in asking:
                    if not answer.done():
                        answer.set_exception(error)
                return
            for (_, answer), messages in zip(asking, answers, strict=True):
                if not answer.done():
                    answer.set_result(messages)
            await asyncio.sleep(max(0.0, self._every_s - (loop.time() - began)))
