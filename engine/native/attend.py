"""Paged attention that reads the cache where it lies: one item of work is some tokens of a sequence and one KV head.

    queries of an item     its tokens x the query heads that share the KV head, a row each
    keys of its sequence   | tile of KEYS | tile of KEYS | ... |      found through the block table, tile by tile,
                                                                      or behind each other in a contiguous layout

Every tile: scores of all rows, the softmax that goes on from the tiles before (largest score and sum are kept, what was
summed is scaled when a larger score comes), and the values added by weight. All in float32. What is not stored as
float32 is unpacked a tile at a time into memory that stays in the first cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.native.code import FLOAT, INT32, WHOLE, Code, Value
from engine.native.maths import LOG2_E, exp2, four_totals, read, reduced, total, write
from engine.native.stored import Stored, unpack

KEYS = 64  # of a tile
ROWS = 24  # of an item, about
TILE_FIELDS = 4  # first row, tokens, keys that the first token sees, address of the block table or first slot (int64)
UNSEEN = -1e30  # a score that no key has


@dataclass(frozen=True)
class AttentionSpec:
    """What the kernel is made for."""

    kind: str  # of number, of queries and outputs
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    keys: Stored
    values: Stored
    lanes: int  # divide a head
    registers: int  # of the processor, for vectors
    contiguous: bool = False  # a sequence's slots are neighbours: its first slot stands in place of a block table

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def tokens(self) -> int:
        """Most tokens of an item."""
        return max(1, ROWS // self.group)

    @property
    def together(self) -> int:
        """Rows that are multiplied at once."""
        if self.group == 1:
            return 1
        return 3 if self.group % 3 == 0 else 2

    @property
    def most_rows(self) -> int:
        return -(-self.tokens * self.group // self.together) * self.together

    @property
    def vectors(self) -> int:
        """Of a head."""
        return self.head_dim // self.lanes


class Workspace:
    """What a thread keeps on its stack, and the side of the cache that it reads."""

    def __init__(self, code: Code, spec: AttentionSpec) -> None:
        rows, width = spec.most_rows, spec.head_dim
        self.queries = code.array(rows * width)
        self.sums = code.array(rows * width)
        self.scores = code.array(rows * KEYS)
        self.top, self.total = code.array(rows), code.array(rows)
        self.slots = code.array(KEYS, WHOLE)  # of the tile's keys, counted over all heads
        self.sides = [code.array(KEYS * width) if not side.in_place else None for side in (spec.keys, spec.values)]


def attend(code: Code, spec: AttentionSpec) -> None:
    """Arguments: items (tiles of queries times KV heads), slots of a head in the cache, tiles [tiles, TILE_FIELDS],
    queries [tokens, heads, head_dim], out like queries, keys, what is stored beside them, values, what is stored beside
    those."""
    items, slots_a_head = code.numbers(2)
    tiles, queries, out, keys, beside_keys, values, beside_values = code.pointers(7)
    work = Workspace(code, spec)
    with code.items(items) as item:
        head, tile = item % spec.kv_heads, item // spec.kv_heads * TILE_FIELDS
        first, tokens, seen = (code.load(tiles, tile + n, WHOLE) for n in range(3))
        lies = code.load(tiles, tile + 3, WHOLE)
        place = (first * spec.heads + head * spec.group) * spec.head_dim  # of the first token's first head
        rows = _begin(code, spec, work, queries, place, tokens)
        last = seen + tokens - 1
        with code.loop(0, last, KEYS) as start:
            count = code.minimum(last - start, KEYS)
            slot_at = _find(code, spec, work, lies, start, last, head * slots_a_head)
            row_at = _side(code, spec, spec.keys, slot_at, work.sides[0], keys, beside_keys, count, head)
            _score(code, spec, work, row_at, rows, count)
            _soften(code, spec, work, rows, count, tokens, seen - start)
            row_at = _side(code, spec, spec.values, slot_at, work.sides[1], values, beside_values, count, head)
            _add_values(code, spec, work, row_at, rows, count)
        _finish(code, spec, work, out, place, tokens)


def _begin(code: Code, spec: AttentionSpec, work: Workspace, queries: Value, place: Value, tokens: Value) -> Value:
    """Copy the queries, scaled; returns the number of rows, filled up to what is multiplied at once."""
    width, group = spec.head_dim, spec.group
    scale = width**-0.5 * LOG2_E
    nothing = code.number(0.0, spec.lanes)
    rows = tokens * group
    padded = rows
    if group % spec.together:
        padded = (rows + (spec.together - 1)) // spec.together * spec.together
        with code.loop(rows, padded) as row, code.loop(0, width, spec.lanes) as column:
            code.store(nothing, work.queries, row * width + column)
    with code.loop(0, padded) as row:
        code.store(code.number(UNSEEN), work.top, row)
        code.store(code.number(0.0), work.total, row)
        for at in range(0, width, spec.lanes):
            code.store(nothing, work.sums, row * width + at)
    with code.loop(0, tokens) as token, code.loop(0, group) as head:
        source, row = place + token * (spec.heads * width) + head * width, token * group + head
        for at in range(0, width, spec.lanes):
            query = read(code, spec.kind, queries, source + at, spec.lanes) * scale
            code.store(query, work.queries, row * width + at)
    return padded


def _find(
    code: Code, spec: AttentionSpec, work: Workspace, lies: Value, start: Value, last: Value, before: Value
) -> Callable[[Value], Value]:
    """From a key's number in the tile, up to a multiple of four, to its slot; ``before``: slots of the heads before
    this one. What lies beyond the last key is read and not used, so it is within the last key's block."""
    size = spec.block_size
    if spec.contiguous:
        first = lies + start + before
        return lambda t: first + (t if size % 4 == 0 else code.minimum(t, last - start - 1))
    table = code.address(lies)
    step = 4 if size % 4 == 0 else 1
    with code.loop(0, code.minimum((last - start + 3) // 4 * 4, KEYS), step) as t:
        place = start + t if step == 4 else code.minimum(start + t, last - 1)
        slot = code.load(table, place // size, WHOLE) * size + place % size + before
        for n in range(step):
            code.store(slot + n, work.slots, t + n)
    return lambda t: code.load(work.slots, t, WHOLE)


def _side(
    code: Code,
    spec: AttentionSpec,
    stored: Stored,
    slot_at: Callable[[Value], Value],
    room: Value | None,
    data: Value,
    beside: Value,
    count: Value,
    head: Value,
) -> Callable[[Value], Value]:
    """From a key's number in the tile to the address of its float32 numbers."""
    width = spec.head_dim
    if room is None:
        return lambda t: code.at(data, slot_at(t) * width, FLOAT)
    with code.loop(0, count) as t:
        unpack(code, stored, data, beside, slot_at(t), head, code.at(room, t * width, FLOAT))
    return lambda t: code.at(room, t * width, FLOAT)


def _score(
    code: Code, spec: AttentionSpec, work: Workspace, key_at: Callable[[Value], Value], rows: Value, count: Value
) -> None:
    """Scores of all rows with four keys at a time."""
    width, together = spec.head_dim, spec.together
    with code.loop(0, count, 4) as t:
        keys = [key_at(t + n) for n in range(4)]
        with code.loop(0, rows, together) as row:
            sums = [[code.number(0.0, spec.lanes)] * 4 for _ in range(together)]
            for at in range(0, width, spec.lanes):
                parts = [code.load(key, at, FLOAT, spec.lanes) for key in keys]
                for r in range(together):
                    query = code.load(work.queries, (row + r) * width + at, FLOAT, spec.lanes)
                    sums[r] = [code.fma(query, part, old) for part, old in zip(parts, sums[r], strict=True)]
            for r in range(together):
                code.store(four_totals(code, sums[r]), work.scores, (row + r) * KEYS + t)


def _soften(
    code: Code, spec: AttentionSpec, work: Workspace, rows: Value, count: Value, tokens: Value, seen: Value
) -> None:
    """Scores become weights; ``seen``: keys of this tile and beyond that the item's first token sees."""
    width, lanes = spec.head_dim, spec.lanes
    numbers = code.vector(list(range(lanes)), INT32)
    with code.loop(0, rows) as row:
        visible = code.minimum(seen + code.minimum(row // spec.group, tokens - 1), count)
        top = code.variable(code.number(UNSEEN, lanes))
        with code.loop(0, count, lanes) as t:
            scores = code.load(work.scores, row * KEYS + t, FLOAT, lanes)
            scores = code.select(numbers < code.cast("trunc", visible - t, INT32), scores, UNSEEN)
            code.store(scores, work.scores, row * KEYS + t)
            top.set(code.maximum(top.get(), scores))
        before = code.load(work.top, row, FLOAT)
        now = code.maximum(before, reduced(code, code.maximum, top.get()))
        sums = code.variable(code.number(0.0, lanes))
        with code.loop(0, count, lanes) as t:
            weights = exp2(code, code.load(work.scores, row * KEYS + t, FLOAT, lanes) - now)
            code.store(weights, work.scores, row * KEYS + t)
            sums.set(sums.get() + weights)
        kept = exp2(code, code.fill(before - now, lanes))
        code.store(
            code.fma(code.load(work.total, row, FLOAT), code.lane(kept, 0), total(code, sums.get())), work.total, row
        )
        with code.when(before < now):
            code.store(now, work.top, row)
            for at in range(0, width, lanes):
                code.store(code.load(work.sums, row * width + at, FLOAT, lanes) * kept, work.sums, row * width + at)


def _add_values(
    code: Code, spec: AttentionSpec, work: Workspace, value_at: Callable[[Value], Value], rows: Value, count: Value
) -> None:
    """Values by weight, added to the sums, as many vectors at once as there are registers for."""
    width, lanes, together = spec.head_dim, spec.lanes, spec.together
    room = max(1, spec.registers * 3 // 4 // together)
    at_once = next(n for n in range(min(room, spec.vectors), 0, -1) if spec.vectors % n == 0)
    with code.loop(0, rows, together) as row:
        for begin in range(0, spec.vectors, at_once):
            places = [[(row + r) * width + (begin + n) * lanes for n in range(at_once)] for r in range(together)]
            sums = [[code.variable(code.load(work.sums, at, FLOAT, lanes)) for at in line] for line in places]
            with code.loop(0, count) as t:
                value = value_at(t)
                parts = [code.load(value, (begin + n) * lanes, FLOAT, lanes) for n in range(at_once)]
                for r in range(together):
                    weight = code.fill(code.load(work.scores, (row + r) * KEYS + t, FLOAT), lanes)
                    for part, old in zip(parts, sums[r], strict=True):
                        old.set(code.fma(weight, part, old.get()))
            for line, at_line in zip(sums, places, strict=True):
                for partial, at in zip(line, at_line, strict=True):
                    code.store(partial.get(), work.sums, at)


def _finish(code: Code, spec: AttentionSpec, work: Workspace, out: Value, place: Value, tokens: Value) -> None:
    width, group = spec.head_dim, spec.group
    with code.loop(0, tokens) as token, code.loop(0, group) as head:
        target, row = place + token * (spec.heads * width) + head * width, token * group + head
        share = code.number(1.0) / code.load(work.total, row, FLOAT)
        for at in range(0, width, spec.lanes):
            result = code.load(work.sums, row * width + at, FLOAT, spec.lanes) * share
            write(code, spec.kind, result, out, target + at)
