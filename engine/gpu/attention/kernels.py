"""The attention kernels: one walks a part of one sequence's cache, one merges the parts.

A program holds a *tile*: a few consecutive new tokens of one sequence times the query heads that share a KV head (GQA), packed
as rows, so that one read of a key serves the whole group. With few tiles the cache is cut into *segments* along its length
(split-KV), one program each; every program leaves its normalised output and the log-sum-exp of its scores (fp32, natural log)::

    tile rows            cache of the sequence, in steps of BLOCK_N
    t0 head 0            | segment 0        | segment 1        | segment 2   .
    t0 head 1     x      | k k k k  k k k k | k k k k  k k k k | k k k k  k  .
    t1 head 0                                                            ^ causal limit of the tile
    t1 head 1            out_s, lse_s  ->  out = sum_s exp(lse_s - lse) out_s,  lse = log sum_s exp(lse_s)

The online softmax is FlashAttention's (Dao et al., 2022), the cut along the cache Flash-Decoding's (Dao et al., 2023). Scores are
kept in powers of two inside; nothing outside a kernel sees that.

Where single tokens share a prefix (Hydragen, 2024), a tile may also hold rows of several sequences against places that all of them
have in common (``shared_prefixes``); each sequence's own segments then begin behind them. To the merge these are segments more::

    row 0    | prefix segment 0 | prefix segment 1 | own segments ...  |     one tile for both rows, read through the table
    row 1    |        "         |        "         | own segments . |        of either

A codec with a window (KIVI), or prompts that read themselves as they were before packing, add places that are read exactly, from the
sequence's tail and from what the batch brings. They are steps behind those over the stored places, in the same softmax and cut into
segments along with these::

    stored  | window 0 | window 1 |        rows of window 2 see both of them, rows of window 1 the first
    exact              | window 1 | 2 .    each row its own window up to itself

Integers that change from batch to batch are not specialised on, so that no batch compiles anything.
"""

import triton
import triton.language as tl

from engine.gpu.kernels.forms import PLAIN, slots, unpack

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
CHANGING = ["first_sequence", "first_token", "num_sequences", "tiles", "segments"]


@triton.jit
def sequence_of(tile, query_starts, first_token, num_sequences, BLOCK_Q: tl.constexpr):
    """The sequence a tile belongs to, where sequence s owns the tiles from ``(query_starts[s] - first_token) // BLOCK_Q + s``."""
    low = 0
    high = num_sequences
    while high - low > 1:
        middle = (low + high) // 2
        if (tl.load(query_starts + middle) - first_token) // BLOCK_Q + middle <= tile:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """acc + a @ b. WIDEN: operands as float32, for Triton's interpreter, which multiplies bfloat16 bit patterns as numbers."""
    if WIDEN:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def reads_exactly_from(place, context, prefill, WINDOW: tl.constexpr):
    """The place from which on a token at ``place`` reads keys and values as they were before packing; ``place + 1``: from nowhere on.

    WINDOW: a token reads those of its own window so, 0 for none. ``prefill``: whether the tokens behind ``context`` read each other so.
    """
    if WINDOW == 0:
        since = place + 1
        own = context
    else:
        since = tl.maximum(place, 0) // WINDOW * WINDOW
        own = context // WINDOW * WINDOW
    if prefill is not None:
        since = tl.where(prefill != 0, own, since)
    return since


@triton.jit
def reach(
    context, kv_len, begin, behind, prefill, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr
):  # fmt: skip
    """What the tile of a sequence's new tokens from ``begin`` on reads.

    Returns: the place behind the last; where its first and its last token begin to read exactly; steps over places as they are stored,
    which end where the last token reads exactly; steps over exact ones, which begin where the first does.
    """
    limit = tl.minimum(kv_len, context + begin + BLOCK_Q)
    since_first = reads_exactly_from(context + begin, context, prefill, WINDOW)
    since_last = reads_exactly_from(limit - 1, context, prefill, WINDOW)
    stored_steps = tl.cdiv(since_last - behind, BLOCK_N)
    exact_steps = tl.where(since_last < limit, tl.cdiv(limit - since_first, BLOCK_N), 0)
    return limit, since_first, since_last, stored_steps, exact_steps


