"""The MLP's gate: SiLU times the other half, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_COLUMNS = 1024


@triton.jit
def _silu_mul(gate_up, out, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = columns < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + columns, mask=wanted, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + columns, mask=wanted, other=0.0).to(tl.float32)
    active = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * WIDTH + columns, (active * up).to(out.dtype.element_ty), mask=wanted)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """gate_up: [rows, 2 * width] contiguous, gates first -> ``silu(gate) * up`` [rows, width], float32 inside."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(rows, triton.cdiv(width, _COLUMNS))](gate_up, out, WIDTH=width, COLUMNS=_COLUMNS, num_warps=4)
    return out
