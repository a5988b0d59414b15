"""Between projection and attention for a packed cache: norm per head, rotation, centring, mixing of channels, quantisation and store, in
one pass. Beside ``engine.gpu.kernels.rope_store``, which stores keys and values as they are.

One program takes one token and some of its heads, as two halves, because rotation pairs channel c with c + half, and 4-bit codes of the
same two share a byte::

    qkv row   | q heads ........ | k heads .............. | v heads .............. |
                norm, rotate       norm, rotate, centre     as they are
                mix                mix, codes + step        mix, codes + step
                v                  v                        v
              q_out              cache slot               cache slot, and where asked for the batch's own
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.gpu.kernels.forms import FLOAT8, SYMMETRIC, KernelForm, Side, as_stored, nearest, to_e4m3

_HEADS_AT_ONCE = 16  # rows of a matrix product


@triton.jit
def _half_of(x, root, weights, dims, wanted, normed, NORM: tl.constexpr, DTYPE: tl.constexpr):
    """Half of some heads after their norm, rounded as the separate steps round it."""
    if NORM:
        weight = tl.load(weights + dims[None, :], mask=wanted & normed, other=0.0).to(tl.float32)
        y = (x / root).to(DTYPE).to(tl.float32) * weight
        return tl.where(normed, y.to(DTYPE).to(tl.float32), x)
    return x


@triton.jit
def _store_codes(codes, rows, wanted, low, high, dims, HEAD_DIM: tl.constexpr, BITS: tl.constexpr):
    """Codes of both halves to their rows, side by side in bytes as ``engine.kv.codecs.packing`` lays them out."""
    CODE: tl.constexpr = codes.dtype.element_ty
    HALF: tl.constexpr = HEAD_DIM // 2
    starts = codes + rows * (HEAD_DIM * BITS // 8)
    to = starts[:, None] + dims[None, :]
    inside = (dims < HALF)[None, :]
    mask = wanted[:, None] & inside
    if BITS == 8:
        tl.store(to, low.to(CODE), mask=mask)
        tl.store(to + HALF, high.to(CODE), mask=mask)
    else:
        tl.store(to, ((low & 15) | ((high & 15) << 4)).to(CODE), mask=mask)
    if BITS == 5:
        low_place, high_place = dims[None, :], (dims + HALF)[None, :]
        low_bits, high_bits = (low >> 4) << low_place % 8, (high >> 4) << high_place % 8
        for byte in range(HEAD_DIM // 8):
            from_low = tl.where(inside & (low_place // 8 == byte), low_bits, 0)
            from_high = tl.where(inside & (high_place // 8 == byte), high_bits, 0)
            tl.store(starts + HALF + byte, tl.sum(from_low + from_high, 1).to(CODE), mask=wanted)


@triton.jit
def _rope_pack(
    qkv, q_out, own_keys, own_values, key_codes, value_codes, key_meta, value_meta, key_scale, value_scale, centre, matrix,
    slots, positions, table, norm_weight, eps, slots_per_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF_P: tl.constexpr,
    NORM: tl.constexpr, CENTRED: tl.constexpr, MIXED: tl.constexpr, WIDEN: tl.constexpr,
    FORM: tl.constexpr, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr, GROUP: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    dims = tl.arange(0, HALF_P)
    HALF: tl.constexpr = HEAD_DIM // 2
    DTYPE: tl.constexpr = qkv.dtype.element_ty
    total: tl.constexpr = HEADS + 2 * KV_HEADS
    wanted = (heads < total)[:, None] & (dims < HALF)[None, :]
    source = qkv + token * (total * HEAD_DIM) + heads[:, None] * HEAD_DIM + dims[None, :]
    low = tl.load(source, mask=wanted, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=wanted, other=0.0).to(tl.float32)
    rotated = (heads < HEADS + KV_HEADS)[:, None]
    if NORM:
        root = tl.sqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / HEAD_DIM + eps)[:, None]
        weights = norm_weight + heads[:, None] * HEAD_DIM
        low = _half_of(low, root, weights, dims, wanted, rotated, NORM, DTYPE)
        high = _half_of(high, root, weights + HALF, dims, wanted, rotated, NORM, DTYPE)
    angles = table + tl.load(positions + token).to(tl.int64) * (2 * HEAD_DIM)
    inside = dims < HALF
    cos_low = tl.load(angles + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos_high = tl.load(angles + HALF + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_low = tl.load(angles + HEAD_DIM + dims, mask=inside, other=0.0).to(tl.float32)[None, :]  # negated
    sin_high = tl.load(angles + HEAD_DIM + HALF + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
    turned_low = tl.where(rotated, low * cos_low + high * sin_low, low).to(DTYPE)
    turned_high = tl.where(rotated, high * cos_high + low * sin_high, high).to(DTYPE)

    k_head = heads - HEADS
    v_head = k_head - KV_HEADS
    is_key = (k_head >= 0) & (v_head < 0)
    is_value = (v_head >= 0) & (v_head < KV_HEADS)
    if CENTRED:
        place = centre + k_head[:, None] * HEAD_DIM + dims[None, :]
        mask = wanted & is_key[:, None]
        middle_low = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        middle_high = tl.load(place + HALF, mask=mask, other=0.0).to(tl.float32)
        turned_low = (turned_low.to(tl.float32) - middle_low).to(DTYPE)
        turned_high = (turned_high.to(tl.float32) - middle_high).to(DTYPE)
    if MIXED:
        along = tl.arange(0, HALF_P)
        corner = matrix + along[:, None] * HEAD_DIM + dims[None, :]
        square = (along < HALF)[:, None] & (dims < HALF)[None, :]
        if WIDEN:
            turned_low, turned_high = turned_low.to(tl.float32), turned_high.to(tl.float32)
        first = tl.load(corner, mask=square, other=0.0).to(turned_low.dtype)
        if HEAD_DIM & (HEAD_DIM - 1) == 0:  # one matrix: its quarters are alike but for the sign of the last
            from_low = tl.dot(turned_low, first, input_precision="ieee")
            from_high = tl.dot(turned_high, first, input_precision="ieee")
            mixed_low, mixed_high = from_low + from_high, from_low - from_high
        else:
            below = tl.load(corner + HALF * HEAD_DIM, mask=square, other=0.0).to(turned_low.dtype)
            beside = tl.load(corner + HALF, mask=square, other=0.0).to(turned_low.dtype)
            across = tl.load(corner + HALF * HEAD_DIM + HALF, mask=square, other=0.0).to(turned_low.dtype)
            mixed_low = tl.dot(turned_low, first, input_precision="ieee")
            mixed_low = tl.dot(turned_high, below, mixed_low, input_precision="ieee")
            mixed_high = tl.dot(turned_low, beside, input_precision="ieee")
            mixed_high = tl.dot(turned_high, across, mixed_high, input_precision="ieee")
        turned_low, turned_high = mixed_low.to(DTYPE), mixed_high.to(DTYPE)

    is_query = (heads < HEADS)[:, None] & wanted
    to = q_out + token * (HEADS * HEAD_DIM) + heads[:, None] * HEAD_DIM + dims[None, :]
    tl.store(to, turned_low, mask=is_query)
    tl.store(to + HALF, turned_high, mask=is_query)
    if own_keys is not None:
        to = own_keys + (token * KV_HEADS + k_head[:, None]) * HEAD_DIM + dims[None, :]
        tl.store(to, turned_low, mask=wanted & is_key[:, None])
        tl.store(to + HALF, turned_high, mask=wanted & is_key[:, None])
        to = own_values + (token * KV_HEADS + v_head[:, None]) * HEAD_DIM + dims[None, :]
        tl.store(to, turned_low, mask=wanted & is_value[:, None])
        tl.store(to + HALF, turned_high, mask=wanted & is_value[:, None])

    slot = tl.load(slots + token).to(tl.int64)
    low, high = turned_low.to(tl.float32), turned_high.to(tl.float32)
    key_row = k_head.to(tl.int64) * slots_per_head + slot
    value_row = v_head.to(tl.int64) * slots_per_head + slot
    is_key = is_key & (slot >= 0)
    is_value = is_value & (slot >= 0)
    if FORM == FLOAT8:
        scale = tl.load(key_scale + k_head, mask=is_key, other=1.0)
        scale = tl.where(is_value, tl.load(value_scale + v_head, mask=is_value, other=1.0), scale)[:, None]
        scale_low = tl.broadcast_to(scale, [AT_ONCE, HALF_P])
        low_codes = to_e4m3(tl.minimum(tl.maximum(tl.div_rn(low, scale_low), -448.0), 448.0))
        high_codes = to_e4m3(tl.minimum(tl.maximum(tl.div_rn(high, scale_low), -448.0), 448.0))
    else:
        GROUPS: tl.constexpr = HEAD_DIM // GROUP
        META: tl.constexpr = key_meta.dtype.element_ty
        KEY_TOP: tl.constexpr = 127 if FORM == SYMMETRIC else (1 << KEY_BITS) - 1
        VALUE_TOP: tl.constexpr = 127 if FORM == SYMMETRIC else (1 << VALUE_BITS) - 1
        group_low = (dims // GROUP)[None, :]
        group_high = ((dims + HALF) // GROUP)[None, :]
        low_step = tl.full([AT_ONCE, HALF_P], 1.0, tl.float32)
        high_step = tl.full([AT_ONCE, HALF_P], 1.0, tl.float32)
        low_least = tl.zeros([AT_ONCE, HALF_P], tl.float32)
        high_least = tl.zeros([AT_ONCE, HALF_P], tl.float32)
        tops = tl.where(is_key, KEY_TOP, VALUE_TOP).to(tl.float32)
        for group in range(GROUPS):
            in_low = (group_low == group) & inside[None, :]
            in_high = (group_high == group) & inside[None, :]
            if FORM == SYMMETRIC:
                most = tl.maximum(
                    tl.max(tl.where(in_low, tl.abs(low), 0.0), 1), tl.max(tl.where(in_high, tl.abs(high), 0.0), 1)
                )
                step = as_stored(tl.div_rn(most, tops), META)
                tl.store(key_meta + key_row * GROUPS + group, step, mask=is_key)
                tl.store(value_meta + value_row * GROUPS + group, step, mask=is_value)
            else:
                most = tl.maximum(
                    tl.max(tl.where(in_low, low, float("-inf")), 1), tl.max(tl.where(in_high, high, float("-inf")), 1)
                )
                least = tl.minimum(
                    tl.min(tl.where(in_low, low, float("inf")), 1), tl.min(tl.where(in_high, high, float("inf")), 1)
                )
                least = as_stored(least, META)
                step = as_stored(tl.div_rn(tl.maximum(most - least.to(tl.float32), 0.0), tops), META)
                at = (key_row * GROUPS + group) * 2
                tl.store(key_meta + at, step, mask=is_key)
                tl.store(key_meta + at + 1, least, mask=is_key)
                at = (value_row * GROUPS + group) * 2
                tl.store(value_meta + at, step, mask=is_value)
                tl.store(value_meta + at + 1, least, mask=is_value)
                low_least = tl.where(in_low, least.to(tl.float32)[:, None], low_least)
                high_least = tl.where(in_high, least.to(tl.float32)[:, None], high_least)
            divisor = step.to(tl.float32)
            divisor = tl.where(divisor == 0.0, 1.0, divisor)[:, None]
            low_step = tl.where(in_low, divisor, low_step)
            high_step = tl.where(in_high, divisor, high_step)
        BOTTOM: tl.constexpr = -127 if FORM == SYMMETRIC else 0
        low_codes = tl.minimum(tl.maximum(tl.div_rn(low - low_least, low_step), BOTTOM), tops[:, None])
        high_codes = tl.minimum(tl.maximum(tl.div_rn(high - high_least, high_step), BOTTOM), tops[:, None])
        low_codes = nearest(low_codes).to(tl.int32)
        high_codes = nearest(high_codes).to(tl.int32)

    _store_codes(key_codes, key_row, is_key, low_codes, high_codes, dims, HEAD_DIM, KEY_BITS)
    _store_codes(value_codes, value_row, is_value, low_codes, high_codes, dims, HEAD_DIM, VALUE_BITS)


def rope_pack(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    table: torch.Tensor,
    keys: Side,
    values: Side,
    form: KernelForm,
    heads: int,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    centre: torch.Tensor | None = None,
    matrix: torch.Tensor | None = None,
    widen: bool = False,
    *,
    own: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Rotate queries and keys; pack and store keys and values.

    Args:
        qkv, positions, slots, table, heads, norm_weight, eps: as ``rope_store``.
        keys, values: one layer's packed sides, codes [kv_heads, num_blocks, block_size, code_width]; written.
        form: what they hold, one that is packed ``at_once``.
        centre: [kv_heads, head_dim] in qkv's dtype, subtracted from keys, or None.
        matrix: [head_dim, head_dim] in qkv's dtype by which channels are mixed (``engine.kv.codecs.rotation``), or None.
        widen: multiply as float32, for the interpreter.
        own: the batch's keys and values as they were just before packing [tokens, kv_heads, head_dim] in qkv's dtype; written.

    Returns:
        queries [tokens, heads, head_dim] in qkv's dtype, mixed where keys are.
    """
    kv_heads, num_blocks, block_size, _ = keys.codes.shape
    tokens = qkv.shape[0]
    total = heads + 2 * kv_heads
    head_dim = qkv.shape[1] // total
    q = torch.empty((tokens, heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    own_keys, own_values = own or (None, None)
    assert form.at_once, "packed by engine.gpu.kernels.pack"
    _rope_pack[(tokens, triton.cdiv(total, _HEADS_AT_ONCE))](
        qkv, q, own_keys, own_values, keys.codes, values.codes, keys.meta, values.meta, keys.scale, values.scale, centre, matrix,
        slots, positions, table, norm_weight, eps, num_blocks * block_size,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HALF_P=max(16, triton.next_power_of_2(head_dim // 2)),
        NORM=norm_weight is not None,
        CENTRED=centre is not None,
        MIXED=matrix is not None,
        WIDEN=widen,
        FORM=form.keys.number,
        KEY_BITS=form.keys.bits,
        VALUE_BITS=form.values.bits,
        GROUP=form.keys.group,
        AT_ONCE=_HEADS_AT_ONCE,
        num_warps=4,
    )  # fmt: skip
    return q
