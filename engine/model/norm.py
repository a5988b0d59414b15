"""RMSNorm: float32 inside whatever the model's number format."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class RMSNorm:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    The quotient is rounded to x's dtype before it meets the weight, as in the code the checkpoints were made for. On a
    CPU the root is taken as ``hypot(|x|, sqrt(width * eps)) / sqrt(width)``: half the operations of ``F.rms_norm``
    there, which shows in decode steps, whose operations are small. CUDA has ``F.rms_norm`` as one kernel (rounded once,
    at the end).

    Args:
        weight: [width], or [heads, width] to give each head its own.
        eps: added to the mean square.
    """

    __slots__ = ("_fused", "_least", "_root_width", "eps", "weight")

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        width = weight.shape[-1]
        self.weight = weight
        self.eps = eps
        self._fused = weight.is_cuda and weight.ndim == 1
        self._least = torch.tensor([math.sqrt(width * eps)], dtype=torch.float32, device=weight.device)
        self._root_width = torch.tensor([math.sqrt(width)], dtype=torch.float32, device=weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., width] -> the same shape and dtype, new memory."""
        if self._fused:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        full = x.float()
        length = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
        scale = self._root_width / torch.hypot(length, self._least)
        return (full * scale).to(x.dtype).mul_(self.weight)
