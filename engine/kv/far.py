"""The far pool: keys and values of blocks that were lent to it, and who carries bytes there and back.

    block numbers    0 ............. N - 1 | N ................. N + F - 1
                     the KV pool           | the far pool, its tensors' blocks 0 to F - 1

A block that moves there is copied once and stays until its request ends. What is sent later are queries, with keys and
values of tokens whose places lie there, and partial results on the way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.config.errors import IntegrityError
from engine.kv.cache import KVCache
from engine.kv.checksums import digest
from engine.kv.copying import Copier, Link, pieces, runs

SPIN_S = 2e-4  # a sleep may end so much later than asked; the rest of a wait is spun through


@dataclass(frozen=True, slots=True)
class Lending:
    """Blocks of one request that went to the far pool, or were given back, for the ``lending`` rows; columns as there,
    times on the run's clock."""

    request: int
    start_ns: int
    end_ns: int
    blocks: int
    copied_blocks: int
    bytes: int
    far_blocks: int


@dataclass(slots=True)
class FarWork:
    """What the far pool did for attention, added up over layers; columns of the ``far`` rows, times in ns."""

    rows: int = 0  # tokens that attended to keys there
    keys: int = 0  # that sequences of these steps have there, each layer reads them once
    near_keys: int = 0  # and in the KV pool
    stored_tokens: int = 0  # whose keys and values went there as they were computed
    sent_bytes: int = 0
    returned_bytes: int = 0
    compute_ns: int = 0
    link_ns: int = 0  # waited for the emulated link

    def add(self, other: FarWork) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class FarStore:
    """The far pool's tensors beside those of the KV pool."""

    def __init__(self, near: KVCache, far: KVCache, link: Link | None = None) -> None:
        """
        Args:
            near, far: caches of the KV pool and of the far pool, of one form and block size.
            link: emulated, a message's latency and the bytes' rate; None: the memory as it is.
        """
        self.near, self.cache = near, far
        self.link = link
        self._stores = (near.stores(), far.stores())
        self._pairs = list(zip(*self._stores, strict=True))
        self._copier = Copier(self._pairs, asynchronous=False)
        self.begin(time.monotonic_ns)

    def begin(self, clock: Callable[[], int], *, check: bool = False) -> None:
        """A run begins, and nothing is lent.

        Args:
            clock: the run's, in ns.
            check: compare every block that moved byte by byte (slow; for tests).
        """
        self.clock = clock
        self.work = FarWork()  # since it was last taken
        self.total = FarWork()
        self._lendings: list[Lending] = []
        self._totals = {"far_moved_blocks": 0.0, "far_moved_bytes": 0.0, "far_moving_s": 0.0}
        self._check = check

    @property
    def first(self) -> int:
        """The far pool's first block number."""
        return self.near.num_blocks

    @property
    def block_bytes(self) -> int:
        return sum(len(store) * store.shape[2] for store in self._stores[0])

    def lend(self, request: int, blocks: int, far_blocks: int, moved: Sequence[tuple[int, int]] = ()) -> None:
        """A request has more blocks in the far pool, or none any more. Copies those that have content, as one message.

        Args:
            blocks: how many more; less than 0: so many were given back.
            far_blocks: that it then has there.
            moved: of those to copy, the numbers in the KV pool and in the far pool.

        Raises:
            IntegrityError: what arrived differs from what left.
        """
        start = self.clock()
        near, far = [a for a, _ in moved], [b - self.first for _, b in moved]
        nbytes = len(moved) * self.block_bytes
        if moved:
            self._copier.start(pieces(self._pairs, runs(near, far, grouped=True)), to_host=True)
            self.wait(start, 1, nbytes)
        if self._check:
            for a, b in zip(near, far, strict=True):
                if digest([s[:, a] for s in self._stores[0]]) != digest([s[:, b] for s in self._stores[1]]):
                    raise IntegrityError(f"request {request}: block {a} arrived in the far pool with other bytes")
        end = self.clock()
        self._lendings.append(Lending(request, start, end, blocks, len(moved), nbytes, far_blocks))
        self._totals["far_moved_blocks"] += len(moved)
        self._totals["far_moved_bytes"] += nbytes
        self._totals["far_moving_s"] += (end - start) / 1e9

    def copy_block(self, source: int, destination: int) -> None:
        """As ``KVCache.copy_block``, wherever the two blocks lie."""
        near, far = source < self.first, destination >= self.first
        if near and not far:
            self.near.copy_block(source, destination)
            return
        for a, b in self._pairs:
            there = a[:, source] if near else b[:, source - self.first]
            here = b[:, destination - self.first] if far else a[:, destination]
            here.copy_(there)

    def wait(self, since_ns: int, messages: int, nbytes: int, beside_ns: int = 0) -> int:
        """Stand still until messages that were sent at ``since_ns`` have arrived over the emulated link.

        Args:
            beside_ns: what the other end computes before it answers.

        Returns:
            How long that was, in ns.
        """
        if self.link is None:
            return 0
        began = self.clock()
        due = since_ns + beside_ns + round(self.link.seconds(messages, nbytes) * 1e9)
        if (left := (due - began) / 1e9 - SPIN_S) > 0:
            time.sleep(left)
        while self.clock() < due:
            pass
        return max(0, self.clock() - began) if due > began else 0

    def take_lendings(self) -> list[Lending]:
        """What was lent and given back since the last call."""
        taken, self._lendings = self._lendings, []
        return taken

    def take_work(self) -> FarWork:
        """What was attended to since the last call."""
        taken, self.work = self.work, FarWork()
        self.total.add(taken)
        return taken

    def describe(self) -> dict[str, float]:
        """What was moved and sent over the run, for its summary."""
        self.take_work()  # of steps that were not recorded
        total = self.total
        return self._totals | {
            "far_keys": total.keys,
            "near_keys": total.near_keys,
            "far_sent_bytes": total.sent_bytes,
            "far_returned_bytes": total.returned_bytes,
            "far_compute_s": total.compute_ns / 1e9,
            "far_link_s": total.link_ns / 1e9,
        }
