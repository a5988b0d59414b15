"""Packed numbers as the kernels know them: which form a codec has, and how one tile of it is unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kv.codecs import Codec
from engine.kv.codecs.forms import Float8, Form, PerChannel, PerToken, Symmetric8, alike_but_for_bits
from engine.kv.quantized import PackedRows

PLAIN: tl.constexpr = tl.constexpr(0)
SYMMETRIC: tl.constexpr = tl.constexpr(1)  # int8 codes, a step per token and group of channels
ASYMMETRIC: tl.constexpr = tl.constexpr(2)  # codes side by side in bytes, step and minimum per token and group
FLOAT8: tl.constexpr = tl.constexpr(3)  # e4m3 bytes, a scale per head
PER_CHANNEL: tl.constexpr = tl.constexpr(4)  # as ASYMMETRIC, but step and minimum per channel and group of tokens
FEWEST_READ_BY_BYTES: tl.constexpr = tl.constexpr(32)  # rows, and numbers of each
ROUNDER: tl.constexpr = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds to even
FEWEST_BITS_AT_ONCE = 4  # that ``engine.gpu.kernels.rope_pack`` lays side by side


@dataclass(frozen=True)
class SideForm:
    """How keys, or values, are stored."""

    number: int
    bits: int
    group: int  # channels that share a step; of PER_CHANNEL tokens

    @classmethod
    def of(cls, form: Form, head_dim: int) -> SideForm:
        if isinstance(form, Symmetric8):
            return cls(SYMMETRIC.value, 8, form.group)
        if isinstance(form, PerToken):
            return cls(ASYMMETRIC.value, form.width, form.group)
        if isinstance(form, PerChannel):
            return cls(PER_CHANNEL.value, form.width, form.group)
        assert isinstance(form, Float8)
        return cls(FLOAT8.value, 8, head_dim)


@dataclass(frozen=True)
class KernelForm:
    """What the kernels are compiled for.

    ``at_once``: keys and values are packed one token at a time and alike, in the pass that rotates them (``engine.gpu.kernels.rope_pack``);
    else by a kernel of their own (``engine.gpu.kernels.pack``). ``window``: tokens that are packed together, 0 for none.
    """

    keys: SideForm
    values: SideForm
    at_once: bool = True
    window: int = 0

    @classmethod
    def of(cls, codec: Codec | None, head_dim: int) -> KernelForm:
        if codec is None:
            plain = SideForm(PLAIN.value, 16, head_dim)
            return cls(plain, plain)
        keys, values = SideForm.of(codec.keys, head_dim), SideForm.of(codec.values, head_dim)
        alike = alike_but_for_bits(codec.keys, codec.values) and keys.number != PER_CHANNEL.value
        wide = min(keys.bits, values.bits) >= FEWEST_BITS_AT_ONCE
        return cls(keys, values, alike and wide and not codec.window, codec.window)

    @property
    def bits(self) -> int:
        """Of a stored number, of keys or values the fewer."""
        return min(self.keys.bits, self.values.bits)

    def constants(self) -> dict[str, int]:
        """The arguments that every kernel which reads or writes both sides is compiled for."""
        return {
            "KEY_FORM": self.keys.number,
            "KEY_BITS": self.keys.bits,
            "KEY_GROUP": self.keys.group,
            "VALUE_FORM": self.values.number,
            "VALUE_BITS": self.values.bits,
            "VALUE_GROUP": self.values.group,
        }


class Side(NamedTuple):
    """One layer's packed keys or values; None where the form has none."""

    codes: torch.Tensor
    meta: torch.Tensor | None
    scale: torch.Tensor | None

    @classmethod
    def of(cls, rows: PackedRows) -> Side:
        return cls(rows.codes, rows.meta, rows.scale)


