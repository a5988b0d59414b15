"""What becomes of the blocks of a turn that ended while its tool works (Continuum, 2025): pins with a time to live.

    A turn 1 ends     blocks pinned, time to live 0.8 s
    0.5 s later       A turn 2 arrives: in time, the pin stays until it has a place       back
    else              0.8 s are over: its blocks are the next to be evicted               ttl
    or meanwhile      somebody needs the room who goes before it                          forced

A *program* is a request, and those that ``continue`` it one after another. The engine knows which turns end in a tool
call (something continues them), not when the tool is back.

Pins are taken off by force, the last program's first:
- for a running request that needs a block: before anybody is preempted;
- for a waiting request, from programs that come after it;
- for a waiting request while nobody runs, from all. So a pool full of pins never stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from engine.config.errors import IntegrityError
from engine.kv.pool import BlockPool
from engine.kv.prefixes import Node
from engine.request import Request
from engine.scheduling.ttl import PinTime, Worth
from telemetry.rows import COMPLETED

BACK, TTL, FORCED, CANCELLED, END = "back", "ttl", "forced", "cancelled", "end"


@dataclass(slots=True)
class Pin:
    """An ended turn's blocks, from the first token on."""

    turn: Request
    blocks: list[int]
    since_ns: int
    until_ns: int
    back: bool = False  # its next turn came in time and waits for a place


@dataclass(frozen=True, slots=True)
class PinEvent:
    """A change of pins, for the ``pin`` rows; columns as there, times on the run's clock."""

    time_ns: int
    action: str
    reason: str | None
    request: int
    blocks: int
    tokens: int
    pinned: int
    ttl_ns: int | None = None
    held_ns: int | None = None
    chance: float | None = None
    recompute_ns: int | None = None
    wait_ns: int | None = None
    cost_ns: int | None = None


