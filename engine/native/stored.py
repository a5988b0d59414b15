"""How a kernel reads what a cache stores: a token's numbers of one head, as float32, by the forms of
``engine.kv.codecs.forms``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from engine.kv.cache import KVCache
from engine.kv.codecs.forms import Float8, Form, PerToken, Symmetric8
from engine.kv.quantized import PackedRows, QuantizedCache
from engine.native.code import FLOAT, HALF, INT8, INT16, INT32, Code, Value
from engine.native.maths import read

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Stored:
    """One side of a cache."""

    kind: str  # float32 and bfloat16 as they are, signed8, asymmetric, e4m3
    head_dim: int
    lanes: int
    bits: int = 0  # of a code
    group: int = 0  # channels that share a step
    metadata: str = ""  # format of steps and minima

    @property
    def in_place(self) -> bool:
        """Whether it can be multiplied as it lies."""
        return self.kind == "float32"


def unread_form(form: Form) -> str | None:
    """Why kernels do not read a side that is stored so, whatever its widths; None where they do."""
    if not isinstance(form, Float8 | Symmetric8 | PerToken):
        return "they read no steps per channel"
    if isinstance(form, PerToken) and form.width not in (4, 5):
        return f"they read no numbers of {form.width} bits"
    return None


def widths(form: Form, head_dim: int) -> tuple[int, ...]:
    """Numbers side by side that a vector must divide."""
    half = head_dim // 2 if isinstance(form, PerToken) else head_dim
    return (half, form.group) if isinstance(form, Symmetric8 | PerToken) else (half,)


def stored_as(form: Form, head_dim: int, lanes: int) -> Stored:
    if isinstance(form, Float8):
        return Stored("e4m3", head_dim, lanes)
    assert isinstance(form, Symmetric8 | PerToken)
    kind, bits = ("signed8", 8) if isinstance(form, Symmetric8) else ("asymmetric", form.width)
    return Stored(kind, head_dim, lanes, bits, form.group, _NAMES[form.metadata])


def addresses(cache: KVCache, layer: int) -> tuple[int, int, int, int]:
    """Keys, what is stored beside them, values, what is stored beside those, of one layer."""
    if isinstance(cache, QuantizedCache):
        return (*_packed(cache.packed_keys[layer]), *_packed(cache.packed_values[layer]))
    return cache.key_blocks[layer].data_ptr(), 0, cache.value_blocks[layer].data_ptr(), 0


def _packed(rows: PackedRows) -> tuple[int, int]:
    beside = rows.meta if rows.meta is not None else rows.scale
    return rows.codes.data_ptr(), 0 if beside is None else beside.data_ptr()


def unpack(code: Code, stored: Stored, data: Value, beside: Value, slot: Value, head: Value, target: Value) -> None:
    """Write the numbers of one slot to ``target``, float32."""
    for at in range(0, stored.head_dim, stored.lanes):
        code.store(_part(code, stored, data, beside, slot, head, at), target, at)


def _part(code: Code, stored: Stored, data: Value, beside: Value, slot: Value, head: Value, at: int) -> Value:
    width, lanes = stored.head_dim, stored.lanes
    if stored.kind in ("float32", "bfloat16"):
        return read(code, stored.kind, data, slot * width + at, lanes)
    if stored.kind == "e4m3":
        return _e4m3(code, code.load(data, slot * width + at, INT8, lanes)) * code.load(beside, head, FLOAT)
    groups = width // stored.group
    if stored.kind == "signed8":
        numbers = code.cast("sitofp", code.load(data, slot * width + at, INT8, lanes), FLOAT)
        return numbers * _one(code, stored.metadata, beside, slot * groups + at // stored.group)
    step, least = (
        _one(code, stored.metadata, beside, (slot * groups + at // stored.group) * 2 + side) for side in range(2)
    )
    numbers = code.cast("sitofp", _narrow(code, stored, data, slot, at), FLOAT)
    return numbers * step + least


def _narrow(code: Code, stored: Stored, data: Value, slot: Value, at: int) -> Value:
    """Codes of 4 or 5 bits as ``engine.kv.codecs.packing`` lays them out, [lanes] int32."""
    width, lanes, half = stored.head_dim, stored.lanes, stored.head_dim // 2
    row = slot * (width * stored.bits // 8)
    nibbles = code.cast("zext", code.load(data, row + at % half, INT8, lanes), INT32)
    nibbles = nibbles & 15 if at < half else nibbles >> 4
    if stored.bits == 4:
        return nibbles
    kind: Any = INT16 if lanes == 16 else INT8  # a bit for each lane; four lanes take half a byte
    place = code.at(data, row + (half + at // 8), INT8)
    fifths = code.cast("zext", code.load(place, 0, kind), INT32)
    bits = code.fill(fifths, lanes) >> code.vector([n + at % 8 for n in range(lanes)], INT32)
    return nibbles | ((bits & 1) << 4)


def _e4m3(code: Code, codes: Value) -> Value:
    """The sign, and exponent and mantissa moved to where a float32 has them; the exponents' biases differ by 120."""
    whole = code.cast("sext", codes, INT32)  # the sign fills everything above
    bits = (whole << 20) & -(1 << 31) | (whole << 20) & (0x7F << 20)
    return code.cast("bitcast", bits, FLOAT) * 2.0**120


def _one(code: Code, metadata: str, base: Value, index: Value) -> Value:
    """A step or minimum."""
    if metadata == "float32":
        return code.load(base, index, FLOAT)
    if metadata == "float16":
        return code.cast("fpext", code.load(base, index, HALF), FLOAT)
    bits = code.cast("zext", code.load(base, index, INT16), INT32) << 16
    return code.cast("bitcast", bits, FLOAT)