@triton.jit
def absorb(acc, total, top, q, k, v, seen, scale, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """One step of the online softmax. ``seen``: [rows, keys], or None where every row sees every key."""
    zeros = tl.zeros([q.shape[0], k.shape[0]], tl.float32)
    scores = multiply(q, tl.trans(k), zeros, PRECISION, WIDEN) * scale  # [BLOCK_M, BLOCK_N], in powers of two
    if seen is not None:
        scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    # A row that has seen nothing yet stays at minus infinity; 0 in its place keeps the differences finite.
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(top - base)
    total = total * fade + tl.sum(weights, 1)
    acc = multiply(weights.to(v.dtype), v, acc * fade[:, None], PRECISION, WIDEN)
    return acc, total, new_top


@triton.jit
def attend(
    acc, total, top, q, last, keys, values, key_meta, value_meta, key_scale, value_scale, table, start, stop, scale,
    HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    KEY_FORM: tl.constexpr, KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr,
    VALUE_FORM: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_GROUP: tl.constexpr,
):  # fmt: skip
    """Online softmax over places ``[start, stop)`` as they are stored; without MASKED every row sees all of them.

    A packed cache (forms other than PLAIN) is unpacked tile by tile, to the queries' type.
    """
    dims = tl.arange(0, HEAD_P)
    for at in range(start, stop, BLOCK_N):
        places = at + tl.arange(0, BLOCK_N)
        inside = places < stop
        if BLOCK_SIZE % BLOCK_N == 0:
            block = tl.load(table + at // BLOCK_SIZE)
        elif MASKED:
            block = tl.load(table + places // BLOCK_SIZE, mask=inside, other=0)
        else:
            block = tl.load(table + places // BLOCK_SIZE)
        rows = slots(block, places, BLOCK_SIZE)
        offsets = rows[:, None] * HEAD_DIM + dims[None, :]
        if KEY_FORM != PLAIN:
            k = unpack(
                keys, key_meta, key_scale, rows, inside, table, at, stop,
                BLOCK_N, HEAD_DIM, HEAD_P, BLOCK_SIZE, KEY_FORM, KEY_BITS, KEY_GROUP,
            )  # fmt: skip
            v = unpack(
                values, value_meta, value_scale, rows, inside, table, at, stop,
                BLOCK_N, HEAD_DIM, HEAD_P, BLOCK_SIZE, VALUE_FORM, VALUE_BITS, VALUE_GROUP,
            )  # fmt: skip
            k, v = k.to(q.dtype), v.to(q.dtype)
        elif MASKED:
            wanted = inside[:, None] & (dims < HEAD_DIM)[None, :]
            k = tl.load(keys + offsets, mask=wanted, other=0.0)
            v = tl.load(values + offsets, mask=wanted, other=0.0)
        elif HEAD_P != HEAD_DIM:
            wanted = (dims < HEAD_DIM)[None, :]
            k = tl.load(keys + offsets, mask=wanted, other=0.0)
            v = tl.load(values + offsets, mask=wanted, other=0.0)
        else:
            k = tl.load(keys + offsets)
            v = tl.load(values + offsets)
        seen = None
        if MASKED:
            seen = (places[None, :] <= last[:, None]) & inside[None, :]
        acc, total, top = absorb(acc, total, top, q, k, v, seen, scale, PRECISION, WIDEN)
    return acc, total, top


@triton.jit
def attend_exact(
    acc, total, top, q, since, last, tail_keys, tail_values, own_keys, own_values, context, start, stop, scale,
    HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_N: tl.constexpr, OWN_STRIDE: tl.constexpr,
    TAIL_TOKENS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Online softmax over places ``[start, stop)`` as they were before packing; each row sees those from ``since`` to ``last``.

    Places before ``context`` lie in the sequence's tail, the others among the batch's own new keys and values; where there is only one
    of the two it has them all.
    """
    dims = tl.arange(0, HEAD_P)
    for at in range(start, stop, BLOCK_N):
        places = at + tl.arange(0, BLOCK_N)
        inside = places < stop
        wanted = inside[:, None] & (dims < HEAD_DIM)[None, :]
        if tail_keys is not None:
            in_tail = (places % TAIL_TOKENS)[:, None] * HEAD_DIM + dims[None, :]
            key_places, value_places = tail_keys + in_tail, tail_values + in_tail
            if own_keys is not None:
                in_own = (places - context).to(tl.int64)[:, None] * OWN_STRIDE + dims[None, :]
                kept = tl.broadcast_to((places < context)[:, None], [BLOCK_N, HEAD_P])
                key_places = tl.where(kept, key_places, own_keys + in_own)
                value_places = tl.where(kept, value_places, own_values + in_own)
        else:
            in_own = (places - context).to(tl.int64)[:, None] * OWN_STRIDE + dims[None, :]
            key_places, value_places = own_keys + in_own, own_values + in_own
        k = tl.load(key_places, mask=wanted, other=0.0)
        v = tl.load(value_places, mask=wanted, other=0.0)
        seen = (places[None, :] >= since[:, None]) & (places[None, :] <= last[:, None]) & inside[None, :]
        acc, total, top = absorb(acc, total, top, q, k, v, seen, scale, PRECISION, WIDEN)
    return acc, total, top


@triton.jit
def take_queries(
    q, token, valid, kv_head, q_stride_token, q_stride_head,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """A tile's rows: ``token`` of the batch, head by head."""
    dims = tl.arange(0, HEAD_P)
    head = kv_head * GROUP + tl.arange(0, BLOCK_M) % GROUP
    return tl.load(
        q + (token * q_stride_token + head * q_stride_head)[:, None] + dims[None, :],
        mask=valid[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )


@triton.jit
def attend_stored(
    q, keys, values, key_meta, value_meta, key_scale, value_scale, last, kv_head, table, start, whole, stop, scale,
    slots_per_head, key_meta_stride, value_meta_stride,
    HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    KEY_FORM: tl.constexpr, KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr,
    VALUE_FORM: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_GROUP: tl.constexpr,
):  # fmt: skip
    """A tile's queries against places ``[start, stop)`` of the cache, of which each sees those up to ``last``.

    All rows see those before ``whole``. Returns the softmax so far: weighted values, sum of weights, largest score.
    """
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_P], tl.float32)
    first_slot = kv_head.to(tl.int64) * slots_per_head
    head_keys = keys + first_slot * (HEAD_DIM if KEY_FORM == PLAIN else HEAD_DIM * KEY_BITS // 8)
    head_values = values + first_slot * (HEAD_DIM if VALUE_FORM == PLAIN else HEAD_DIM * VALUE_BITS // 8)
    head_key_meta, head_value_meta, head_key_scale, head_value_scale = key_meta, value_meta, key_scale, value_scale
    if key_meta is not None:
        head_key_meta = key_meta + kv_head.to(tl.int64) * key_meta_stride
        head_value_meta = value_meta + kv_head.to(tl.int64) * value_meta_stride
    if key_scale is not None:
        head_key_scale = key_scale + kv_head
        head_value_scale = value_scale + kv_head
    acc, total, top = attend(
        acc, total, top, q, last, head_keys, head_values,
        head_key_meta, head_value_meta, head_key_scale, head_value_scale, table, start, whole, scale,
        HEAD_DIM, HEAD_P, BLOCK_SIZE, BLOCK_N, False, PRECISION, WIDEN,
        KEY_FORM, KEY_BITS, KEY_GROUP, VALUE_FORM, VALUE_BITS, VALUE_GROUP,
    )  # fmt: skip
    acc, total, top = attend(
        acc, total, top, q, last, head_keys, head_values,
        head_key_meta, head_value_meta, head_key_scale, head_value_scale, table, whole, stop, scale,
        HEAD_DIM, HEAD_P, BLOCK_SIZE, BLOCK_N, True, PRECISION, WIDEN,
        KEY_FORM, KEY_BITS, KEY_GROUP, VALUE_FORM, VALUE_BITS, VALUE_GROUP,
    )  # fmt: skip
    return acc, total, top


@triton.jit
def leave(
    acc, total, top, out, partial_out, partial_lse, place, valid,
    HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """A tile's results to ``place`` of out, or with SPLIT of the partial ones."""
    dims = tl.arange(0, HEAD_P)
    wanted = valid[:, None] & (dims < HEAD_DIM)[None, :]
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    if SPLIT:
        tl.store(partial_out + place[:, None] * HEAD_DIM + dims[None, :], acc, mask=wanted)
        lse = tl.where(total == 0.0, float("-inf"), (top + tl.log2(tl.where(total == 0.0, 1.0, total))) * LN2)
        tl.store(partial_lse + place, lse, mask=valid)
    else:
        tl.store(out + place[:, None] * HEAD_DIM + dims[None, :], acc.to(out.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=CHANGING)
def paged_attention(
    q,  # [tokens, heads, head_dim], strided
    out,  # [tokens, heads, head_dim]; unused with SPLIT
    partial_out,  # [parts, heads, head_dim] float32; unused without SPLIT
    partial_lse,  # [parts, heads] float32
    keys, values,  # one layer's [kv_heads, slots, head_dim], or codes [kv_heads, slots, code_width]
    key_meta, value_meta,  # of codes with steps of their own [kv_heads, ...]; else None
    key_scale, value_scale,  # of codes with a scale per head [kv_heads] float32; else None
    tail_keys, tail_values,  # exact windows [kv_heads, tails * TAIL_TOKENS, head_dim]; None for a cache without
    own_keys, own_values,  # what the batch brings [tokens, kv_heads, head_dim]; None where all that is read lies in the cache
    query_starts,  # [sequences + 1] int32, first token of each sequence in the batch
    kv_lens,  # [sequences] int32, keys visible to the last new token
    block_starts, blocks,  # int32: sequence s's block table is blocks[block_starts[s]:]
    tails,  # [sequences] int32, each one's tail; None for a cache without
    prefills,  # [sequences] int32, 1: its new tokens read each other as they were before packing; None: nobody's do
    # of single tokens some of which share prefixes, else None: [sequences] int32
    covered,  # places in prefixes: not read here
    part_starts, shared_parts,  # where each one's parts begin, and how many of prefixes come first
    scale,  # of the scores, times log2(e)
    first_sequence, first_token, num_sequences, tiles, segments, q_stride_token, q_stride_head, slots_per_head,
    key_meta_stride, value_meta_stride, tail_stride,  # from one KV head to the next
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SINGLES: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    WIDEN: tl.constexpr, WINDOW: tl.constexpr, TAIL_TOKENS: tl.constexpr,
    KEY_FORM: tl.constexpr, KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr,
    VALUE_FORM: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_GROUP: tl.constexpr,
):  # fmt: skip
    """One tile against one segment. Grid: (tiles * kv_heads, segments).

    What reads the most begins first, all its heads, so that the device is not left waiting for a few long rows: single tokens
    are sorted by their context, and of a sequence's new tokens the last see the most.

    The launch covers ``num_sequences`` sequences from ``first_sequence``, whose tokens start at row ``first_token`` of the batch.
    SINGLES: each of them has one new token.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    tile = tiles - 1 - tl.program_id(0) // KV_HEADS
    kv_head = tl.program_id(0) % KV_HEADS
    segment = tl.program_id(1)
    query_starts += first_sequence
    kv_lens += first_sequence
    block_starts += first_sequence
    if SINGLES:
        sequence = tile
        sequence_start = first_token + tile
        query_len = 1
        begin = 0
    else:
        sequence = sequence_of(tile, query_starts, first_token, num_sequences, BLOCK_Q)
        sequence_start = tl.load(query_starts + sequence)
        query_len = tl.load(query_starts + sequence + 1) - sequence_start
        begin = (tile - (sequence_start - first_token) // BLOCK_Q - sequence) * BLOCK_Q
    if begin >= query_len:
        return
    kv_len = tl.load(kv_lens + sequence)
    context = kv_len - query_len
    behind = 0  # places that are read elsewhere
    if covered is not None:
        behind = tl.load(covered + sequence)
    prefill = None
    if prefills is not None:
        prefill = tl.load(prefills + first_sequence + sequence)
    limit, since_first, since_last, stored_steps, exact_steps = reach(
        context, kv_len, begin, behind, prefill, BLOCK_Q, BLOCK_N, WINDOW
    )
    steps = stored_steps + exact_steps
    stride = tl.cdiv(steps, segments)
    step = segment * stride
    if step >= steps:
        return
    next_step = tl.minimum(steps, step + stride)
    start = behind + tl.minimum(step, stored_steps) * BLOCK_N
    stop = tl.minimum(since_last, behind + tl.minimum(next_step, stored_steps) * BLOCK_N)

    rows = tl.arange(0, BLOCK_M)
    member = begin + rows // GROUP  # token within the sequence's new tokens
    valid = (rows < BLOCK_Q * GROUP) & (member < query_len)
    token = (sequence_start + member).to(tl.int64)
    part = token
    if SPLIT:
        part = token * segments + segment
        if part_starts is not None:
            part = (tl.load(part_starts + sequence) + tl.load(shared_parts + sequence) + segment + member).to(tl.int64)
    place = part * (KV_HEADS * GROUP) + kv_head * GROUP + rows % GROUP
    everyone = tl.minimum(since_first, stop)  # places that all rows see
    whole = start + tl.maximum(everyone - start, 0) // BLOCK_N * BLOCK_N
    since = reads_exactly_from(context + member, context, prefill, WINDOW)
    table = blocks + tl.load(block_starts + sequence)
    q_tile = take_queries(
        q, token, valid, kv_head, q_stride_token, q_stride_head, GROUP, HEAD_DIM, HEAD_P, BLOCK_M
    )  # fmt: skip
    acc, total, top = attend_stored(
        q_tile, keys, values, key_meta, value_meta, key_scale, value_scale, since - 1, kv_head, table, start, whole, stop, scale,
        slots_per_head, key_meta_stride, value_meta_stride,
        HEAD_DIM, HEAD_P, BLOCK_SIZE, BLOCK_M, BLOCK_N, PRECISION, WIDEN,
        KEY_FORM, KEY_BITS, KEY_GROUP, VALUE_FORM, VALUE_BITS, VALUE_GROUP,
    )  # fmt: skip
    if (WINDOW > 0) | (prefills is not None):
        sequence_tail_keys, sequence_tail_values = tail_keys, tail_values
        if tail_keys is not None:
            first_place = tl.load(tails + first_sequence + sequence).to(tl.int64) * (TAIL_TOKENS * HEAD_DIM)
            first_place += kv_head.to(tl.int64) * tail_stride
            sequence_tail_keys = tail_keys + first_place
            sequence_tail_values = tail_values + first_place
        sequence_own_keys, sequence_own_values = own_keys, own_values
        if own_keys is not None:
            first_own = (sequence_start.to(tl.int64) * KV_HEADS + kv_head) * HEAD_DIM
            sequence_own_keys = own_keys + first_own
            sequence_own_values = own_values + first_own
        exact_start = since_first + tl.maximum(step - stored_steps, 0) * BLOCK_N
        exact_stop = tl.minimum(limit, since_first + tl.maximum(next_step - stored_steps, 0) * BLOCK_N)
        acc, total, top = attend_exact(
            acc, total, top, q_tile, since, context + member,
            sequence_tail_keys, sequence_tail_values, sequence_own_keys, sequence_own_values,
            context, exact_start, exact_stop, scale,
            HEAD_DIM, HEAD_P, BLOCK_N, KV_HEADS * HEAD_DIM, TAIL_TOKENS, PRECISION, WIDEN,
        )  # fmt: skip
    leave(acc, total, top, out, partial_out, partial_lse, place, valid, HEAD_DIM, HEAD_P, SPLIT)


@triton.jit
def shared_prefixes(
    q, partial_out, partial_lse, keys, values, key_meta, value_meta, key_scale, value_scale, block_starts, blocks,  # as above
    part_starts,  # [rows] int32, first part of each row
    members,  # int32, rows of the batch: those that share a prefix lie together
    items,  # [items, 5] int32: first member, members, first place, place behind the last, part of its rows; no members: no work
    scale, q_stride_token, q_stride_head, slots_per_head, key_meta_stride, value_meta_stride,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    KEY_FORM: tl.constexpr, KEY_BITS: tl.constexpr, KEY_GROUP: tl.constexpr,
    VALUE_FORM: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_GROUP: tl.constexpr,
):  # fmt: skip
    """Single tokens that share places of their sequences, as one tile, against a stretch of these. Grid: (items, kv_heads)."""
    item = items + tl.program_id(0) * 5
    kv_head = tl.program_id(1)
    count = tl.load(item + 1)
    if count == 0:
        return
    first = tl.load(item)
    start = tl.load(item + 2)
    stop = tl.load(item + 3)
    rows = tl.arange(0, BLOCK_M)
    valid = rows < count * GROUP
    token = tl.load(members + first + rows // GROUP, mask=valid, other=0).to(tl.int64)
    part = tl.load(part_starts + token, mask=valid, other=0).to(tl.int64) + tl.load(item + 4)
    place = part * (KV_HEADS * GROUP) + kv_head * GROUP + rows % GROUP
    whole = start + (stop - start) // BLOCK_N * BLOCK_N
    last = tl.zeros([BLOCK_M], tl.int32) + stop  # everybody sees everything
    table = blocks + tl.load(block_starts + tl.load(members + first))
    q_tile = take_queries(
        q, token, valid, kv_head, q_stride_token, q_stride_head, GROUP, HEAD_DIM, HEAD_P, BLOCK_M
    )  # fmt: skip
    acc, total, top = attend_stored(
        q_tile, keys, values, key_meta, value_meta, key_scale, value_scale, last, kv_head, table, start, whole, stop, scale,
        slots_per_head, key_meta_stride, value_meta_stride,
        HEAD_DIM, HEAD_P, BLOCK_SIZE, BLOCK_M, BLOCK_N, PRECISION, WIDEN,
        KEY_FORM, KEY_BITS, KEY_GROUP, VALUE_FORM, VALUE_BITS, VALUE_GROUP,
    )  # fmt: skip
    leave(acc, total, top, q, partial_out, partial_lse, place, valid, HEAD_DIM, HEAD_P, True)


@triton.jit(do_not_specialize=CHANGING)
def merge_segments(
    out, partial_out, partial_lse, query_starts, kv_lens, prefills,
    covered, part_starts, shared_parts,  # as above
    first_sequence, first_token, num_sequences, segments,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_P: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, SINGLES: tl.constexpr, WINDOW: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Merge one token's one head over the segments that had keys. Grid: (tokens, heads)."""
    local = tl.program_id(0)
    head = tl.program_id(1)
    token = (first_token + local).to(tl.int64)
    query_starts += first_sequence
    kv_lens += first_sequence
    behind = 0
    prefill = None
    if SINGLES:
        kv_len = tl.load(kv_lens + local)
        query_len = 1
        begin = 0
        if covered is not None:
            behind = tl.load(covered + local)
        if prefills is not None:
            prefill = tl.load(prefills + first_sequence + local)
    else:
        low = 0
        high = num_sequences
        while high - low > 1:
            middle = (low + high) // 2
            if tl.load(query_starts + middle) <= token:
                low = middle
            else:
                high = middle
        begin = (token - tl.load(query_starts + low)).to(tl.int32) // BLOCK_Q * BLOCK_Q
        query_len = tl.load(query_starts + low + 1) - tl.load(query_starts + low)
        kv_len = tl.load(kv_lens + low)
        if prefills is not None:
            prefill = tl.load(prefills + first_sequence + low)
    _, _, _, stored_steps, exact_steps = reach(
        kv_len - query_len, kv_len, begin, behind, prefill, BLOCK_Q, BLOCK_N, WINDOW
    )  # fmt: skip
    steps = stored_steps + exact_steps
    used = tl.cdiv(steps, tl.maximum(tl.cdiv(steps, segments), 1))  # segments that had keys
    first_part = token * segments
    if part_starts is not None:
        first_part = tl.load(part_starts + local).to(tl.int64)
        used += tl.load(shared_parts + local)

    dims = tl.arange(0, HEAD_P)
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    acc = tl.zeros([HEAD_P], tl.float32)
    for at in range(0, used, AT_ONCE):
        part = at + tl.arange(0, AT_ONCE)
        had = part < used
        place = (first_part + part) * HEADS + head
        lse = tl.load(partial_lse + place, mask=had, other=float("-inf"))
        # Parts may hold nothing that this token sees, though another token of its tile does.
        new_top = tl.maximum(top, tl.max(lse, 0))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp(lse - base)
        fade = tl.exp(top - base)
        wanted = had[:, None] & (dims < HEAD_DIM)[None, :]
        parts = tl.load(partial_out + place[:, None] * HEAD_DIM + dims[None, :], mask=wanted, other=0.0)
        acc = acc * fade + tl.sum(weights[:, None] * parts, 0)
        total = total * fade + tl.sum(weights, 0)
        top = new_top
    acc = acc / tl.where(total == 0.0, 1.0, total)
    tl.store(out + (token * HEADS + head) * HEAD_DIM + dims, acc.to(out.dtype.element_ty), mask=dims < HEAD_DIM)
