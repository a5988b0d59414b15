"""The next token on the device: the most likely one, or a draw at a temperature, without leaving for the host.

A draw is a race: with independent exponential times E_i, the token that maximises ``logit_i / T - log E_i`` has exactly the softmax
distribution at temperature T (Gumbel-max). The random numbers are Philox's, counted by (request's seed, output position, token), so a
draw depends on nothing else in the batch. A row with a NaN or an infinity gives ``engine.finite.BROKEN`` instead of a token. A vocabulary is cut into stripes, one program each; a second kernel takes the best.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.finite import BROKEN

_STRIPE = 8192
_STEP = 1024  # most tokens a program looks at in one load, of four


@triton.jit
def _race(scores, index, bits):
    """Scores minus the logarithm of an exponential time made of 32 random bits each."""
    uniform = tl.maximum(tl.uint_to_uniform_float(bits), 2.3e-10)  # never 0
    # -log(1 - u), exact also where u is tiny: that is where races are won.
    time = tl.where(uniform < 1e-3, uniform * (1.0 + 0.5 * uniform), -tl.log(1.0 - uniform))
    return scores - tl.log(time)


@triton.jit
def _better(best, where, scores, index):
    """Keep the higher score, of equal ones the lower index."""
    top = tl.max(scores, 0)
    first = tl.min(tl.where(scores == top, index, 2147483647), 0)
    return tl.where(top > best, top, best), tl.where(top > best, first, where)


@triton.jit
def _broken(scores, inside):
    """1 for what is a NaN or infinite."""
    return (inside & ~(tl.abs(scores) < float("inf"))).to(tl.int32)


@triton.jit
def _stripe_best(
    logits, temperatures, seeds, counters, best_scores, best_tokens, stride,
    VOCAB: tl.constexpr, STRIPE: tl.constexpr, STEP: tl.constexpr, BROKEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    stripe = tl.program_id(1)
    temperature = tl.load(temperatures + row)
    seed = tl.load(seeds + row)
    counter = tl.load(counters + row)
    best = tl.full([], float("-inf"), tl.float32)
    where = tl.full([], 0, tl.int32)
    broken = tl.full([], 0, tl.int32)
    lanes = tl.arange(0, STEP)
    for at in range(stripe * STRIPE, min(stripe * STRIPE + STRIPE, VOCAB), 4 * STEP):
        i0 = at + lanes
        i1 = i0 + STEP
        i2 = i1 + STEP
        i3 = i2 + STEP
        source = logits + row * stride
        s0 = tl.load(source + i0, mask=i0 < VOCAB, other=float("-inf")).to(tl.float32)
        s1 = tl.load(source + i1, mask=i1 < VOCAB, other=float("-inf")).to(tl.float32)
        s2 = tl.load(source + i2, mask=i2 < VOCAB, other=float("-inf")).to(tl.float32)
        s3 = tl.load(source + i3, mask=i3 < VOCAB, other=float("-inf")).to(tl.float32)
        broken = tl.maximum(broken, tl.max(_broken(s0, i0 < VOCAB) | _broken(s1, i1 < VOCAB), 0))
        broken = tl.maximum(broken, tl.max(_broken(s2, i2 < VOCAB) | _broken(s3, i3 < VOCAB), 0))
        if temperature > 0:
            zero = tl.zeros([STEP], tl.int32)
            b0, b1, b2, b3 = tl.philox(seed, i0, zero + counter, zero, zero)
            s0 = _race(s0 / temperature, i0, b0)
            s1 = _race(s1 / temperature, i1, b1)
            s2 = _race(s2 / temperature, i2, b2)
            s3 = _race(s3 / temperature, i3, b3)
        best, where = _better(best, where, s0, i0)
        best, where = _better(best, where, s1, i1)
        best, where = _better(best, where, s2, i2)
        best, where = _better(best, where, s3, i3)
    place = row * tl.num_programs(1) + stripe
    tl.store(best_scores + place, best)
    tl.store(best_tokens + place, tl.where(broken > 0, BROKEN, where))


@triton.jit
def _row_best(best_scores, best_tokens, tokens, STRIPES: tl.constexpr, STRIPES_P: tl.constexpr, BROKEN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, STRIPES_P)
    scores = tl.load(best_scores + row * STRIPES + lanes, mask=lanes < STRIPES, other=float("-inf"))
    candidates = tl.load(best_tokens + row * STRIPES + lanes, mask=lanes < STRIPES, other=2147483647)
    top = tl.max(scores, 0)
    token = tl.min(tl.where((scores == top) & (lanes < STRIPES), candidates, 2147483647), 0)
    worst = tl.min(tl.where(lanes < STRIPES, candidates, 0), 0)
    tl.store(tokens + row, tl.where(worst == BROKEN, BROKEN, token).to(tl.int64))


def sample_tokens(
    logits: torch.Tensor, temperatures: torch.Tensor, seeds: torch.Tensor, counters: torch.Tensor
) -> torch.Tensor:
    """One token per row.

    Args:
        logits: [rows, vocab], any float dtype.
        temperatures: [rows] float32; 0 takes the most likely token (of equal ones the first).
        seeds: [rows] int32, one per request.
        counters: [rows] int32, the position of the token in its request's output.

    Returns:
        [rows] int64; ``BROKEN`` for a row that is not finite.
    """
    rows, vocab = logits.shape
    stripes = triton.cdiv(vocab, _STRIPE)
    scores = torch.empty((rows, stripes), dtype=torch.float32, device=logits.device)
    candidates = torch.empty((rows, stripes), dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    _stripe_best[(rows, stripes)](
        logits,
        temperatures,
        seeds,
        counters,
        scores,
        candidates,
        logits.stride(0),
        VOCAB=vocab,
        STRIPE=_STRIPE,
        STEP=min(_STEP, max(16, triton.next_power_of_2(vocab) // 4)),
        BROKEN=BROKEN,
        num_warps=4,
    )
    padded = triton.next_power_of_2(stripes)
    _row_best[(rows,)](scores, candidates, tokens, STRIPES=stripes, STRIPES_P=padded, BROKEN=BROKEN, num_warps=1)
    return tokens
