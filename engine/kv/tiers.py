"""Tiers below the KV pool: published blocks that it evicts are kept in host memory, then on disk.

    KV pool on the device   [A][B][C]        evict --> host memory  [D][E][F]       least recently used --> disk  [G]
                             ^  load back before the prefill of who begins with it  |                              |
                             '------------------------------------------------------+------------------------------'

A block is kept under the chained hash that it was published under, and its text is compared on every hit. One that is
loaded stays in its tier as well, so that evicting it again copies nothing. A codec, where there is one, stands between
host memory and disk. Everything here is done between two steps, in the order of the device's stream, so nothing that is
being computed is ever read or written.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from engine.config.errors import EngineError, IntegrityError
from engine.kv.disk_tier import DiskTier, checksum
from engine.kv.kept import DAMAGED, DECLINE, DISK, HOST, LOAD, LOSE, STORE, Kept, TierMove, runs_of
from engine.kv.prefixes import Node
from engine.kv.tier_choice import TierChoice


class Tiers:
    """Blocks in host memory and on disk, least recently used first to go down and out."""

    def __init__(
        self,
        stores: Sequence[torch.Tensor],
        host_blocks: int,
        block_size: int,
        disk: DiskTier | None,
        choice: TierChoice,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        check: bool = False,
    ) -> None:
        """
        Args:
            stores: of the cache (``KVCache.stores``), [stripes, blocks, bytes] uint8.
            check: compare every block that comes back from host memory with what left, byte by byte (for tests).

        Raises:
            EngineError: the host cannot give this memory.
        """
        self.choice = choice
        self.disk = disk
        self.host_blocks = host_blocks
        self.block_bytes = sum(len(store) * store.shape[2] for store in stores)
        self._stores = stores
        self._block_size = block_size
        self._cuda = any(store.is_cuda for store in stores)
        self._clock = clock
        self._check = check
        try:  # one place more, to read a file into where all others are needed
            self._memory = torch.empty((host_blocks + 1, self.block_bytes), dtype=torch.uint8, pin_memory=self._cuda)
            self._memory.zero_()
        except (RuntimeError, MemoryError) as error:
            nbytes = (host_blocks + 1) * self.block_bytes
            raise EngineError(
                "out-of-memory",
                "kv_tiers.host_mib",
                round(nbytes / 2**20),
                f"the host cannot give {nbytes / 2**20:,.0f} MiB for blocks that the KV pool evicts.",
                "Set it lower.",
            ) from error
        self._free = list(range(host_blocks))[::-1]
        self._kept: OrderedDict[int, Kept] = OrderedDict()  # by hash, least recently used first
        self._moves: dict[tuple[str, str], TierMove] = {}  # stores and losses since the last step
        self._loads: list[TierMove] = []
        self._made_room_ns = 0  # time spent on bringing blocks from host memory to disk
        self._pinned: frozenset[int] = frozenset()  # hashes of blocks that must not move before they are loaded
        self._totals = dict.fromkeys((f"tier_{name}" for name in ("stored", "host_hits", "disk_hits", "damaged")), 0)

    def find(self, hash: int) -> Kept | None:
        """The block that is kept under a hash; its text is yet to be compared. Changes nothing."""
        return self._kept.get(hash)

    def pin(self, found: Sequence[Kept]) -> None:
        """What was found stays where it is until it is loaded, whatever is evicted meanwhile."""
        self._pinned = frozenset(kept.node.hash for kept in found)

    def keep(self, node: Node, block: int) -> None:
        """A published block of the pool is evicted: keep its content."""
        known = self._kept.get(node.hash)
        if known is not None:
            self._kept.move_to_end(node.hash)  # the same text, or another one of the same hash, which came first
            return
        slot = self._slot()
        began = self._clock()
        if slot == self.host_blocks:
            self._note(LOSE, HOST, 0, self.block_bytes)
            return
        self._read(block, slot)
        kept = self._kept[node.hash] = Kept(node, slot)
        if self._check:
            self._synchronize()
            kept.digest = checksum(self._memory[slot].numpy())
        self._totals["tier_stored"] += 1
        self._note(STORE, HOST, self._clock() - began, self.block_bytes)

    def load(self, request: int, found: Sequence[Kept], blocks: Sequence[int], context: int) -> int:
        """Fill the first of the pool's ``blocks`` with what was found, and return how many were.

        Fewer than were found where a file is gone or damaged: the blocks from there on have to be computed.

        Args:
            context: tokens of the request before them.
        """
        done = 0
        for tier, run in runs_of(found):
            began, made_room_ns = self._clock(), self._made_room_ns
            predicted = self.choice.load_s(tier, len(run)), self.choice.recompute_s(len(run), context)
            filled, stored, decode_ns = 0, 0, self._decode_ns
            if self.disk is not None:
                self.disk.ask()
            for kept in run:
                nbytes = self._stored(tier, kept)
                if not self._fill(kept, blocks[done + filled]):
                    break
                filled, stored = filled + 1, stored + nbytes
            self._synchronize()
            if filled:
                took = self._clock() - began - (self._made_room_ns - made_room_ns)
                move = self._move(LOAD, tier, request, filled, stored, took, predicted)
                move.codec_ns = self._decode_ns - decode_ns
                self.choice.loaded(tier, filled, move.duration_ns / 1e9)
                self._totals[f"tier_{tier}_hits"] += filled
            done += filled
            context += filled * self._block_size
            if filled < len(run):
                self._note(DAMAGED, tier, 0, 0)
                self._totals["tier_damaged"] += 1
                break
        self._pinned = frozenset()
        return done

    def decline(self, request: int, found: Sequence[Kept], context: int) -> None:
        """What was found is computed again, as that is predicted to take less time."""
        for tier, run in runs_of(found):
            predicted = self.choice.load_s(tier, len(run)), self.choice.recompute_s(len(run), context)
            stored = sum(self._stored(tier, kept) for kept in run)
            self._move(DECLINE, tier, request, len(run), stored, 0, predicted)
            context += len(run) * self._block_size

    def probe(self, disk: DiskTier | None, example: np.ndarray) -> None:
        """Measure what a block takes to load, before the clock starts; writes zeros to the pool's first block.

        Args:
            disk: like that of the run, and no other use of it; None: there is none.
            example: a block's bytes [bytes] uint8, to be written and read.
        """
        for _ in range(2):  # the first touches memory that was never used
            began = time.monotonic()
            self._write(0, self.host_blocks)
            self._synchronize()
            seconds = time.monotonic() - began
        self.choice.loaded(HOST, 1, seconds)
        if disk is not None and disk.write(0, disk.encode(example)):
            began = time.monotonic()
            disk.ask()
            disk.read(0, example)
            self.choice.loaded(DISK, 1, seconds + time.monotonic() - began)
            disk.clear()

    def take_moves(self) -> list[TierMove]:
        """What was done since the last call: each load by itself, the rest added up."""
        moves = [*self._loads, *self._moves.values()]
        self._loads, self._moves = [], {}
        return moves

    def describe(self) -> dict[str, Any]:
        """What the tiers did over the run, for its summary."""
        disk = self.disk
        return {
            **self._totals,
            "tier_problem": None if disk is None else disk.problem,
            "tier_codec": None if disk is None else disk.describe(),
        }

    def clear(self) -> None:
        """Lose every block."""
        self._kept.clear()
        self._free = list(range(self.host_blocks))[::-1]
        if self.disk is not None:
            self.disk.clear()

    def close(self) -> None:
        """The run is over: no file stays."""
        self.clear()

    def check_integrity(self) -> None:
        """Every slot is free or has one block, every file belongs to one, and budgets hold. Raises
        ``IntegrityError``."""
        slots = [kept.slot for kept in self._kept.values() if kept.slot >= 0]
        if sorted(slots + self._free) != list(range(self.host_blocks)):
            raise IntegrityError(f"tier slots held {sorted(slots)} and free {sorted(self._free)}")
        files = {hash for hash, kept in self._kept.items() if kept.on_disk}
        if any(not kept.on_disk and kept.slot < 0 for kept in self._kept.values()):
            raise IntegrityError("a block is kept in no tier")
        if self.disk is not None and (len(self.disk) != len(files) or any(hash not in self.disk for hash in files)):
            raise IntegrityError(f"{len(files)} blocks are on disk, {len(self.disk)} files on its books")
        if self.disk is not None and self.disk.used > self.disk.budget:
            raise IntegrityError(f"{self.disk.used} bytes on disk, of a budget of {self.disk.budget}")

    def _fill(self, kept: Kept, block: int) -> bool:
        """Write a kept block into the pool, by way of host memory; False where its file is gone or damaged."""
        hash, source = kept.node.hash, kept.slot
        if source >= 0:
            if self._check and checksum(self._memory[source].numpy()) != kept.digest:
                raise IntegrityError(f"the block of hash {hash} came back from host memory with other bytes")
        else:
            assert self.disk is not None
            source = self._slot()
            if not self.disk.read(hash, self._memory[source].numpy()):
                if source < self.host_blocks:
                    self._free.append(source)
                self._forget(hash)
                return False
            if source < self.host_blocks:
                kept.slot = source
                if self._check:  # a codec may have changed them
                    kept.digest = checksum(self._memory[source].numpy())
        self._kept.move_to_end(hash)
        self._write(block, source)
        if source == self.host_blocks:
            self._synchronize()  # the next one is read into the same place
        return True

    def _slot(self) -> int:
        """A free place in host memory, whose block goes to disk if need be; the spare one where all are pinned."""
        if self._free:
            return self._free.pop()
        hash = next((h for h, kept in self._kept.items() if kept.slot >= 0 and h not in self._pinned), None)
        if hash is None:
            return self.host_blocks
        kept = self._kept[hash]
        slot, began = kept.slot, self._clock()
        self._synchronize()
        if not kept.on_disk and self.disk is not None and self.disk.problem is None:
            encode_ns, stream = self.disk.encode_ns, self.disk.encode(self._memory[slot].numpy())
            kept.on_disk = self._room_on_disk(self.disk, stream.nbytes) and self.disk.write(hash, stream)
            took = self._clock() - began
            self._made_room_ns += took
            if kept.on_disk:
                move = self._note(STORE, DISK, took, stream.nbytes)
                move.codec_ns += self.disk.encode_ns - encode_ns
        kept.slot = -1
        if not kept.on_disk:
            self._forget(hash)
            self._note(LOSE, HOST, 0, self.block_bytes)
        return slot

    def _room_on_disk(self, disk: DiskTier, nbytes: int) -> bool:
        """Whether so many bytes more fit on disk, once the least recently used blocks there are gone."""
        while disk.used + nbytes > disk.budget:
            hash = next((h for h, kept in self._kept.items() if kept.on_disk and h not in self._pinned), None)
            if hash is None:
                return False
            kept = self._kept[hash]
            kept.on_disk, gone = False, disk.bytes_of(hash)
            disk.drop(hash)
            if kept.slot < 0:
                self._forget(hash)
                self._note(LOSE, DISK, 0, gone)
        return True

    @property
    def _decode_ns(self) -> int:
        return 0 if self.disk is None else self.disk.decode_ns

    def _stored(self, tier: str, kept: Kept) -> int:
        """Bytes of a block as a tier has it."""
        if tier == HOST:
            return self.block_bytes
        assert self.disk is not None
        return self.disk.bytes_of(kept.node.hash)

    def _forget(self, hash: int) -> None:
        kept = self._kept.pop(hash)
        if kept.on_disk:
            assert self.disk is not None
            self.disk.drop(hash)

    def _read(self, block: int, slot: int) -> None:
        """From the pool to host memory, stripe by stripe."""
        first = 0
        for store in self._stores:
            nbytes = len(store) * store.shape[2]
            place = self._memory[slot, first : first + nbytes].view(len(store), -1)
            place.copy_(store[:, block], non_blocking=True)
            first += nbytes

    def _write(self, block: int, slot: int) -> None:
        """From host memory to the pool."""
        first = 0
        for store in self._stores:
            nbytes = len(store) * store.shape[2]
            place = self._memory[slot, first : first + nbytes].view(len(store), -1)
            store[:, block].copy_(place, non_blocking=True)
            first += nbytes

    def _synchronize(self) -> None:
        if self._cuda:
            torch.cuda.current_stream(self._stores[0].device).synchronize()

    def _note(self, action: str, tier: str, duration_ns: int, stored: int) -> TierMove:
        """One block more, added to what was done since the last step."""
        move = self._moves.setdefault((action, tier), TierMove(action, tier))
        move.time_ns = self._clock()
        move.duration_ns += duration_ns
        move.blocks += 1
        move.tokens += self._block_size
        move.bytes += self.block_bytes
        move.stored_bytes += stored
        return move

    def _move(
        self,
        action: str,
        tier: str,
        request: int,
        blocks: int,
        stored: int,
        duration_ns: int,
        predicted: tuple[float | None, float | None],
    ) -> TierMove:
        load_ns, recompute_ns = (-1 if s is None else round(1e9 * s) for s in predicted)
        move = TierMove(
            action,
            tier,
            request,
            self._clock(),
            duration_ns,
            blocks,
            blocks * self._block_size,
            blocks * self.block_bytes,
            stored,
            0,
            load_ns,
            recompute_ns,
        )
        self._loads.append(move)
        return move
