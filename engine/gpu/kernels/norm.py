"""Residual sum and RMSNorm in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _add_norm(x, delta, weight, out, eps, WIDTH: tl.constexpr, WIDTH_P: tl.constexpr, ADD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH_P)
    wanted = columns < WIDTH
    value = tl.load(x + row * WIDTH + columns, mask=wanted, other=0.0)
    if ADD:
        value = (
            value.to(tl.float32) + tl.load(delta + row * WIDTH + columns, mask=wanted, other=0.0).to(tl.float32)
        ).to(x.dtype.element_ty)
        tl.store(x + row * WIDTH + columns, value, mask=wanted)
    value = value.to(tl.float32)
    root = tl.sqrt(tl.sum(value * value, 0) / WIDTH + eps)
    unit = (value / root).to(x.dtype.element_ty)
    scaled = unit.to(tl.float32) * tl.load(weight + columns, mask=wanted, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + columns, scaled.to(x.dtype.element_ty), mask=wanted)


def add_norm(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x += delta`` (where given), then ``x / sqrt(mean(x^2) + eps) * weight``.

    Args:
        x: [rows, width] contiguous, the residual stream; changed in place.
        delta: [rows, width] contiguous, or None.
        weight: [width].
        eps: added to the mean square.

    Returns:
        [rows, width] in x's dtype; sums and quotient in float32, the quotient rounded before it meets the weight.
    """
    rows, width = x.shape
    out = torch.empty_like(x)
    padded = triton.next_power_of_2(width)
    _add_norm[(rows,)](
        x,
        x if delta is None else delta,
        weight,
        out,
        eps,
        WIDTH=width,
        WIDTH_P=padded,
        ADD=delta is not None,
        num_warps=min(8, max(1, padded // 512)),
    )
    return out
