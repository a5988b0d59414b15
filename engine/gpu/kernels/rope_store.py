"""Between projection and attention: norm per head, rotation, and keys and values into the paged cache, in one pass.

One program takes one token and some of its heads::

    qkv row   | q heads ........ | k heads .. | v heads .. |
                norm, rotate       norm, rotate   as it is
                v                  v              v
              q_out              cache slot     cache slot, and where asked for the batch's own
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_HEADS_AT_ONCE = 8


@triton.jit(do_not_specialize=["stored"])
def _rope_store(
    qkv, q_out, keys, values, own_keys, own_values, slots, positions, table, norm_weight, eps, stored, kv_stride_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr,
    NORM: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    dims = tl.arange(0, HEAD_P)
    HALF: tl.constexpr = HEAD_DIM // 2
    partners = tl.where(dims < HALF, dims + HALF, dims - HALF)
    total: tl.constexpr = HEADS + 2 * KV_HEADS
    wanted = (heads < total)[:, None] & (dims < HEAD_DIM)[None, :]
    source = qkv + token * (total * HEAD_DIM) + heads[:, None] * HEAD_DIM
    x = tl.load(source + dims[None, :], mask=wanted, other=0.0).to(tl.float32)
    rotated = (heads < HEADS + KV_HEADS)[:, None]
    partner = tl.load(source + partners[None, :], mask=wanted & rotated, other=0.0).to(tl.float32)
    y, y_partner = x, partner
    if NORM:
        root = tl.sqrt(tl.sum(x * x, 1) / HEAD_DIM + eps)[:, None]
        weights = norm_weight + heads[:, None] * HEAD_DIM
        mask = wanted & rotated
        dtype = qkv.dtype.element_ty
        y = (x / root).to(dtype).to(tl.float32) * tl.load(weights + dims[None, :], mask=mask, other=0.0).to(tl.float32)
        y = y.to(dtype).to(tl.float32)
        y_partner = (partner / root).to(dtype).to(tl.float32) * tl.load(
            weights + partners[None, :], mask=mask, other=0.0
        ).to(tl.float32)
        y_partner = y_partner.to(dtype).to(tl.float32)
    angles = table + tl.load(positions + token).to(tl.int64) * (2 * HEAD_DIM)
    inside = dims < HEAD_DIM
    cos = tl.load(angles + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(angles + HEAD_DIM + dims, mask=inside, other=0.0).to(tl.float32)[None, :]  # first half negated
    result = tl.where(rotated, y * cos + y_partner * sin, x)

    is_q = (heads < HEADS)[:, None] & wanted
    tl.store(
        q_out + token * (HEADS * HEAD_DIM) + heads[:, None] * HEAD_DIM + dims[None, :],
        result.to(q_out.dtype.element_ty),
        mask=is_q,
    )
    slot = tl.load(slots + token).to(tl.int64)
    k_head = (heads - HEADS).to(tl.int64)[:, None]
    v_head = (heads - HEADS - KV_HEADS).to(tl.int64)[:, None]
    result = result.to(qkv.dtype.element_ty)
    is_k = wanted & rotated & (heads >= HEADS)[:, None]
    is_v = wanted & (heads >= HEADS + KV_HEADS)[:, None]
    if own_keys is not None:
        tl.store(own_keys + (token * KV_HEADS + k_head) * HEAD_DIM + dims[None, :], result, mask=is_k)
        tl.store(own_values + (token * KV_HEADS + v_head) * HEAD_DIM + dims[None, :], result, mask=is_v)
    if keys is not None:
        here = (slot >= 0) & (token < stored)
        tl.store(keys + k_head * kv_stride_head + slot * HEAD_DIM + dims[None, :], result, mask=is_k & here)
        tl.store(values + v_head * kv_stride_head + slot * HEAD_DIM + dims[None, :], result, mask=is_v & here)


def rope_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    table: torch.Tensor,
    keys: torch.Tensor | None,
    values: torch.Tensor | None,
    heads: int,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    *,
    own: tuple[torch.Tensor, torch.Tensor] | None = None,
    stored: int | None = None,
) -> torch.Tensor:
    """Rotate queries and keys, store keys and values.

    Args:
        qkv: [tokens, (heads + 2 kv_heads) * head_dim] contiguous.
        positions: [tokens] int32.
        slots: [tokens] int32, where each token's key and value go; negative stores nothing.
        table: [positions, 2, 1, head_dim], cos and signed sin (``engine.model.rope``).
        keys, values: one layer's [kv_heads, num_blocks, block_size, head_dim] contiguous, or exact windows [kv_heads, slots, head_dim];
            written. None: kept in ``own`` only.
        heads: number of query heads.
        norm_weight: [heads + kv_heads, head_dim] of an RMSNorm per head before the rotation, or None.
        eps: of that norm.
        own: the batch's keys and values after it all [tokens, kv_heads, head_dim]; written.
        stored: rows from the first on whose keys and values go to their slots; None: all.

    Returns:
        queries [tokens, heads, head_dim] in qkv's dtype; arithmetic in float32.
    """
    head_dim = table.shape[-1]
    tokens, total = qkv.shape[0], qkv.shape[1] // head_dim
    own_keys, own_values = own or (None, None)
    q = torch.empty((tokens, heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    _rope_store[(tokens, triton.cdiv(total, _HEADS_AT_ONCE))](
        qkv,
        q,
        keys,
        values,
        own_keys,
        own_values,
        slots,
        positions,
        table,
        table if norm_weight is None else norm_weight,
        eps,
        tokens if stored is None else stored,
        0 if keys is None else keys.stride(0),
        HEADS=heads,
        KV_HEADS=(total - heads) // 2,
        HEAD_DIM=head_dim,
        HEAD_P=triton.next_power_of_2(head_dim),
        NORM=norm_weight is not None,
        AT_ONCE=_HEADS_AT_ONCE,
        num_warps=4,
    )
    return q
