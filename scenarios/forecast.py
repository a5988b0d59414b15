"""How long a run will take and how much it will hold at once: its requests served on paper, by the rates of the machine.

The model of the machine is the one that scenarios are sized by, every technique off: a prompt takes its tokens by the prefill rate, a
decode step of n requests lies on the line through the two that were timed. Requests are admitted in the order of their arrival, as many
as there are places; the pool is taken to be large enough, which is what its need is worked out for.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import MachineRates


@dataclass(frozen=True)
class Expected:
    """One request beforehand. ``arrival_s``: after the start, or after the end of request ``after`` (its place in the list)."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    after: int | None = None


@dataclass(frozen=True)
class Forecast:
    """``run_s``: from the first request to the last answer; the rest are the most at any one moment. ``tokens``: in the KV pool."""

    run_s: float
    running: int
    waiting: int
    tokens: int
    blocks: int


def forecast(requests: Sequence[Expected], rates: MachineRates, places: int, block_size: int) -> Forecast:
    """Serve the requests on paper. ``places``: the most requests that run at once."""
    return _Paper(requests, rates, places, block_size).served()


class _Paper:
    """A run on paper. Steps are counted over all of it, so a request ends at a step that is known once it is admitted."""

    def __init__(self, requests: Sequence[Expected], rates: MachineRates, places: int, block_size: int) -> None:
        self.requests, self.rates, self.places, self.block_size = requests, rates, places, block_size
        self.to_come = [(r.arrival_s, n) for n, r in enumerate(requests) if r.after is None]
        heapq.heapify(self.to_come)
        self.followers: dict[int, list[int]] = {}
        for n, request in enumerate(requests):
            if request.after is not None:
                self.followers.setdefault(request.after, []).append(n)
        self.queue: deque[int] = deque()
        self.running: list[tuple[int, int]] = []  # the step a request ends at, and which one it is
        self.now_s = self.first_s = self.to_come[0][0] if self.to_come else 0.0
        self.step = self.tokens = 0
        self.most = Forecast(0.0, 0, 0, 0, 0)

    def served(self) -> Forecast:
        while self.to_come or self.queue or self.running:
            if not self.running and not self.queue:
                self.now_s = max(self.now_s, self.to_come[0][0])
            self._admit()
            self._look()
            if self.running:
                self._decode()
        return Forecast(
            self.now_s - self.first_s, self.most.running, self.most.waiting, self.most.tokens, self.most.blocks
        )

    def _admit(self) -> None:
        while self._arrived() and len(self.running) < self.places:
            n = self.queue.popleft()
            request = self.requests[n]
            self.now_s += request.prompt_tokens / self.rates.prefill_tokens_per_s  # which gives the first token, too
            self.tokens += request.prompt_tokens + 1
            heapq.heappush(self.running, (self.step + request.output_tokens - 1, n))

    def _arrived(self) -> bool:
        """Whether somebody waits who has arrived by now."""
        while self.to_come and self.to_come[0][0] <= self.now_s:
            self.queue.append(heapq.heappop(self.to_come)[1])
        return bool(self.queue)

    def _look(self) -> None:
        self._arrived()
        waiting = len(self.queue) if len(self.running) == self.places else 0
        blocks = math.ceil(self.tokens / self.block_size) + len(self.running)  # the last block of each is half empty
        most = self.most
        self.most = Forecast(
            0.0,
            max(most.running, len(self.running)),
            max(most.waiting, waiting),
            max(most.tokens, self.tokens),
            max(most.blocks, blocks),
        )

    def _decode(self) -> None:
        """As many steps as nobody comes or goes in."""
        many = len(self.running)
        step_s = self.rates.step_s(many)
        steps = max(0, self.running[0][0] - self.step)
        if self.to_come and many < self.places:
            until_next = math.ceil((self.to_come[0][0] - self.now_s) / step_s) if step_s > 0 else steps
            steps = min(steps, max(1, until_next))
        self.now_s += steps * step_s
        self.step += steps
        self.tokens += steps * many
        self._look()
        while self.running and self.running[0][0] <= self.step:
            _, n = heapq.heappop(self.running)
            self.tokens -= self.requests[n].prompt_tokens + self.requests[n].output_tokens
            for follower in self.followers.get(n, ()):
                heapq.heappush(self.to_come, (self.now_s + self.requests[follower].arrival_s, follower))
