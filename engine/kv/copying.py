"""Moving blocks between the KV pool and host memory, as pieces of memory that lie together on both sides.

    device  stripe 0 [. A A A . . A]   stripe 1 [. A A A . . A]      blocks 1 2 3, 6
    host    stripe 0 [A A A A . .]     stripe 1 [A A A A . .]        blocks 0 1 2, 3

Block by block this takes a copy for each block and stripe (8). In groups it takes one for each run of neighbours (4):
a copy of n bytes takes ``t_launch + n / X``, so larger ones come nearer the link's rate X (papers: FastSwitch).
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

Piece = tuple[int, int, int, int]
"""Number of the pair of stores, offset on the device, offset on the host, and length; all in bytes."""


class Link(NamedTuple):
    """An emulated link: what a copy takes at least."""

    launch_s: float
    bytes_per_s: float

    def seconds(self, copies: int, nbytes: int) -> float:
        return copies * self.launch_s + nbytes / self.bytes_per_s


def runs(device: Sequence[int], host: Sequence[int], *, grouped: bool) -> list[tuple[int, int, int]]:
    """(device block, host block, blocks) for what lies together on both sides; single blocks where not grouped."""
    found: list[tuple[int, int, int]] = []
    for d, h in zip(device, host, strict=True):
        if found and grouped:
            first, there, length = found[-1]
            if d == first + length and h == there + length:
                found[-1] = (first, there, length + 1)
                continue
        found.append((d, h, 1))
    return found


def pieces(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], moved: Sequence[tuple[int, int, int]], offset: int = 0
) -> list[Piece]:
    """What to copy for ``moved`` (as ``runs`` gives it), stripe by stripe.

    Args:
        pairs: stores on the device and on the host, each [stripes, blocks, bytes] uint8.
        offset: number of the first pair among the copier's.
    """
    cut = []
    for number, (device, host) in enumerate(pairs, offset):
        width, device_stride, host_stride = device.shape[2], device.stride(0), host.stride(0)
        for d, h, length in moved:
            for stripe in range(len(device)):
                cut.append(
                    (number, stripe * device_stride + d * width, stripe * host_stride + h * width, length * width)
                )
    return cut


@dataclass(eq=False)
class Ticket:
    """A transfer under way: what is copied, and when that was asked for, began and ended on the copier's clock [ns]."""

    pieces: list[Piece]
    to_host: bool
    asked_ns: int = 0
    start_ns: int = 0
    end_ns: int = 0
    waited_ns: int = 0  # that somebody stood still for it
    error: BaseException | None = None
    ready: torch.cuda.Event | None = None  # what must be computed before it may begin
    work: Callable[[], None] | None = None  # done instead of copying pieces
    landed: threading.Event = field(default_factory=threading.Event)

    @property
    def nbytes(self) -> int:
        return sum(piece[3] for piece in self.pieces)


class Copier:
    """Copies pieces in the caller's thread, or one transfer after another in a thread of its own.

    On a GPU the thread has a stream of its own, which waits for what was launched before a transfer was asked for. A
    transfer has landed once its bytes are there; until then its blocks on the device belong to it.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
        *,
        asynchronous: bool,
        link: Link | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        name: str = "swap",
    ) -> None:
        """
        Args:
            pairs: stores on the device and on the host.
            link: emulated; None: the memory as it is.
            name: of the thread.
        """
        self._flat = [(device.view(-1), host.view(-1)) for device, host in pairs]
        self._cuda = any(device.is_cuda for device, _ in pairs)
        self._device = pairs[0][0].device if pairs else torch.device("cpu")
        self._link = link
        self._clock = clock
        self._name = name
        self.asynchronous = asynchronous
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, pieces: list[Piece], *, to_host: bool, work: Callable[[], None] | None = None) -> Ticket:
        """Begin a transfer; it has landed on return where copies are synchronous.

        Args:
            work: copies by itself, and is called where pieces would be copied: in the same thread, with its stream.
        """
        ticket = Ticket(pieces, to_host, self._clock(), work=work)
        if not self.asynchronous:
            self._copy(ticket)
            ticket.waited_ns = self._clock() - ticket.asked_ns
            ticket.landed.set()
            return ticket
        if self._cuda:
            ticket.ready = torch.cuda.Event()
            ticket.ready.record(torch.cuda.current_stream(self._device))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put(ticket)
        return ticket

    def wait(self, ticket: Ticket) -> None:
        """Stand still until a transfer has landed. Raises what went wrong while it was copied."""
        if not ticket.landed.is_set():
            began = self._clock()
            ticket.landed.wait()
            ticket.waited_ns += self._clock() - began
        if ticket.error is not None:
            raise ticket.error

    def close(self) -> None:
        """End the thread, after what is queued."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    @torch.inference_mode()
    def _work(self) -> None:
        stream = torch.cuda.Stream(self._device) if self._cuda else None
        while (ticket := self._queue.get()) is not None:
            try:
                if stream is not None:
                    with torch.cuda.stream(stream):
                        assert ticket.ready is not None
                        stream.wait_event(ticket.ready)
                        self._copy(ticket)
                else:
                    self._copy(ticket)
            except BaseException as error:
                ticket.error = error
            ticket.landed.set()

    def _copy(self, ticket: Ticket) -> None:
        if self._cuda and ticket.ready is not None:
            ticket.ready.synchronize()  # so that the time is that of copying
        ticket.start_ns = self._clock()
        if ticket.work is not None:
            ticket.work()
            if self._cuda:
                torch.cuda.current_stream(self._device).synchronize()
        elif self._cuda:
            self._copy_pinned(ticket)
        else:
            self._copy_memory(ticket)
        if self._link is not None:
            spent = (self._clock() - ticket.start_ns) / 1e9
            time.sleep(max(0.0, self._link.seconds(len(ticket.pieces), ticket.nbytes) - spent))
        ticket.end_ns = self._clock()

    def _copy_memory(self, ticket: Ticket) -> None:
        """On a CPU both sides are memory; a copy lets go of the interpreter's lock."""
        bases = [(device.data_ptr(), host.data_ptr()) for device, host in self._flat]
        move = ctypes.memmove
        if ticket.to_host:
            for number, d, h, length in ticket.pieces:
                device, host = bases[number]
                move(host + h, device + d, length)
        else:
            for number, d, h, length in ticket.pieces:
                device, host = bases[number]
                move(device + d, host + h, length)

    def _copy_pinned(self, ticket: Ticket) -> None:
        for number, d, h, length in ticket.pieces:
            device, host = self._flat[number]
            there, here = device[d : d + length], host[h : h + length]
            if ticket.to_host:
                here.copy_(there, non_blocking=True)
            else:
                there.copy_(here, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
