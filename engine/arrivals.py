"""Who comes when: requests that have not arrived yet, and users who give up.

``Arrivals`` knows all of a run's requests ahead; ``LiveArrivals`` hears of them while the run goes on.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol

from engine.config.door import Ask
from engine.config.errors import EngineError
from engine.request import Request


class Arrivals:
    """Requests in order of arrival; those that come ``after`` another one are released by that one's end.

    Raises:
        EngineError: two requests share a name, or one waits for a request that does not exist or (through others) for
            itself.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self._due: list[tuple[int, int, Request]] = []
        self._after: dict[str, list[Request]] = defaultdict(list)
        self._give_up: list[tuple[int, int, Request]] = []
        self.came = 0  # requests that have arrived
        self.outstanding = 0  # requests that have not arrived yet
        known: set[str] = set()
        for request in requests:
            if request.request_id in known:
                raise EngineError(
                    "bad-workload",
                    "request_id",
                    request.request_id,
                    "two requests have this name.",
                    "Give each its own request_id.",
                )
            known.add(request.request_id)
            self.outstanding += 1
            if request.spec.after is None:
                self._schedule(request, request.spec.arrival_ns)
            else:
                self._after[request.spec.after].append(request)
        self._check_chains(known)

    @property
    def next_ns(self) -> int | None:
        """When the next arrival or giving-up is due; None when there is none on the clock."""
        times = [queue[0][0] for queue in (self._due, self._give_up) if queue]
        return min(times, default=None)

    def pop_due(self, now_ns: int) -> list[Request]:
        """Requests that have arrived by now, in order."""
        arrived = []
        while self._due and self._due[0][0] <= now_ns:
            arrived.append(heapq.heappop(self._due)[2])
        self.outstanding -= len(arrived)
        self.came += len(arrived)
        for request in arrived:
            if request.spec.cancel_after_ns is not None:
                heapq.heappush(
                    self._give_up, (request.arrival_ns + request.spec.cancel_after_ns, request.index, request)
                )
        return arrived

    def pop_given_up(self, now_ns: int) -> list[Request]:
        """Requests whose users give up by now and that have not ended."""
        gone = []
        while self._give_up and self._give_up[0][0] <= now_ns:
            request = heapq.heappop(self._give_up)[2]
            if request.end_reason is None:
                gone.append(request)
        return gone

    def ended(self, request: Request, now_ns: int) -> None:
        """A request ended: whoever waited for it arrives ``arrival_ns`` later, carrying it where it continues it."""
        for follower in self._after.pop(request.request_id, ()):
            if follower.spec.continues:
                follower.carry(request)
            self._schedule(follower, now_ns + follower.spec.arrival_ns)

    def wait(self, seconds: float) -> None:
        """Nothing can be served now: wait so long, or less where somebody may come sooner than is known."""
        time.sleep(seconds)

    def due(self, now_ns: int) -> list[Request]:
        """Requests that have arrived by now and were not popped yet. Another thread may ask."""
        return [request for due, _, request in self._due.copy() if due <= now_ns]

    def never_came(self) -> list[Request]:
        """Requests that have not arrived, for the end of an aborted run."""
        rest = [entry[2] for entry in self._due] + [r for followers in self._after.values() for r in followers]
        return sorted(rest, key=lambda r: r.index)

    def _schedule(self, request: Request, arrival_ns: int) -> None:
        request.arrival_ns = arrival_ns
        heapq.heappush(self._due, (arrival_ns, request.index, request))

    def _check_chains(self, known: set[str]) -> None:
        reached = {entry[2].request_id for entry in self._due}
        frontier = list(reached)
        while frontier:
            names = [r.request_id for r in self._after.get(frontier.pop(), ())]
            reached.update(names)
            frontier += names
        for name, followers in self._after.items():
            if name not in known:
                raise EngineError(
                    "bad-workload",
                    "after",
                    name,
                    f"{followers[0].request_id!r} waits for a request that does not exist.",
                    "Name a request of this workload.",
                )
        if len(reached) != len(known):
            name = sorted(known - reached)[0]
            raise EngineError(
                "bad-workload",
                "after",
                name,
                "this request waits, through others, for itself.",
                "Break the circle of `after`.",
            )


class Callers(Protocol):
    """Where live requests come from, and who hears how they go on."""

    @property
    def is_open(self) -> bool:
        """Whether more may be asked."""
        ...

    def heard(self) -> tuple[list[Ask], list[int]]:
        """What was asked and given up (by number) since the last call, after saying what there is to say. Never
        waits."""
        ...

    def wait(self, seconds: float) -> None:
        """Until somebody says something, but no longer than this."""
        ...

    def ended(self, request: Request, now_ns: int) -> None:
        """A request is over; its ``end_reason`` and ``refusal`` say how."""
        ...


class LiveArrivals(Arrivals):
    """Requests that come from clients while the run goes on. Something is ``outstanding`` as long as more may come."""

    def __init__(self, callers: Callers, make: Callable[[Ask], Request], origin_ns: int) -> None:
        """
        Args:
            make: the request of what was asked, checked; one that cannot be served knows why (``Request.refusal``).
            origin_ns: the run's start on the machine's monotonic clock.
        """
        super().__init__(())
        self._callers = callers
        self._make = make
        self._origin_ns = origin_ns
        self._here: dict[int, Request] = {}  # arrived and not ended, by number
        self._given_up: list[int] = []
        self.outstanding = 1

    def pop_due(self, now_ns: int) -> list[Request]:
        asks, self._given_up = self._callers.heard()
        arrived = [self._make(ask) for ask in asks]
        for ask, request in zip(asks, arrived, strict=True):
            request.arrival_ns = max(0, ask.came_ns - self._origin_ns)
            self._here[request.index] = request
        self.came += len(arrived)
        if not self._callers.is_open:
            self.outstanding = 0
        return arrived

    def pop_given_up(self, now_ns: int) -> list[Request]:
        return [self._here[number] for number in self._given_up if number in self._here]

    def ended(self, request: Request, now_ns: int) -> None:
        self._here.pop(request.index, None)
        self._callers.ended(request, now_ns)

    def wait(self, seconds: float) -> None:
        self._callers.wait(seconds)