class Pins:
    """Pins of ended turns, and the order of programs."""

    def __init__(
        self,
        pool: BlockPool,
        ttl: PinTime,
        clock: Callable[[], int],
        *,
        continued: Collection[str],
        by_program: bool,
    ) -> None:
        """
        Args:
            clock: nanoseconds since the run's start.
            continued: names of requests that another one continues.
            by_program: requests are ordered by the arrival of their program.
        """
        self.ttl = ttl
        self._pool = pool
        self._clock = clock
        self._continued = continued
        self._by_program = by_program
        self._pins: dict[str, Pin] = {}  # by the turn's name
        self._programs: dict[str, tuple[int, int]] = {}  # of each turn that arrived: its first one's arrival and number
        self._ended: dict[str, tuple[int, str]] = {}  # when a turn ended whose next one has not come, and its tool
        self._events: list[PinEvent] = []
        self._totals = dict.fromkeys(("pins", *(f"pins_{why}" for why in (BACK, TTL, FORCED, CANCELLED, END))), 0)

    def arrived(self, request: Request) -> None:
        """A request arrives for the first time: it has the place of its program, and its tool is back."""
        before = request.spec.after if request.spec.continues else None
        own = (request.arrival_ns, request.index)
        program = self._programs[request.request_id] = self._programs.get(before or "", own)
        if self._by_program:
            request.queued_as = program
        if before is None:
            return
        if (ended := self._ended.pop(before, None)) is not None:
            self.ttl.observe(ended[1], (request.arrival_ns - ended[0]) / 1e9)
        pin = self._pins.get(before)
        if pin is not None and request.arrival_ns <= pin.until_ns:
            pin.back = True

    def admitted(self, request: Request) -> None:
        """A request has a place, and shares what it found."""
        if not request.spec.continues or request.preemptions:
            return
        if not self._release(request.spec.after, BACK):
            self.ttl.waited((self._clock() - request.arrival_ns) / 1e9)

    def ended(self, request: Request, tip: Node | None) -> None:
        """A request ended and its blocks are free: pin them, leave them, or give them up.

        Args:
            tip: the last of its blocks that could be found.
        """
        if request.spec.continues:  # one that never had a place leaves a pin behind
            self._release(request.spec.after, CANCELLED)
        if request.end_reason not in COMPLETED:
            return
        nodes: list[Node] = []
        while tip is not None and tip.parent is not None:
            if tip.block >= 0:
                nodes.append(tip)
            tip = tip.parent
        if self.ttl.evicts:
            self._give_up(request, nodes)
        if request.request_id not in self._continued:
            return
        now = self._clock()
        self._ended[request.request_id] = (now, request.spec.group or "")
        blocks = [node.block for node in reversed(nodes)]
        if blocks and not self.ttl.evicts:
            own = sum(self._pool.is_evictable(block) for block in blocks)
            tokens = len(blocks) * self._pool.block_size
            self._pin(request, blocks, self.ttl.choose(request.spec.group or "", tokens, own / self._pool.num_blocks))

    def expire(self) -> None:
        """Take off the pins whose time is over; called before an iteration is planned."""
        now = self._clock()
        for name in [name for name, pin in self._pins.items() if not pin.back and pin.until_ns < now]:
            self._release(name, TTL)

    def could_free(self, request: Request) -> int:
        """Blocks that could be had by force from programs that come after a request."""
        return self._pool.frees(pin.blocks for pin in self._pins.values() if self._comes_after(pin, request))

    def yield_one(self, request: Request, *, later: bool) -> bool:
        """Take off a pin by force for a request: the last program's, and that of its own last.

        Args:
            later: only of a program that comes after the request.

        Returns:
            False where there is none.
        """
        pins = [pin for pin in self._pins.values() if not later or self._comes_after(pin, request)]
        if not pins:
            return False
        last = max(pins, key=lambda pin: (pin.turn.request_id != request.spec.after, pin.turn.order))
        return self._release(last.turn.request_id, FORCED)

    def close(self) -> None:
        """The run is over: no pin stays."""
        for name in list(self._pins):
            self._release(name, END)

    def take_events(self) -> list[PinEvent]:
        """Changes since the last call."""
        events, self._events = self._events, []
        return events

    def describe(self) -> dict[str, int]:
        """What was pinned over the run, for its summary."""
        return dict(self._totals)

    def check_integrity(self) -> None:
        """Every pinned block belongs to a pin. Raises ``IntegrityError``."""
        pinned = {block for pin in self._pins.values() for block in pin.blocks}
        if len(pinned) != self._pool.num_pinned:
            raise IntegrityError(f"{len(pinned)} blocks belong to pins, {self._pool.num_pinned} are pinned")

    @staticmethod
    def _comes_after(pin: Pin, request: Request) -> bool:
        return pin.turn.order > request.order and pin.turn.request_id != request.spec.after

    def _pin(self, request: Request, blocks: list[int], worth: Worth) -> None:
        now, ttl_ns = self._clock(), round(1e9 * worth.ttl_s)
        if ttl_ns:
            self._pool.pin(blocks)
            self._pins[request.request_id] = Pin(request, blocks, now, now + ttl_ns)
            self._totals["pins"] += 1
        elif worth.chance != worth.chance:
            return
        self._note(
            "pin" if ttl_ns else "decline",
            None,
            request,
            len(blocks),
            ttl_ns=ttl_ns,
            chance=_known(worth.chance),
            recompute_ns=_nanoseconds(worth.recompute_s),
            wait_ns=_nanoseconds(worth.wait_s),
            cost_ns=_nanoseconds(worth.cost_s),
        )

    def _release(self, name: str | None, why: str) -> bool:
        """Take off a turn's pin; False where it has none."""
        pin = self._pins.pop(name or "", None)
        if pin is None:
            return False
        self._pool.unpin(pin.blocks)
        self._totals[f"pins_{why}"] += 1
        self._note("unpin", why, pin.turn, len(pin.blocks), held_ns=self._clock() - pin.since_ns)
        return True

    def _give_up(self, request: Request, nodes: list[Node]) -> None:
        """Evict a turn's blocks from its end on, up to one that others hold or go on from."""
        count = 0
        for node in nodes:
            if node.children or not self._pool.is_evictable(node.block):
                break
            self._pool.evict(node.block)
            count += 1
        if count:
            self._note("evict", None, request, count)

    def _note(self, action: str, reason: str | None, request: Request, blocks: int, **more: float | None) -> None:
        tokens, now = blocks * self._pool.block_size, self._clock()
        changed = (now, action, reason, request.index, blocks, tokens, self._pool.num_pinned)
        self._events.append(PinEvent(*changed, **more))  # type: ignore[arg-type]


def _known(value: float) -> float | None:
    return None if value != value else value


def _nanoseconds(seconds: float) -> int | None:
    return None if seconds != seconds else round(1e9 * seconds)
