"""The linear layer: weights laid out once for the machine they run on, then one call per use.

On a CPU, oneDNN multiplies fastest when the weights lie in its own blocked order, which ``F.linear`` has to arrange for
anew on every call. Packed once at load, a decode step's linear layers take little more than half the time; on a GPU the
plain layout is right.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_pointwise: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # absent from builds without oneDNN
_ROWS_HINT = 16  # rows the packed order is chosen for; measured no worse than any other for 1 to 512 rows


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch and this machine can multiply by weights in oneDNN's own order."""
    if device.type != "cpu" or _pointwise is None or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear:
    """``y = x @ weight.T + bias`` for inference.

    Args:
        weight: [out, in], on the device and in the dtype it will be used in. It is not kept where it can be packed.
        bias: [out] or None.
    """

    __slots__ = ("_bias", "_packed", "_weight", "out_features")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.out_features = weight.shape[0]
        self._bias = bias
        self._packed = can_pack(weight.device, weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT) if self._packed else weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [rows, in] -> [rows, out]."""
        if self._packed:
            return _pointwise.default(x, self._weight, self._bias, "none", [], "")
        return F.linear(x, self._weight, self._bias)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """residual: [rows, out], x: [rows, in] -> ``residual + self(x)``, rounded once; may reuse residual's memory."""
        if self._packed:
            return _pointwise.binary(x, residual, self._weight, self._bias, "add")
        if self._bias is None:
            return residual.addmm_(x, self._weight.t())
        return residual.add_(F.linear(x, self._weight, self._bias))
