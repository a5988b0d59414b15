"""Priorities that change while requests are served (FastSwitch, 2024): what fair serving does to a batch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from engine.request import Request

STARVING = 8  # draws in a row at which a request had no place; it then goes before all others


class Priorities:
    """Draws a level for each session every so many iterations.

    A session's levels depend on the seed, its number and how many draws there were, and on nothing else: runs of the
    same workload that differ in a technique draw the same.
    """

    def __init__(self, *, markov: bool, levels: int, every: int, seed: int, sessions: Mapping[int, int]) -> None:
        """
        Args:
            markov: up or down one level or unchanged, each with probability 1/3; else uniform.
            every: iterations from one draw to the next.
            sessions: of each request, by its number.
        """
        self._markov = markov
        self._levels = levels
        self._every = every
        self._seed = seed
        self._sessions = sessions
        self._drawn: dict[int, tuple[random.Random, int, int]] = {}  # session -> its stream, draws so far, level
        self._placeless: dict[int, int] = {}  # request -> draws in a row at which it waited
        self._iterations = 0
        self._draws = 0

    def begin(self, request: Request) -> None:
        """A request arrives: it has the level of its session."""
        request.level = self._level(self._sessions.get(request.index, request.index))

    def next_iteration(self, running: Sequence[Request], waiting: Sequence[Request]) -> bool:
        """An iteration is to be planned. True where new levels were drawn."""
        self._iterations += 1
        if self._iterations % self._every:
            return False
        self._draws += 1
        for request in running:
            self._placeless.pop(request.index, None)
            self.begin(request)
        for request in waiting:
            draws = self._placeless[request.index] = self._placeless.get(request.index, 0) + 1
            self.begin(request)
            if draws >= STARVING:
                request.level = self._levels
        return True

    def forget(self, request: Request) -> None:
        self._placeless.pop(request.index, None)

    def _level(self, session: int) -> int:
        stream, draws, level = self._drawn.get(session) or (random.Random(f"{self._seed}/{session}"), -1, -1)
        while draws < self._draws:
            draws += 1
            if level < 0 or not self._markov:
                level = stream.randrange(self._levels)
            else:
                level = min(self._levels - 1, max(0, level + stream.choice((-1, 0, 1))))
        self._drawn[session] = (stream, draws, level)
        return level


def sessions_of(requests: Iterable[Request]) -> dict[int, int]:
    """The session of each request, by number: that of the request it comes after, else one of its own."""
    requests = list(requests)
    by_name = {r.request_id: r for r in requests}
    sessions: dict[int, int] = {}
    for request in requests:
        chain = [request]
        while (after := chain[-1].spec.after) in by_name and chain[-1].index not in sessions:
            chain.append(by_name[after])
        session = sessions.get(chain[-1].index, chain[-1].index)
        sessions.update((r.index, session) for r in chain)
    return sessions
