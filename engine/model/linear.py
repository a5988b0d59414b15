"""The linear layer: weights laid out once for the machine they run on, then one call per use.

On a CPU, oneDNN multiplies fastest when the weights lie in its own blocked order, which ``F.linear`` has to arrange for
anew on every call. Packed once at load, a decode step's linear layers take little more than half the time; on a GPU the
plain layout is right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

_ROWS_HINT = 16  # rows the packed order is chosen for; measured no worse than any other for 1 to 512 rows


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch and this machine can multiply by weights in oneDNN's own order."""
    ops = torch.ops.mkldnn
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not (hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


class Linear:
    """``y = x @ weight.T + bias`` for inference.

    Args:
        weight: [out, in], on the device and in the dtype it will be used in. It is not kept where it can be packed.
        bias: [out] or None.
    """

    __slots__ = ("_bias", "_multiply", "_weight", "out_features")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.out_features = weight.shape[0]
        self._bias = bias
        self._multiply: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
        if can_pack(weight.device, weight.dtype):
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
            self._multiply = _packed
        else:
            self._weight = weight
            self._multiply = F.linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [rows, in] -> [rows, out]."""
        return self._multiply(x, self._weight, self._bias)


_pointwise = torch.ops.mkldnn._linear_pointwise.default if hasattr(torch.ops.mkldnn, "_linear_pointwise") else None


def _packed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return _pointwise(x, weight, bias, "none", [], "")  # type: ignore[misc]
