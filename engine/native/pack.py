"""Packing new keys and values into a cache, one pass over each head: the codes and steps that the codec's own
``encode`` gives (``engine.kv.codecs.forms``), to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.native.code import FLOAT, HALF, INT8, INT16, INT32, WHOLE, Code, Value
from engine.native.maths import read, reduced, rounded, total, write
from engine.native.stored import Stored

PACKED = frozenset({"signed8", "asymmetric"})  # kinds of ``Stored`` that are packed here


@dataclass(frozen=True)
class PackSpec:
    """What the kernel is made for."""

    kind: str  # of number
    kv_heads: int
    keys: Stored
    values: Stored


def pack_rows(code: Code, spec: PackSpec) -> None:
    """Arguments: rows, slots of a head in the cache, numbers from one row of keys to the next, of values, slots [rows],
    keys, values [rows, kv_heads, head_dim], packed keys, their steps, packed values, theirs."""
    rows, slots_a_head, key_step, value_step = code.numbers(4)
    slots, keys, values, key_data, key_steps, value_data, value_steps = code.pointers(7)
    sides = (
        (spec.keys, keys, key_step, key_data, key_steps),
        (spec.values, values, value_step, value_data, value_steps),
    )
    with code.items(rows) as row:
        slot = code.load(slots, row, WHOLE)
        with code.loop(0, spec.kv_heads) as head:
            for stored, source, step, data, beside in sides:
                first = row * step + head * stored.head_dim
                _pack(code, spec.kind, stored, source, first, data, beside, head * slots_a_head + slot)


def _pack(
    code: Code, kind: str, stored: Stored, source: Value, first: Value, data: Value, beside: Value, slot: Value
) -> None:
    """One head's numbers, from number ``first`` of ``source`` on, into its slot."""
    width, lanes = stored.head_dim, stored.lanes
    groups, each = width // stored.group, stored.group // lanes
    numbers = [read(code, kind, source, first + at, lanes) for at in range(0, width, lanes)]
    encode = _signed if stored.kind == "signed8" else _asymmetric
    codes: list[Value] = []
    for group in range(groups):
        codes += encode(code, stored, numbers[group * each : (group + 1) * each], beside, slot * groups + group)
    if stored.kind == "signed8":
        for place, part in enumerate(codes):
            code.store(code.cast("trunc", part, INT8), data, slot * width + place * lanes)
    else:
        _side_by_side(code, stored, codes, data, slot * (width * stored.bits // 8))


def _signed(code: Code, stored: Stored, numbers: Sequence[Value], beside: Value, index: Value) -> list[Value]:
    sizes = [code.intrinsic("llvm.fabs", part) for part in numbers]
    step = _kept(code, stored, _of_all(code, code.maximum, sizes) / 127.0, beside, index)
    divisor = code.select(step > 0.0, step, 1.0)
    return [_whole(code, part / divisor, -127.0, 127.0) for part in numbers]


def _asymmetric(code: Code, stored: Stored, numbers: Sequence[Value], beside: Value, index: Value) -> list[Value]:
    top = float((1 << stored.bits) - 1)
    least = _kept(code, stored, _of_all(code, code.minimum, numbers), beside, index * 2 + 1)
    reach = code.maximum(_of_all(code, code.maximum, numbers) - least, 0.0)
    step = _kept(code, stored, reach / top, beside, index * 2)
    divisor = code.select(step > 0.0, step, 1.0)
    return [_whole(code, (part - least) / divisor, 0.0, top) for part in numbers]


def _of_all(code: Code, pick: Callable[[Value, Value], Value], vectors: Sequence[Value]) -> Value:
    first = vectors[0]
    for vector in vectors[1:]:
        first = pick(first, vector)
    return reduced(code, pick, first)


def _whole(code: Code, numbers: Value, least: float, most: float) -> Value:
    """Rounded to whole numbers, ties to even, within bounds, [lanes] int32."""
    bounded = code.minimum(code.maximum(code.intrinsic("llvm.rint", numbers), least), most)
    return code.cast("fptosi", bounded, INT32)


def _kept(code: Code, stored: Stored, number: Value, beside: Value, index: Value) -> Value:
    """Store a step or minimum; returns it as it is stored."""
    if stored.metadata == "float16":
        half = code.cast("fptrunc", number, HALF)
        code.store(half, beside, index)
        return code.cast("fpext", half, FLOAT)
    write(code, stored.metadata, number, beside, index)
    return rounded(code, stored.metadata, number)


def _side_by_side(code: Code, stored: Stored, codes: Sequence[Value], data: Value, row: Value) -> None:
    """Codes of 4 or 5 bits as ``engine.kv.codecs.packing`` lays them out: two nibbles a byte, then the fifth bits."""
    lanes, half = stored.lanes, len(codes) // 2
    for place in range(half):
        both = (codes[place] & 15) | ((codes[place + half] & 15) << 4)
        code.store(code.cast("trunc", both, INT8), data, row + place * lanes)
    if stored.bits == 4:
        return
    order = code.vector(list(range(lanes)), INT32)
    fifths = [total(code, (part >> 4) << order) for part in codes]
    if lanes == 4:
        fifths = [low | (high << 4) for low, high in zip(fifths[::2], fifths[1::2], strict=True)]
    kind = INT16 if lanes == 16 else INT8
    base = code.at(data, row + stored.head_dim // 2, INT8)
    for place, bits in enumerate(fifths):
        code.store(code.cast("trunc", bits, kind), base, place)
