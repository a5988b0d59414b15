"""The host's side of shared prefixes: which rows of a batch share what, cut into work that fills the device.

    pieces (``engine.attention.groups``)     items of ``shared_prefixes``, one tile of rows x one stretch of places each
    rows 0-9 share 512 places           ->   rows 0-7 x 0-256, rows 8-9 x 0-256, rows 0-7 x 256-512, rows 8-9 x 256-512

The tiles of a stretch follow each other, so that what the first of them reads the others find in the cache of the chip.
Which rows share what is found anew when somebody comes, goes or is given other blocks; a table that only grows changes
nothing.

How the work is cut depends on the batch, and that is safe in a graph: its grid is as large as the work may become
(``most``), and an item that is not there has no members. A step whose prefixes do not fit into that, being nested more
deeply, runs outside graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.attention.groups import GroupRule, Piece
from engine.block_table import whole_blocks
from engine.gpu.attention.configs import Tile, fewest_of_each, items_for, segments_for, stretch_for, tile_for

GRAPH_LEVELS = 4  # of a tree of prefixes that a recorded graph has room for, were every row below that many
ITEM_WORDS = 5
_PER_ROW = ("covered", "part_starts", "shared_parts")


@dataclass(frozen=True, slots=True)
class WorkSize:
    """How much there is, or may be, of each."""

    items: int
    members: int
    parts: int

    def holds(self, other: WorkSize) -> bool:
        return self.items >= other.items and self.members >= other.members and self.parts >= other.parts


@dataclass(frozen=True, slots=True)
class PrefixWork:
    """The arrays that the kernels read, named as in ``engine.gpu.batch.SharedRows``, and how much there is in them."""

    arrays: dict[str, np.ndarray]  # all int32
    extent: WorkSize


class PrefixPasses:
    """Plans the passes over shared prefixes for one attention backend."""

    def __init__(
        self,
        rule: GroupRule,
        *,
        block_size: int,
        group: int,
        kv_heads: int,
        element_bytes: int,
        padded_dim: int,
        processors: int,
        bits: int = 16,
    ) -> None:
        self.rule = rule
        self.block_size = block_size
        self.group = group
        self._kv_heads = kv_heads
        self._element_bytes = element_bytes
        self._padded_dim = padded_dim
        self._bits = bits
        self._processors = processors
        self._items = items_for(kv_heads, processors)
        self._versions: list[int] = []
        self._found: PrefixGroups | None = None

    def of(self, versions: list[int], tables: Sequence[np.ndarray], kv_lens: np.ndarray) -> PrefixGroups | None:
        """What single tokens share, None where that is not worth a pass.

        Args:
            versions: per row a number that changes with its request and with its block table, but not as the table
                grows.
            tables: per row its blocks.
            kv_lens: per row the keys it sees.
        """
        if len(versions) < self.rule.min_rows:
            return None
        known = versions == self._versions
        if known and (self._found is None or (self._found.covered < kv_lens).all()):
            return self._found
        paths = [
            table[:whole]
            for table, whole in zip(tables, whole_blocks(kv_lens - 1, self.block_size).tolist(), strict=True)
        ]
        pieces = self.rule.find(paths)
        self._versions = versions
        self._found = PrefixGroups(self, pieces, len(versions)) if pieces else None
        return self._found

    def tile(self, rows: int) -> Tile:
        """The tile for prefixes that some of this many rows share."""
        return tile_for(self._element_bytes, self._padded_dim, rows * self.group, self._bits)

    def tile_changes(self, rows: int) -> list[int]:
        """The fewest rows that have each tile, of up to this many that may share."""
        return fewest_of_each(self.tile, rows)

    def segments(self, rows: int) -> int:
        """Into how many segments each row's own keys are cut."""
        return segments_for(rows * self._kv_heads, self._processors)

    def most(self, rows: int) -> WorkSize:
        """What a graph for this many rows has room for.

        Pieces of one level have different rows, ``min_rows`` each at least, so a level has at most rows / tile + rows /
        min_rows tiles.
        """
        tokens = self.tile(rows).block_m // self.group
        levels = GRAPH_LEVELS if self.rule.tree else 1
        return WorkSize(
            items=self._items + levels * (rows // tokens + rows // self.rule.min_rows),
            members=levels * rows,
            parts=levels * rows + tokens * self._items + rows * self.segments(rows),
        )

    def words(self, rows: int) -> dict[str, int]:
        """How long the arrays of ``PrefixWork`` are in a graph for this many rows, by name."""
        most = self.most(rows)
        return {**dict.fromkeys(_PER_ROW, rows), "members": most.members, "items": ITEM_WORDS * most.items}

    def cut(self, pieces: Sequence[Piece], rows: int) -> list[int]:
        """Into how many stretches each piece is cut: enough items to fill the device, none so short that its results
        outweigh it."""
        tile = self.tile(rows)
        tiles = [-(-len(piece.rows) // (tile.block_m // self.group)) for piece in pieces]
        steps = [-(-len(piece.blocks) * self.block_size // tile.block_n) for piece in pieces]
        work = sum(t * s for t, s in zip(tiles, steps, strict=True))
        each = stretch_for(tile, max(steps), -(-work // self._items))
        return [-(-s // each) for s in steps]


@dataclass
class PrefixGroups:
    """Pieces that rows of a batch share; stays as long as they do."""

    passes: PrefixPasses
    pieces: list[Piece]
    rows: int
    covered: np.ndarray = field(init=False)  # [rows] int32, places of each row that its pieces cover
    spared_tokens: int = field(init=False)  # keys per layer that are not read a second time
    _works: dict[int, PrefixWork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.passes.block_size
        self.pieces = sorted(self.pieces, key=lambda piece: piece.first)  # a piece before those that go on from it
        self.spared_tokens = size * sum(piece.spared_blocks for piece in self.pieces)
        self.covered = np.zeros(self.rows, np.int32)
        for piece in self.pieces:
            self.covered[list(piece.rows)] = (piece.first + len(piece.blocks)) * size

    def fits(self, rows: int) -> bool:
        """Whether a graph for this many rows has room."""
        return self.passes.most(rows).holds(self.work(rows).extent)

    def work(self, rows: int) -> PrefixWork:
        """The work as it is cut for a batch of this many rows, padding included."""
        if rows not in self._works:
            self._works[rows] = self._lay_out(rows)
        return self._works[rows]

    def _lay_out(self, rows: int) -> PrefixWork:
        passes = self.passes
        tile, size = passes.tile(rows), passes.block_size
        tokens = tile.block_m // passes.group
        shared_parts = np.zeros(self.rows, np.int32)
        members: list[int] = []
        items: list[tuple[int, int, int, int, int]] = []
        for piece, segments in zip(self.pieces, passes.cut(self.pieces, rows), strict=True):
            start, stop = piece.first * size, (piece.first + len(piece.blocks)) * size
            stretch = -(-(stop - start) // (segments * tile.block_n)) * tile.block_n
            before = int(shared_parts[piece.rows[0]])  # of the pieces above, which all of these rows share
            starts = range(start, stop, stretch)
            for segment, at in enumerate(starts):
                items += [
                    (
                        len(members) + first,
                        min(tokens, len(piece.rows) - first),
                        at,
                        min(stop, at + stretch),
                        before + segment,
                    )
                    for first in range(0, len(piece.rows), tokens)
                ]
            members += piece.rows
            shared_parts[list(piece.rows)] += len(starts)
        parts = shared_parts + passes.segments(rows)
        part_starts = np.zeros(self.rows, np.int32)
        np.cumsum(parts[:-1], out=part_starts[1:])
        arrays = {
            "covered": self.covered,
            "part_starts": part_starts,
            "shared_parts": shared_parts,
            "members": np.array(members, np.int32),
            "items": np.array(items, np.int32).flatten(),
        }
        return PrefixWork(arrays, WorkSize(len(items), len(members), int(parts.sum())))
