"""Where blocks below the KV pool lie, and how they get there: from the pool to host memory, from there to disk."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch

from engine.config.errors import EngineError, IntegrityError
from engine.kv.copying import Copier, Ticket
from engine.kv.disk_tier import DiskTier, checksum
from engine.kv.kept import DISK, HOST, LOSE, STORE, Kept, Leaving
from engine.kv.prefixes import Node
from engine.kv.tier_moves import TierMoves


class TierPlaces:
    """Blocks in host memory and on disk, least recently used first to go down and out."""

    def __init__(
        self,
        stores: Sequence[torch.Tensor],
        host_blocks: int,
        block_size: int,
        disk: DiskTier | None,
        *,
        asynchronous: bool,
        clock: Callable[[], int],
        check: bool,
    ) -> None:
        """See ``Tiers``."""
        self.disk = disk
        self.asynchronous = asynchronous
        self.host_blocks = host_blocks
        self.block_bytes = sum(len(store) * store.shape[2] for store in stores)
        self._stores = stores
        self._block_size = block_size
        self._clock = clock
        self._check = check
        self._memory = self._take_memory(any(store.is_cuda for store in stores))
        pairs = [(store, self._memory) for store in stores]
        self._out = Copier(pairs, asynchronous=asynchronous, clock=clock, name="tiers-out")
        self._in = Copier(pairs, asynchronous=asynchronous, clock=clock, name="tiers-in")
        self._free = list(range(host_blocks))[::-1]
        self._kept: OrderedDict[int, Kept] = OrderedDict()  # by hash, least recently used first
        self._leaving: list[Leaving] = []  # in the order in which they land
        self._last_of: dict[int, Ticket] = {}  # what was last asked for of a place in host memory
        self._pins: Counter[int] = Counter()  # hashes of blocks that stay where they are: somebody loads them
        self._moves = TierMoves(clock, block_size, self.block_bytes)
        self._totals = dict.fromkeys((f"tier_{name}" for name in ("stored", "host_hits", "disk_hits", "damaged")), 0)
        self._totals_ns = dict.fromkeys(("tier_copied_s", "tier_waited_s"), 0)

    def _take_memory(self, pinned: bool) -> torch.Tensor:
        """Host memory [places, bytes of a block] uint8: one place more, to read a file into where all others are
        needed."""
        try:
            memory = torch.empty((self.host_blocks + 1, self.block_bytes), dtype=torch.uint8, pin_memory=pinned)
            return memory.zero_()
        except (RuntimeError, MemoryError) as error:
            nbytes = (self.host_blocks + 1) * self.block_bytes
            raise EngineError(
                "out-of-memory",
                "kv_tiers.host_mib",
                round(nbytes / 2**20),
                f"the host cannot give {nbytes / 2**20:,.0f} MiB for blocks that the KV pool evicts.",
                "Set it lower.",
            ) from error

    def find(self, hash: int) -> Kept | None:
        """The block that is kept under a hash; its text is yet to be compared. Changes nothing."""
        return self._kept.get(hash)

    def pin(self, found: Sequence[Kept]) -> None:
        """What was found stays where it is until it is loaded (``begin``), whatever is evicted meanwhile."""
        self._pins.update(kept.node.hash for kept in found)

    def keep(self, node: Node, block: int, *, lost: bool = True) -> None:
        """A published block of the pool is evicted: keep its content. The block is free once that was copied
        (``reused``).

        Args:
            lost: where there is no room, nobody has it any more.
        """
        if node.hash in self._kept:
            self._kept.move_to_end(node.hash)  # the same text, or another one of the same hash, which came first
            return
        slot = self._slot()
        if slot == self.host_blocks:
            if lost:
                self._moves.note(LOSE, HOST, self.block_bytes)
            return
        kept = self._kept[node.hash] = Kept(node, slot)
        if self._check:
            kept.digest = self._digest(block)
        ticket = self._out.start([], to_host=True, work=lambda: self._read(block, slot))
        self._last_of[slot] = ticket
        self._leaving.append(Leaving(kept, ticket, block))
        self._totals["tier_stored"] += 1
        self.settle()

    def ahead(self, blocks: Iterable[tuple[Node, int]]) -> None:
        """Copy blocks that will be evicted next, while a step is computed: what they hold never changes."""
        for node, block in blocks:
            if node.hash not in self._kept:
                self.keep(node, block, lost=False)

    def reused(self, blocks: Sequence[int]) -> None:
        """Blocks of the pool will be written: wait for copies of them that are under way."""
        if self._leaving and (those := [leaving for leaving in self._leaving if leaving.block in set(blocks)]):
            for leaving in those:
                self._out.wait(leaving.ticket)
            self.settle()

    def settle(self) -> None:
        """Take in what has left."""
        while self._leaving and self._leaving[0].ticket.landed.is_set():
            self._land(self._leaving.pop(0))

    def _slot(self) -> int:
        """A place in host memory, whose block goes to disk if need be; the spare one where all are pinned.

        What is copied there comes behind what is copied from there: both leave in one thread, and loads wait.
        """
        if self._free:
            return self._free.pop()
        hash = next((h for h, kept in self._kept.items() if kept.slot >= 0 and not self._pins[h]), None)
        if hash is None:
            return self.host_blocks
        kept = self._kept[hash]
        slot, kept.slot = kept.slot, -1
        if not kept.on_disk and self.disk is not None and self.disk.problem is None:
            self._write_down(self.disk, kept, slot)
        if not kept.on_disk and kept.written is None and kept.slot < 0 and self._kept.get(hash) is kept:
            self._lose(kept, HOST, self.block_bytes)
        return slot

    def _write_down(self, disk: DiskTier, kept: Kept, slot: int) -> None:
        """Begin to bring a block from its place in host memory to disk, where it fits."""
        expected = disk.expected(self.block_bytes)
        if not self._room_on_disk(disk, expected):
            return
        leaving = Leaving(kept, Ticket([], True), reserved=expected)
        disk.reserved += expected

        def work() -> None:
            encode_ns, stream = disk.encode_ns, disk.encode(self._memory[slot].numpy())
            disk.write(kept.node.hash, stream)
            leaving.codec_ns = disk.encode_ns - encode_ns

        leaving.ticket = kept.written = self._last_of[slot] = self._out.start([], to_host=True, work=work)
        self._leaving.append(leaving)
        self.settle()

    def _land(self, leaving: Leaving) -> None:
        """A block is in host memory, or on disk."""
        kept, ticket = leaving.kept, leaving.ticket
        self._out.wait(ticket)  # raises what went wrong
        self._count(ticket.end_ns - ticket.start_ns, ticket.waited_ns)
        if leaving.block >= 0:
            if self._check and kept.slot >= 0 and checksum(self._memory[kept.slot].numpy()) != kept.digest:
                raise IntegrityError(f"block {leaving.block} was written while it was copied to host memory")
            self._moves.note(STORE, HOST, self.block_bytes, ticket)
            return
        disk, hash = self.disk, kept.node.hash
        assert disk is not None
        disk.reserved -= leaving.reserved
        kept.written = None
        known = self._kept.get(hash) is kept
        if known and hash in disk and self._room_on_disk(disk, 0):
            kept.on_disk = True
            self._moves.note(STORE, DISK, disk.bytes_of(hash), ticket, leaving.codec_ns)
            return
        if hash in disk:
            disk.drop(hash)
        if known and kept.slot < 0:
            self._lose(kept, HOST, self.block_bytes)

    def _room_on_disk(self, disk: DiskTier, nbytes: int) -> bool:
        """Whether so many bytes more fit on disk, once the least recently used blocks there are gone."""
        while disk.used + disk.reserved + nbytes > disk.budget:
            hash = next((h for h, kept in self._kept.items() if kept.on_disk and not self._pins[h]), None)
            if hash is None:
                return False
            kept = self._kept[hash]
            kept.on_disk, gone = False, disk.bytes_of(hash)
            disk.drop(hash)
            if kept.slot < 0:
                self._lose(kept, DISK, gone)
        return True

    def _lose(self, kept: Kept, tier: str, stored: int) -> None:
        self._forget(kept.node.hash)
        self._moves.note(LOSE, tier, stored)

    def _stored(self, tier: str, kept: Kept) -> int:
        """Bytes of a block as a tier has it, or is about to."""
        if tier == HOST or self.disk is None or kept.node.hash not in self.disk:
            return self.block_bytes
        return self.disk.bytes_of(kept.node.hash)

    def _forget(self, hash: int) -> None:
        kept = self._kept.pop(hash)
        if kept.on_disk:
            assert self.disk is not None
            self.disk.drop(hash)

    def _count(self, took_ns: int, waited_ns: int) -> None:
        """Add up what copies took over the run, and how long the engine stood still for them."""
        self._totals_ns["tier_copied_s"] += took_ns
        self._totals_ns["tier_waited_s"] += waited_ns

    def _parts(self, slot: int) -> list[torch.Tensor]:
        """A place in host memory, cut as the stores are: each [stripes, bytes]."""
        sizes = [len(store) * store.shape[2] for store in self._stores]
        parts = zip(self._stores, self._memory[slot].split(sizes), strict=True)
        return [part.view(len(store), -1) for store, part in parts]

    def _read(self, block: int, slot: int) -> None:
        """From the pool to host memory, stripe by stripe."""
        for store, place in zip(self._stores, self._parts(slot), strict=True):
            place.copy_(store[:, block], non_blocking=True)

    def _write(self, block: int, slot: int) -> None:
        """From host memory to the pool; it is there on return."""
        for store, place in zip(self._stores, self._parts(slot), strict=True):
            store[:, block].copy_(place, non_blocking=True)
        if any(store.is_cuda for store in self._stores):
            torch.cuda.current_stream(self._stores[0].device).synchronize()

    def _digest(self, block: int) -> bytes:
        """Checksum of a block in the pool."""
        parts = [store[:, block].cpu().contiguous().view(-1) for store in self._stores]
        return checksum(torch.cat(parts).numpy())
