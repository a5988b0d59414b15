"""Mixing the channels of a head, so that no channel is an outlier: a Hadamard matrix, as orthogonal as they come.

Queries are mixed like keys, so scores stay what they were; the output, a sum of mixed values, is mixed back.
"""

from __future__ import annotations

import torch


def hadamard(head_dim: int) -> torch.Tensor:
    """[head_dim, head_dim] float32, symmetric and its own inverse.

    Sylvester's matrix of the largest power of two that divides the head size, once per stretch of so many channels.
    """
    block = head_dim & -head_dim
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < block:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return torch.block_diag(*[matrix / block**0.5] * (head_dim // block))
