"""Packing in a pass of its own, for codecs whose steps belong to several tokens or whose bits ``engine.gpu.kernels.rope_pack`` does not lay.

Rotated keys and values lie exact in their sequence's tail, or among the batch's own. What is complete is packed from there before attention
reads it; what the tail has to keep of a long chunk is copied into it afterwards, for it may need the places of what is still read::

    rope_store          pack                              attention              keep
    single -> tail      windows that are complete ->      blocks, tail, own      chunk's last tokens -> tail
    chunk  -> own       blocks, from tail and own

Which windows are complete follows from lengths that lie on the device, and the grid from the batch's shape, so all of it may be
recorded in a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.gpu.batch import Ragged
from engine.gpu.kernels.forms import ASYMMETRIC, PER_CHANNEL, KernelForm, Side, as_stored, nearest

ROWS: tl.constexpr = tl.constexpr(16)  # tokens packed at once where each has its own steps
MOST_AT_ONCE: tl.constexpr = tl.constexpr(4096)  # numbers
TOKENS_PER_PROGRAM = 64


@triton.jit
def _encode(x, least, most, TOP: tl.constexpr, META: tl.constexpr):
    """Step and minimum as they are stored, and as float32 to divide by and to take away."""
    least = as_stored(least, META)
    step = as_stored(
        tl.div_rn(tl.maximum(most - least.to(tl.float32), 0.0), tl.full(most.shape, TOP, tl.float32)), META
    )
    divisor = step.to(tl.float32)
    return step, least, tl.where(divisor == 0.0, 1.0, divisor), least.to(tl.float32)


@triton.jit
def _codes(x, least, divisor, TOP: tl.constexpr):
    return nearest(tl.minimum(tl.maximum(tl.div_rn(x - least, divisor), 0.0), TOP)).to(tl.int32)


@triton.jit
def _pack_side(
    tail, own, codes, meta, table, base, end, context, slots_before,
    HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TAIL_TOKENS: tl.constexpr, OWN_STRIDE: tl.constexpr, STEP: tl.constexpr,
    FORM: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Keys, or values, of one head at places ``[base, base + STEP)`` before ``end`` into their blocks.

    A byte takes the codes of one of its columns, ``WIDTH`` channels apart, so numbers are read as [rows, planes, columns].
    """
    PLANES: tl.constexpr = 8 // BITS
    WIDTH: tl.constexpr = HEAD_DIM // PLANES
    TOP: tl.constexpr = (1 << BITS) - 1
    META: tl.constexpr = meta.dtype.element_ty
    TAKEN: tl.constexpr = GROUP if FORM == PER_CHANNEL else ROWS
    TAKEN_P: tl.constexpr = triton.next_power_of_2(TAKEN)
    WIDTH_P: tl.constexpr = triton.next_power_of_2(WIDTH)
    ROOM: tl.constexpr = MOST_AT_ONCE // (TAKEN_P * PLANES)
    # Where steps belong to tokens, all columns are needed to find them.
    FEW: tl.constexpr = ROOM if FORM == PER_CHANNEL else WIDTH_P
    COLUMNS: tl.constexpr = FEW if FEW < WIDTH_P else WIDTH_P
    row = tl.arange(0, TAKEN_P)
    plane = tl.arange(0, PLANES)[None, :, None]
    for at in range(0, STEP, TAKEN):
        places = base + at + row
        valid = (row < TAKEN) & (at + row < STEP) & (places < end)
        block = tl.load(table + places // BLOCK_SIZE, mask=valid, other=0)
        slots = slots_before + block.to(tl.int64) * BLOCK_SIZE + places % BLOCK_SIZE
        if tail is not None:
            source = tail + (places % TAIL_TOKENS) * HEAD_DIM
            if own is not None:
                source = tl.where(places < context, source, own + (places - context).to(tl.int64) * OWN_STRIDE)
        else:
            source = own + (places - context).to(tl.int64) * OWN_STRIDE
        for first_column in range(0, WIDTH, COLUMNS):
            column = first_column + tl.arange(0, COLUMNS)
            inside = (column < WIDTH)[None, None, :]
            channel = plane * WIDTH + column[None, None, :]
            wanted = valid[:, None, None] & inside
            x = tl.load(source[:, None, None] + channel, mask=wanted, other=0.0).to(tl.float32)
            if FORM == PER_CHANNEL:
                taken = tl.broadcast_to(valid[:, None, None], [TAKEN_P, PLANES, COLUMNS])
                step, least, divisor, base_line = _encode(
                    x, tl.min(tl.where(taken, x, float("inf")), 0), tl.max(tl.where(taken, x, float("-inf")), 0), TOP, META
                )  # fmt: skip
                group = tl.min(tl.where(valid, slots, 0x7FFFFFFFFFFFFFFF), 0) // GROUP
                to = meta + group * (2 * HEAD_DIM) + 2 * (tl.arange(0, PLANES)[:, None] * WIDTH + column[None, :])
                complete = (column < WIDTH)[None, :] & (base + at < end)
                tl.store(to, step, mask=complete)
                tl.store(to + 1, least, mask=complete)
                divisors = tl.broadcast_to(divisor[None, :, :], [TAKEN_P, PLANES, COLUMNS])
                minima = tl.broadcast_to(base_line[None, :, :], [TAKEN_P, PLANES, COLUMNS])
            else:
                divisors = tl.full([TAKEN_P, PLANES, COLUMNS], 1.0, tl.float32)
                minima = tl.zeros([TAKEN_P, PLANES, COLUMNS], tl.float32)
                for number in range(HEAD_DIM // GROUP):
                    mine = (channel // GROUP == number) & inside
                    mine = tl.broadcast_to(mine, [TAKEN_P, PLANES, COLUMNS])
                    most = tl.max(tl.max(tl.where(mine, x, float("-inf")), 2), 1)
                    fewest = tl.min(tl.min(tl.where(mine, x, float("inf")), 2), 1)
                    step, least, divisor, base_line = _encode(x, fewest, most, TOP, META)
                    to = meta + (slots * (HEAD_DIM // GROUP) + number) * 2
                    tl.store(to, step, mask=valid)
                    tl.store(to + 1, least, mask=valid)
                    divisors = tl.where(mine, divisor[:, None, None], divisors)
                    minima = tl.where(mine, base_line[:, None, None], minima)
            laid = tl.sum(_codes(x, minima, divisors, TOP) << (plane * BITS), 1)  # one number's bits are no other's
            to = codes + slots[:, None] * WIDTH + column[None, :]
            tl.store(to, laid.to(codes.dtype.element_ty), mask=valid[:, None] & (column < WIDTH)[None, :])


@triton.jit(do_not_specialize=["items"])
def _pack(
    tail_keys, tail_values, own_keys, own_values, key_codes, value_codes, key_meta, value_meta,
    query_starts, kv_lens, block_starts, blocks, tails, items, slots_per_head, tail_stride,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr, TAIL_TOKENS: tl.constexpr, STEP: tl.constexpr,
    KEY_FORM: tl.constexpr, KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr,
    VALUE_FORM: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_GROUP: tl.constexpr,
):  # fmt: skip
    """STEP tokens of one sequence's one head, keys or values. Grid: (sequences x items, kv_heads, 2)."""
    sequence = tl.program_id(0) // items
    item = tl.program_id(0) % items
    head = tl.program_id(1)
    kv_len = tl.load(kv_lens + sequence)
    row = tl.load(query_starts + sequence)
    context = kv_len - (tl.load(query_starts + sequence + 1) - row)
    if WINDOW > 0:  # those whose last token is new
        base = tl.maximum(context, 0) // WINDOW * WINDOW + item * STEP
        end = kv_len // WINDOW * WINDOW
    else:
        base = tl.maximum(context, 0) + item * STEP
        end = kv_len
    if base >= end:
        return
    table = blocks + tl.load(block_starts + sequence)
    slots_before = head.to(tl.int64) * slots_per_head
    sequence_keys, sequence_values = tail_keys, tail_values
    if tail_keys is not None:
        first = tl.load(tails + sequence).to(tl.int64) * (TAIL_TOKENS * HEAD_DIM) + head.to(tl.int64) * tail_stride
        sequence_keys, sequence_values = tail_keys + first, tail_values + first
    new_keys, new_values = own_keys, own_values
    if own_keys is not None:
        first_own = (row.to(tl.int64) * KV_HEADS + head) * HEAD_DIM
        new_keys, new_values = own_keys + first_own, own_values + first_own
    if tl.program_id(2) == 0:
        _pack_side(
            sequence_keys, new_keys, key_codes, key_meta, table, base, end, context, slots_before,
            HEAD_DIM, BLOCK_SIZE, TAIL_TOKENS, KV_HEADS * HEAD_DIM, STEP, KEY_FORM, KEY_BITS, KEY_GROUP,
        )  # fmt: skip
    else:
        _pack_side(
            sequence_values, new_values, value_codes, value_meta, table, base, end, context, slots_before,
            HEAD_DIM, BLOCK_SIZE, TAIL_TOKENS, KV_HEADS * HEAD_DIM, STEP, VALUE_FORM, VALUE_BITS, VALUE_GROUP,
        )  # fmt: skip


Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values


def pack(
    ragged: Ragged, keys: Side, values: Side, form: KernelForm, tails: Pair | None, own: Pair | None, tail_tokens: int
) -> None:
    """Pack one layer's windows that the batch completes, or without windows all that it brings.

    Args:
        keys, values: packed sides, codes [kv_heads, num_blocks, block_size, code_width]; written.
        form: what they hold; two to eight bits, asymmetric.
        tails: exact windows, [kv_heads, tails * tail_tokens, head_dim] each; None for a form without a window.
        own: the batch's rotated keys and values [tokens, kv_heads, head_dim]; None: all that is needed lies in the tails.
    """
    assert {form.keys.number, form.values.number} <= {ASYMMETRIC.value, PER_CHANNEL.value}
    assert (tails is not None) == (form.window > 0), "windows are packed from tails"
    kv_heads, num_blocks, size, width = keys.codes.shape
    if form.window:
        step = max(1, TOKENS_PER_PROGRAM // size) * size
        most = -(-ragged.max_query_len // form.window) * form.window  # tokens of one sequence
    else:
        step, most = ROWS.value, ragged.max_query_len
    items = -(-most // step)
    tail_keys, tail_values = tails or (None, None)
    own_keys, own_values = own or (None, None)
    _pack[(ragged.num_sequences * items, kv_heads, 2)](
        tail_keys, tail_values, own_keys, own_values, keys.codes, values.codes, keys.meta, values.meta,
        ragged.query_starts, ragged.kv_lens, ragged.block_starts, ragged.blocks, ragged.tails if tails else None, items,
        num_blocks * size, 0 if tail_keys is None else tail_keys.stride(0),
        KV_HEADS=kv_heads,
        HEAD_DIM=width * 8 // form.keys.bits,
        BLOCK_SIZE=size,
        WINDOW=form.window,
        TAIL_TOKENS=tail_tokens,
        STEP=step,
        **form.constants(),
        num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first_row"])
def _keep(
    own_keys, own_values, tail_keys, tail_values, slots, first_row, tail_stride,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEADS_P: tl.constexpr, HEAD_P: tl.constexpr,
):  # fmt: skip
    """One token's keys and values to its tail. Grid: (tokens,)."""
    row = (first_row + tl.program_id(0)).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    heads = tl.arange(0, HEADS_P)[:, None]
    dims = tl.arange(0, HEAD_P)[None, :]
    wanted = (heads < KV_HEADS) & (dims < HEAD_DIM)
    source = (row * KV_HEADS + heads) * HEAD_DIM + dims
    to = heads.to(tl.int64) * tail_stride + slot * HEAD_DIM + dims
    tl.store(tail_keys + to, tl.load(own_keys + source, mask=wanted, other=0.0), mask=wanted)
    tl.store(tail_values + to, tl.load(own_values + source, mask=wanted, other=0.0), mask=wanted)


def keep(own: Pair, tails: Pair, slots: torch.Tensor, first_row: int, stop: int) -> None:
    """Copy rows ``[first_row, stop)`` of the batch's keys and values to their slots [tokens] int32 in the tails; negative: nowhere."""
    _, kv_heads, head_dim = own[0].shape
    if first_row == stop:
        return
    _keep[(stop - first_row,)](
        *own, *tails, slots, first_row, tails[0].stride(0),
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HEADS_P=triton.next_power_of_2(kv_heads),
        HEAD_P=triton.next_power_of_2(head_dim),
        num_warps=4,
    )  # fmt: skip
