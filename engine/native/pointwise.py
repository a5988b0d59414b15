"""What stands between a decoder's matrix products, each in one pass over its numbers: RMSNorm; the rotation of queries
and keys, stored where they belong; the gate of the MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.native.code import WHOLE, Code, Value
from engine.native.maths import read, rounded, silu, total, write

ROWS = 4  # that a thread takes at once
INLINE = 32_768  # numbers; fewer are no work for several threads


@dataclass(frozen=True)
class NormSpec:
    """RMSNorm over rows of this width."""

    kind: str  # of number
    width: int
    eps: float
    lanes: int


def norm_rows(code: Code, spec: NormSpec) -> None:
    """Arguments: groups of ``ROWS`` rows, rows, x [rows, width], weight [width], out [rows, width]."""
    groups, rows = code.numbers(2)
    x, weight, out = code.pointers(3)
    with code.items(groups) as group, code.loop(group * ROWS, code.minimum(group * ROWS + ROWS, rows)) as row:
        first = row * spec.width
        scale = root_mean_square(code, spec, lambda at: read(code, spec.kind, x, first + at, spec.lanes))
        with code.loop(0, spec.width, spec.lanes) as at:
            quotient = rounded(code, spec.kind, read(code, spec.kind, x, first + at, spec.lanes) * scale)
            write(code, spec.kind, quotient * read(code, spec.kind, weight, at, spec.lanes), out, first + at)


def root_mean_square(code: Code, spec: NormSpec, part: Callable[[Value], Value]) -> Value:
    """One over the root of the mean square (and eps); ``part(at)``: lanes from ``at`` on."""
    ways = next(n for n in (4, 3, 2, 1) if spec.width % (n * spec.lanes) == 0)  # sums that do not wait for each other
    sums = [code.variable(code.number(0.0, spec.lanes)) for _ in range(ways)]
    with code.loop(0, spec.width, ways * spec.lanes) as at:
        for way, partial in enumerate(sums):
            numbers = part(at + way * spec.lanes)
            partial.set(code.fma(numbers, numbers, partial.get()))
    whole = sums[0].get()
    for partial in sums[1:]:
        whole = whole + partial.get()
    return code.number(1.0) / code.sqrt(total(code, whole) * (1.0 / spec.width) + spec.eps)


def silu_mul(code: Code, kind: str, width: int, lanes: int) -> None:
    """Arguments: rows, gate and up side by side [rows, 2 * width], out [rows, width]."""
    (rows,) = code.numbers(1)
    both, out = code.pointers(2)
    with code.items(rows) as row, code.loop(0, width, lanes) as at:
        gate = read(code, kind, both, row * (2 * width) + at, lanes)
        up = read(code, kind, both, row * (2 * width) + at + width, lanes)
        write(code, kind, rounded(code, kind, silu(code, gate)) * up, out, row * width + at)


@dataclass(frozen=True)
class RopeSpec:
    """Heads side by side in a row: queries, keys, values."""

    kind: str  # of number
    heads: int
    kv_heads: int
    head_dim: int
    lanes: int  # divides half a head
    eps: float | None = None  # of the norm over each head of queries and keys before they turn; None: there is none
    stores: bool = True  # keys and values go to their slots of the cache; else keys beside the queries, values nowhere


def rope_store(code: Code, spec: RopeSpec) -> None:
    """Arguments: rows, slots of a head in the cache, positions [rows], slots [rows], heads side by side
    [rows, heads + 2 * kv_heads, head_dim], table [positions, 2, head_dim], norm weights [heads + kv_heads, head_dim],
    queries, keys, values.

    With ``stores`` queries are [rows, heads, head_dim], keys and values the cache's [kv_heads, slots, head_dim];
    without, queries are [rows, heads + kv_heads, head_dim], keys behind them.
    """
    rows, slots_a_head = code.numbers(2)
    positions, slots, row_heads, table, weights, queries, keys, values = code.pointers(8)
    width, turned = spec.head_dim, spec.heads + spec.kv_heads
    with code.items(rows) as row:
        angles = code.load(positions, row, WHOLE) * (2 * width)
        first = row * (turned + spec.kv_heads)
        here = row * (spec.heads if spec.stores else turned)
        with code.loop(0, spec.heads if spec.stores else turned) as head:
            _turn(code, spec, row_heads, (first + head) * width, table, angles, weights, head, queries, here + head)
        if spec.stores:
            slot = code.load(slots, row, WHOLE)
            with code.loop(0, spec.kv_heads) as head:
                place, key = head * slots_a_head + slot, head + spec.heads
                _turn(code, spec, row_heads, (first + key) * width, table, angles, weights, key, keys, place)
                for at in range(0, width, spec.lanes):
                    value = read(code, spec.kind, row_heads, (first + key + spec.kv_heads) * width + at, spec.lanes)
                    write(code, spec.kind, value, values, place * width + at)


def _turn(
    code: Code,
    spec: RopeSpec,
    source: Value,
    first: Value,
    table: Value,
    angles: Value,
    weights: Value,
    head: Value,
    target: Value,
    place: Value,
) -> None:
    """Turn the head at number ``first`` of ``source`` and write it to head ``place`` of ``target``."""
    kind, width, lanes = spec.kind, spec.head_dim, spec.lanes
    half = width // 2

    def numbers(at: Value) -> Value:
        return read(code, kind, source, first + at, lanes)

    scale = None
    if spec.eps is not None:
        norm = NormSpec(kind, width, spec.eps, lanes)
        scale = root_mean_square(code, norm, numbers)
    for at in range(0, half, lanes):
        low, high = numbers(code.number(at)), numbers(code.number(at + half))
        if scale is not None:
            low, high = (
                rounded(
                    code,
                    kind,
                    rounded(code, kind, part * scale) * read(code, kind, weights, head * width + there, lanes),
                )
                for part, there in ((low, at), (high, at + half))
            )
        cos = read(code, kind, table, angles + at, lanes)
        sin = read(code, kind, table, angles + (width + half + at), lanes)  # the second half's: its sign is as it is
        write(code, kind, low * cos - high * sin, target, place * width + at)
        write(code, kind, high * cos + low * sin, target, place * width + (at + half))
