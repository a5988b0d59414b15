"""The obvious attention for tests of the decoder: keeps every key and value, one sequence, full softmax."""

from __future__ import annotations

import torch


class FullAttention:
    """Causal attention of one growing sequence."""

    def __init__(self) -> None:
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if layer in self._keys:
            k, v = torch.cat((self._keys[layer], k)), torch.cat((self._values[layer], v))
        self._keys[layer], self._values[layer] = k, v
        group = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)  # [S, heads, head_dim]
        scores = torch.einsum("thd,shd->hts", q.float(), keys.float()) / q.shape[-1] ** 0.5
        new, total = q.shape[0], k.shape[0]
        future = torch.ones(new, total, dtype=torch.bool).triu(total - new + 1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return torch.einsum("hts,shd->thd", weights, values.float()).to(q.dtype).reshape(new, -1)
