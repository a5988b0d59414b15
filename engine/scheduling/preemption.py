"""What becomes of the keys and values of a request that has to leave the pool: the contract, and ``Recompute``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from engine.request import Request


@dataclass(frozen=True, slots=True)
class Move:
    """Copies that have landed, for the ``swap`` rows; columns as there, times on the run's clock."""

    request: int
    direction: str
    asked_ns: int
    start_ns: int
    end_ns: int
    waited_ns: int
    tokens: int
    blocks: int
    blocks_kept: int
    copies: int
    bytes: int


class Preemption:
    """Decides what a preempted request loses. This one is ``Recompute``: everything, and it is computed again.

    Members of the family are named by ``Preemption.mode`` of the settings. They may keep blocks of a request that left
    (``in_transit``) until copies have landed, and hold requests that came back off the plan (``Request.arriving``)
    until theirs have.
    """

    name: ClassVar[str] = "recompute"
    free_tails: Sequence[int] = ()  # of the books, where a codec has exact tails
    fallbacks = 0  # preempted requests that had to be computed again for want of room

    def settle(self) -> None:
        """Take in the copies that have landed; called before an iteration is planned."""

    def out(self, request: Request) -> bool:
        """A running request is preempted: keep what it computed. False where that is not possible, or nothing.

        May shorten its block table to the blocks that can be freed at once. The caller frees these, and sets the
        request aside.
        """
        return False

    def tokens_of(self, request: Request) -> int:
        """Tokens whose keys and values a waiting request brings back with it."""
        return 0

    def back(self, request: Request) -> bool:
        """A waiting request with ``tokens_of`` has its blocks again: fill those that are not shared.

        Returns True when it may compute at once; else it is ``arriving``.
        """
        return True

    def free_some(self) -> bool:
        """Wait for blocks of requests that left, where there are any. True when some became free."""
        return False

    def wait(self) -> bool:
        """Wait for whatever lands next. False when nothing is under way."""
        return False

    def ahead(self, running: Sequence[Request], settled: Callable[[Request], int]) -> None:
        """An iteration is planned, and computes next: begin what can be done meanwhile. ``settled``: as
        ``Prefixes.settled``."""

    def forget(self, request: Request) -> None:
        """A request ended: keep nothing of it. Waits for its copies that are under way."""

    def in_transit(self) -> Iterable[tuple[list[int], int | None, int]]:
        """Blocks, exact tail and tokens of requests that left, held until their copies have landed."""
        return ()

    def take_moves(self) -> list[Move]:
        """Copies that have landed since the last call."""
        return []

    def describe(self) -> dict[str, float]:
        """What was copied over the run, for its summary."""
        return {}

    def close(self) -> None:
        """The run is over."""

    def check_integrity(self) -> None:
        """Raises ``IntegrityError`` where the books of host memory do not balance."""


class Recompute(Preemption):
    """A preempted request is computed again, as vLLM does by default."""
