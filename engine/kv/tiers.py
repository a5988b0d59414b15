"""Tiers below the KV pool: published blocks that it evicts are kept in host memory, then on disk.

    KV pool on the device   [A][B][C]        evict --> host memory  [D][E][F]       least recently used --> disk  [G]
                             ^  load back before the prefill of who begins with it  |                              |
                             '------------------------------------------------------+------------------------------'

A block is kept under the chained hash that it was published under, and its text is compared on every hit. One that is
loaded stays in its tier as well, so that evicting it again copies nothing. A codec, where there is one, stands between
host memory and disk.

Copies run between two steps, or beside them: what leaves in one thread, what comes in another, each in the order in
which it was asked for (``engine.kv.copying``). The conflict set: a block of the pool that is copied out is not written
before its copy has landed (``reused``); a place in host memory and a file that a load reads stay (``pin``), and the
load waits for what is on its way there. The books are kept by the engine's thread alone, as copies land (``settle``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from engine.config.errors import IntegrityError
from engine.kv.disk_tier import DiskTier, checksum
from engine.kv.kept import DAMAGED, DECLINE, DISK, HOST, LOAD, Kept, Load, Piece, TierMove, by_level, runs_of
from engine.kv.tier_choice import TierChoice
from engine.kv.tier_levels import TEXT, Due, LevelChoice
from engine.kv.tier_places import TierPlaces
from engine.request import Request


class Tiers(TierPlaces):
    """Keeps blocks that the pool evicts, and loads them again."""

    def __init__(
        self,
        stores: Sequence[torch.Tensor],
        host_blocks: int,
        block_size: int,
        disk: DiskTier | None,
        choice: TierChoice,
        *,
        levels: LevelChoice | None = None,
        asynchronous: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
        check: bool = False,
    ) -> None:
        """
        Args:
            stores: of the cache (``KVCache.stores``), [stripes, blocks, bytes] uint8.
            levels: which level of a block is read from disk; None: its codec has one.
            asynchronous: copies run beside the steps.
            check: compare every block that was copied with what left, byte by byte (for tests).

        Raises:
            EngineError: the host cannot give this memory.
        """
        super().__init__(stores, host_blocks, block_size, disk, asynchronous=asynchronous, clock=clock, check=check)
        self.choice = choice
        self.levels = levels
        if levels is not None and disk is not None:
            disk.came = levels.came
        self._loads: list[Load] = []  # in the order in which they land

    def begin(self, request: Request, found: Sequence[Kept], blocks: Sequence[int], context: int) -> Load:
        """Begin to fill the first of the pool's ``blocks`` with what was found and pinned.

        Args:
            context: tokens of the request before them.
        """
        load = Load(request.index, self._clock(), due=self._due(request, context, len(found)))
        self._loads.append(load)
        for tier, run in runs_of(found):
            load.predicted.append((self.choice.load_s(tier, len(run)), self.choice.recompute_s(len(run), context)))
            context += len(run) * self._block_size
            for kept in run:
                left = len(found) - len(load.pieces)
                self._begin(load, kept, tier, blocks[len(load.pieces)], left, first=kept is run[0])
        return load

    def wait(self, load: Load) -> None:
        """Stand still until a load has landed. Raises what went wrong."""
        for piece in load.pieces:
            assert piece.ticket is not None
            self._in.wait(piece.ticket)

    def nap(self, load: Load, seconds: float) -> None:
        """Stand still until a load has landed, at most so long."""
        ticket = load.pieces[-1].ticket
        assert ticket is not None
        began = self._clock()
        ticket.landed.wait(seconds)
        ticket.waited_ns += self._clock() - began

    def end(self, load: Load) -> int:
        """A load has landed: how many blocks were filled, from the first one on.

        Fewer than were found where a file is gone or damaged: the blocks from there on have to be computed.
        """
        self.wait(load)
        self.settle()
        self._loads.remove(load)
        done = next((n for n, piece in enumerate(load.pieces) if not piece.filled), len(load.pieces))
        for piece in load.pieces:
            self._end(load, piece)
        self._pins.subtract(piece.kept.node.hash for piece in load.pieces)
        self._pins = +self._pins
        self._tell(load, done)
        return done

    def decline(self, request: int, found: Sequence[Kept], context: int) -> None:
        """What was found is computed again, as that is predicted to take less time."""
        for tier, run in runs_of(found):
            predicted = self.choice.load_s(tier, len(run)), self.choice.recompute_s(len(run), context)
            self._moves.each(DECLINE, tier, request, len(run), sum(self._stored(tier, kept) for kept in run), predicted)
            context += len(run) * self._block_size

    def probe(self, disk: DiskTier | None, example: np.ndarray) -> None:
        """Measure what a block takes to load, before the clock starts; writes zeros to the pool's first block.

        Args:
            disk: like that of the run, and no other use of it; None: there is none.
            example: a block's bytes [bytes] uint8, to be written and read.
        """
        for _ in range(2):  # the first touches memory that was never used
            ticket = self._in.start([], to_host=False, work=lambda: self._write(0, self.host_blocks))
            self._in.wait(ticket)
        seconds = (ticket.end_ns - ticket.start_ns) / 1e9
        self.choice.loaded(HOST, 1, seconds)
        if disk is not None and disk.write(0, disk.encode(example)):
            began = time.monotonic()
            disk.ask()
            disk.read(0, example)
            self.choice.loaded(DISK, 1, seconds + time.monotonic() - began)
            disk.clear()

    def take_moves(self) -> list[TierMove]:
        """What was done since the last call: each load by itself, the rest added up."""
        return self._moves.take()

    def describe(self) -> dict[str, Any]:
        """What the tiers did over the run, for its summary."""
        disk = self.disk
        return {
            **self._totals,
            **{name: ns / 1e9 for name, ns in self._totals_ns.items()},
            "tier_problem": None if disk is None else disk.problem,
            "tier_codec": None if disk is None else disk.describe(),
        }

    def clear(self) -> None:
        """Lose every block. Loads that are under way end where they are."""
        for load in self._loads:
            load.stop.set()
            load.cleared = True
        for load in self._loads:
            self.wait(load)
        for leaving in self._leaving:
            self._out.wait(leaving.ticket)
        self.settle()
        self._kept.clear()
        self._last_of.clear()
        self._free = list(range(self.host_blocks))[::-1]
        if self.disk is not None:
            self.disk.clear()

    def close(self) -> None:
        """The run is over: nothing is under way, and no file stays."""
        try:
            self.clear()
        finally:
            self._out.close()
            self._in.close()
            if self.disk is not None:
                self.disk.clear()

    def check_integrity(self) -> None:
        """Every slot is free or has one block, every file belongs to one, and budgets hold. Raises
        ``IntegrityError``."""
        self.settle()
        slots = [kept.slot for kept in self._kept.values() if kept.slot >= 0]
        claimed = [piece.slot for load in self._loads if not load.cleared for piece in load.pieces if self._own(piece)]
        if sorted(slots + self._free + claimed) != list(range(self.host_blocks)):
            raise IntegrityError(f"tier slots held {sorted(slots)}, claimed {claimed} and free {sorted(self._free)}")
        files = {hash for hash, kept in self._kept.items() if kept.on_disk}
        if any(not (kept.on_disk or kept.written) and kept.slot < 0 for kept in self._kept.values()):
            raise IntegrityError("a block is kept in no tier")
        if self.disk is None:
            return
        coming = sum(kept.written is not None for kept in self._kept.values())
        if not len(files) <= len(self.disk) <= len(files) + coming or any(hash not in self.disk for hash in files):
            raise IntegrityError(f"{len(files)} blocks are on disk, {len(self.disk)} files on its books")
        if not coming and (used := self.disk.used) > self.disk.budget:
            raise IntegrityError(f"{used} bytes on disk, of a budget of {self.disk.budget}")

    def _begin(self, load: Load, kept: Kept, tier: str, block: int, left: int, *, first: bool) -> None:
        """Begin to load one block, by way of host memory.

        Args:
            left: blocks of the load that are left, this one included.
            first: of a run from one tier.
        """
        hash, disk = kept.node.hash, self.disk
        slot = self._slot() if tier == DISK else kept.slot
        piece = Piece(kept, tier, slot, len(load.pieces))
        earlier = [ticket for ticket in (kept.written, self._last_of.get(slot)) if ticket is not None]
        place = self._memory[slot].numpy()

        def work() -> None:
            for ticket in earlier:  # what is on its way to this place, or to disk
                ticket.landed.wait()
            piece.began_ns = self._clock()
            if load.stop.is_set():
                return
            if disk is not None and tier == DISK:
                if first:
                    disk.ask()
                if not self._bring(disk, load, piece, left, place):
                    load.stop.set()
                    return
            else:
                piece.stored = self.block_bytes
                if self._check and checksum(place) != kept.digest:
                    raise IntegrityError(f"the block of hash {hash} came back from host memory with other bytes")
            self._write(block, slot)
            piece.filled = True

        piece.ticket = self._in.start([], to_host=False, work=work)
        load.pieces.append(piece)

    def _bring(self, disk: DiskTier, load: Load, piece: Piece, left: int, place: np.ndarray) -> bool:
        """Read a block from disk; False where it cannot be, or should not."""
        hash, level = piece.kept.node.hash, 0
        if hash not in disk:  # it could not be written
            return False
        sizes = disk.sizes(hash)
        if self.levels is not None and load.due is not None:
            left_s = (load.due.at_ns - self._clock()) / 1e9
            piece.chosen = self.levels.choose(sizes, piece.place, left, left_s, load.due)
            if piece.chosen.level == TEXT:
                return False
            level = self.levels.names.index(piece.chosen.level)
        decoded_ns, piece.stored = disk.decode_ns, sizes[level]
        if not disk.read(hash, place, load.stop, level):
            piece.damaged = not load.stop.is_set()
            return False
        piece.codec_ns = disk.decode_ns - decoded_ns
        return True

    def _due(self, request: Request, context: int, blocks: int) -> Due | None:
        """What a request's load is to be over for, by the bound on TTFT; None once it has its first token, and where no
        level is chosen.

        Args:
            context: tokens before the first of the blocks that are loaded.
            blocks: that are loaded.
        """
        if self.levels is None or request.first_token_ns is not None:
            return None
        tokens = request.num_known_tokens
        starts = [context + place * self._block_size for place in range(blocks + 1)]
        again = [self.choice.compute_s(tokens - start, start) for start in starts]
        seconds = tuple(each for each in again if each is not None)  # a rate is known for all, or for none
        rest_s = seconds[-1] if seconds else 0.0
        return Due(request.arrival_ns + round(1e9 * self.levels.ttft_s), rest_s, seconds[:-1])

    def _own(self, piece: Piece) -> bool:
        """Whether a load has a place in host memory of its own."""
        return piece.tier == DISK and piece.slot < self.host_blocks

    def _end(self, load: Load, piece: Piece) -> None:
        """One block of a load has landed, or was left out."""
        kept, hash = piece.kept, piece.kept.node.hash
        if load.cleared:
            return
        known = self._kept.get(hash) is kept
        if piece.filled and known:
            self._kept.move_to_end(hash)
        if self._own(piece):
            if piece.filled and known and kept.slot < 0:
                kept.slot = piece.slot
                if self._check:  # a codec may have changed them
                    kept.digest = checksum(self._memory[piece.slot].numpy())
            else:
                self._free.append(piece.slot)
        if piece.damaged and known and kept.slot < 0:
            self._forget(hash)

    def _tell(self, load: Load, done: int) -> None:
        """Write down what a load took, of its first ``done`` blocks."""
        first = 0
        for (tier, run), (load_s, again_s) in zip(runs_of(load.pieces), load.predicted, strict=True):
            filled = run[: max(0, done - first)]
            first += len(run)
            for part in by_level(filled):
                share = len(part) / len(run)
                predicted = [None if seconds is None else share * seconds for seconds in (load_s, again_s)]
                self._tell_part(load, tier, part, (predicted[0], predicted[1]))
            if any(piece.damaged for piece in run):
                self._moves.note(DAMAGED, tier, 0)
                self._totals["tier_damaged"] += 1
        if done < len(load.pieces) and (chosen := load.pieces[done].chosen) is not None and chosen.level == TEXT:
            left = load.pieces[done:]
            again_s = None if load.due is None or not load.due.again_s else load.due.again_s[done]
            stored = sum(self._stored(piece.tier, piece.kept) for piece in left)
            self._moves.each(DECLINE, left[0].tier, load.request, len(left), stored, (None, again_s)).say(chosen)

    def _tell_part(
        self, load: Load, tier: str, part: Sequence[Piece], predicted: tuple[float | None, float | None]
    ) -> None:
        """One row: blocks from one tier, at one level."""
        tickets = [piece.ticket for piece in part if piece.ticket is not None]
        took_ns = sum(ticket.end_ns - piece.began_ns for ticket, piece in zip(tickets, part, strict=True))
        stored = sum(piece.stored for piece in part)
        move = self._moves.each(LOAD, tier, load.request, len(part), stored, predicted)
        move.say(part[0].chosen)
        move.asked_ns, move.time_ns, move.duration_ns = load.asked_ns, tickets[-1].end_ns, took_ns
        move.waited_ns = sum(ticket.waited_ns for ticket in tickets)
        move.codec_ns = sum(piece.codec_ns for piece in part)
        self.choice.loaded(tier, len(part), took_ns / 1e9)
        self._totals[f"tier_{tier}_hits"] += len(part)
        self._count(took_ns, move.waited_ns)