@triton.jit
def channel_steps(
    meta, rows, dims, wanted,
    ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Step and minimum of each channel for slots ``rows`` of one head, read once for a run of rows in one group where runs are even."""
    RUN: tl.constexpr = GROUP if GROUP < ROWS else ROWS
    REST: tl.constexpr = GROUP % RUN + ROWS % RUN
    if REST == 0:
        RUNS: tl.constexpr = ROWS // RUN
        group = tl.max(tl.reshape(rows // GROUP, [RUNS, RUN]), 1)
        place = meta + group[:, None] * (2 * HEAD_DIM) + (dims * 2)[None, :]
        inside = (dims < HEAD_DIM)[None, :]
        step = tl.load(place, mask=inside, other=0.0)
        least = tl.load(place + 1, mask=inside, other=0.0)
        if RUNS > 1:
            step = tl.reshape(tl.broadcast_to(step[:, None, :], [RUNS, RUN, HEAD_P]), [ROWS, HEAD_P])
            least = tl.reshape(tl.broadcast_to(least[:, None, :], [RUNS, RUN, HEAD_P]), [ROWS, HEAD_P])
    else:
        place = meta + (rows // GROUP)[:, None] * (2 * HEAD_DIM) + (dims * 2)[None, :]
        step = tl.load(place, mask=wanted, other=0.0)
        least = tl.load(place + 1, mask=wanted, other=0.0)
    return step, least


@triton.jit
def e4m3(codes):
    """What bytes of e4m3 stand for, divided by 256: a half with the same bits, below its normal range too; float32."""
    bits = codes.to(tl.int32)
    half = (((bits & 127) << 7) | ((bits & 128) << 8)).to(tl.uint16).to(tl.float16, bitcast=True)
    return half.to(tl.float32)


@triton.jit
def unpack_numbers(
    codes, meta, scale, rows, dims, wanted,
    ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr,
    FORM: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """As ``unpack``, number by number; 0 where not wanted."""
    WIDTH: tl.constexpr = HEAD_DIM * BITS // 8
    GROUPS: tl.constexpr = HEAD_DIM // GROUP  # of one token
    LOW_BITS: tl.constexpr = 4 if BITS == 5 else BITS
    LOW_WIDTH: tl.constexpr = HEAD_DIM * LOW_BITS // 8
    row = codes + rows[:, None] * WIDTH
    packed = tl.load(row + (dims % LOW_WIDTH)[None, :], mask=wanted, other=0)
    if FORM == FLOAT8:
        result = e4m3(packed) * (256.0 * tl.load(scale))
    elif FORM == SYMMETRIC:
        if GROUPS == 1:
            step = tl.load(meta + rows)[:, None]
        else:
            step = tl.load(meta + rows[:, None] * GROUPS + (dims // GROUP)[None, :], mask=wanted, other=0.0)
        result = tl.where(wanted, packed.to(tl.float32) * step.to(tl.float32), 0.0)
    else:
        numbers = (packed.to(tl.int32) >> (dims // LOW_WIDTH * LOW_BITS)[None, :]) & ((1 << LOW_BITS) - 1)
        if BITS == 5:  # the fifth bits lie behind the nibbles
            fifth = tl.load(row + LOW_WIDTH + (dims // 8)[None, :], mask=wanted, other=0).to(tl.int32)
            numbers |= ((fifth >> (dims % 8)[None, :]) & 1) << 4
        if FORM == PER_CHANNEL:
            step, least = channel_steps(meta, rows, dims, wanted, ROWS, HEAD_DIM, HEAD_P, GROUP)
        elif GROUPS == 1:
            step = tl.load(meta + rows * 2)[:, None]
            least = tl.load(meta + rows * 2 + 1)[:, None]
        else:
            place = meta + rows[:, None] * (2 * GROUPS) + (dims // GROUP * 2)[None, :]
            step = tl.load(place, mask=wanted, other=0.0)
            least = tl.load(place + 1, mask=wanted, other=0.0)
        result = tl.where(wanted, numbers.to(tl.float32) * step.to(tl.float32) + least.to(tl.float32), 0.0)
    return result


@triton.jit
def slots(block, places, BLOCK_SIZE: tl.constexpr):
    """Slots of places that lie in ``block``, one for all or one each."""
    # Triton 3.6 takes the sum to be as even as its first place is, and reads packed rows of, say, 40 bytes 16 at a time.
    return tl.multiple_of(block.to(tl.int64) * BLOCK_SIZE + places % BLOCK_SIZE, 1)


@triton.jit
def steps_and_minimums(meta, first, wanted, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """COUNT pairs that lie side by side from ``first`` [ROWS] on: steps [ROWS, COUNT] and minimums, float32; 0 where not wanted [ROWS]."""
    place = meta + first[:, None] + tl.arange(0, 2 * COUNT)[None, :]
    both = tl.load(place, mask=wanted[:, None], other=0.0)
    return tl.split(tl.reshape(both.to(tl.float32), [ROWS, COUNT, 2]))


@triton.jit
def halves(x, BITS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """x [ROWS, WIDTH] of two numbers of so many bits -> [ROWS, 2 * WIDTH]: the lower ones first."""
    both = tl.join(x & ((1 << BITS) - 1), x >> BITS)
    return tl.reshape(tl.permute(both, (0, 2, 1)), [ROWS, 2 * WIDTH])


@triton.jit
def side_by_side(packed, BITS: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """packed [ROWS, bytes] -> [ROWS, HEAD_DIM]: a row's lowest bits first, then the next ones (``engine.kv.codecs.packing``)."""
    WIDTH: tl.constexpr = HEAD_DIM * BITS // 8
    numbers = halves(packed, 4, ROWS, WIDTH)
    if BITS == 2:  # each nibble as a row of its own
        numbers = halves(tl.reshape(numbers, [2 * ROWS, WIDTH]), 2, 2 * ROWS, WIDTH)
    return tl.reshape(numbers, [ROWS, HEAD_DIM])


@triton.jit
def unpack_bytes(
    codes, meta, scale, rows, inside, run_rows, runs_inside,
    ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, FORM: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """As ``unpack``: each byte, step and minimum is read once, and meets its numbers in registers."""
    LOW_BITS: tl.constexpr = 4 if BITS == 5 else BITS
    LOW_WIDTH: tl.constexpr = HEAD_DIM * LOW_BITS // 8
    GROUPS: tl.constexpr = HEAD_DIM // GROUP  # of channels
    row = codes + rows[:, None] * (HEAD_DIM * BITS // 8)
    packed = tl.load(row + tl.arange(0, LOW_WIDTH)[None, :], mask=inside[:, None], other=0)
    if LOW_BITS < 8:
        packed = side_by_side(packed, LOW_BITS, ROWS, HEAD_DIM)
    if BITS == 5:  # the fifth bits lie behind the nibbles
        EIGHTHS: tl.constexpr = HEAD_DIM // 8
        place = row + LOW_WIDTH + tl.arange(0, EIGHTHS)[None, :]
        fifths = tl.load(place, mask=inside[:, None], other=0)
        fifth = (fifths[:, :, None] >> tl.arange(0, 8).to(tl.uint8)[None, None, :]) & 1
        packed = tl.reshape(tl.reshape(packed, [ROWS, EIGHTHS, 8]) | (fifth << 4), [ROWS, HEAD_DIM])
    if FORM == FLOAT8:
        result = e4m3(packed) * (256.0 * tl.load(scale))
    elif FORM == SYMMETRIC:
        place = meta + rows[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
        step = tl.load(place, mask=inside[:, None], other=0.0).to(tl.float32)
        result = tl.reshape(packed, [ROWS, GROUPS, GROUP]).to(tl.float32) * step[:, :, None]
    elif FORM == ASYMMETRIC:
        step, least = steps_and_minimums(meta, rows * (2 * GROUPS), inside, ROWS, GROUPS)
        result = tl.reshape(packed, [ROWS, GROUPS, GROUP]).to(tl.float32) * step[:, :, None] + least[:, :, None]
    else:
        RUNS: tl.constexpr = run_rows.shape[0]
        step, least = steps_and_minimums(meta, run_rows // GROUP * (2 * HEAD_DIM), runs_inside, RUNS, HEAD_DIM)
        result = (
            tl.reshape(packed, [RUNS, ROWS // RUNS, HEAD_DIM]).to(tl.float32) * step[:, None, :] + least[:, None, :]
        )
    return tl.reshape(result, [ROWS, HEAD_DIM])


@triton.jit
def unpack(
    codes, meta, scale, rows, inside, table, at, stop,
    ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    FORM: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Slots ``rows`` of one head, [ROWS, HEAD_P] float32, of which those ``inside`` are read; the others are finite.

    ``codes``, ``meta``: of that head; ``scale``: its address. ``rows`` are those of places ``at`` and following of the sequence with this
    ``table``, of which those before ``stop`` are inside. PER_CHANNEL: ``at`` is a multiple of the smaller of GROUP and ROWS where one divides
    the other.
    """
    RUN: tl.constexpr = GROUP if FORM == PER_CHANNEL and GROUP < ROWS else ROWS  # rows that share their channels' steps
    EVEN: tl.constexpr = HEAD_P == HEAD_DIM and (FORM != PER_CHANNEL or GROUP % RUN + ROWS % RUN == 0)
    # Bytes reach the matrix units in an order that takes 32 of either: with fewer, Triton 3.6 gives wrong sums.
    if EVEN and HEAD_DIM >= FEWEST_READ_BY_BYTES and ROWS >= FEWEST_READ_BY_BYTES:
        run_places = at + tl.arange(0, ROWS // RUN) * RUN
        runs_inside = run_places < stop
        run_rows = run_places
        if FORM == PER_CHANNEL:
            block = tl.load(table + run_places // BLOCK_SIZE, mask=runs_inside, other=0)
            run_rows = slots(block, run_places, BLOCK_SIZE)
        result = unpack_bytes(
            codes, meta, scale, rows, inside, run_rows, runs_inside, ROWS, HEAD_DIM, FORM, BITS, GROUP
        )  # fmt: skip
    else:
        dims = tl.arange(0, HEAD_P)
        wanted = inside[:, None] & (dims < HEAD_DIM)[None, :]
        result = unpack_numbers(codes, meta, scale, rows, dims, wanted, ROWS, HEAD_DIM, HEAD_P, FORM, BITS, GROUP)
    return result


@triton.jit
def nearest(x):
    """Whole numbers, ties to even; |x| below 2^22."""
    return (x + ROUNDER) - ROUNDER


@triton.jit
def as_stored(x, TYPE: tl.constexpr):
    """float32 x rounded to TYPE, ties to even. (Triton's interpreter cuts bfloat16 off instead.)"""
    if tl.bfloat16 == TYPE:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(TYPE)


@triton.jit
def to_e4m3(x):
    """The byte of e4m3 nearest to x, ties to even; |x| at most 448."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = nearest(tl.minimum(tl.abs(x), 1.0) * 512.0).to(tl.int32)  # below 2^-6 steps are 2^-9
    code = tl.where(tl.abs(x) < 0.015625, small, normal)
    return code | ((bits >> 24) & 128)
