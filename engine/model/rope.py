"""Rotary position embeddings: a table made once, and the rotation itself.

The two halves of a head are rotated against each other (the ``rotate_half`` convention of Hugging Face checkpoints)::

    out[:half] = x[:half] * cos - x[half:] * sin
    out[half:] = x[half:] * cos + x[:half] * sin

which is ``x * cos + roll(x, half) * signed_sin`` with the first half of ``signed_sin`` negated.
"""

from __future__ import annotations

import math

import torch

from engine.model.shape import ModelShape


def inverse_frequencies(shape: ModelShape) -> torch.Tensor:
    """[head_dim / 2] float32, scaled as the shape says."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    frequencies = 1.0 / (shape.rope_theta**exponents)
    scaling = shape.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # llama3: turns a frequency makes over the original context decide; few turns are slowed down, many are kept.
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / scaling.factor)


class Rope:
    """cos and signed sin of every position up to ``positions``, computed in float32, kept in ``dtype``."""

    def __init__(self, shape: ModelShape, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        self._half = shape.head_dim // 2
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse_frequencies(shape))
        cos, sin = angles.cos(), angles.sin()
        table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1)
        self.table = table.unsqueeze(2).to(device=device, dtype=dtype)  # [positions, 2, 1, head_dim]

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """positions: [T] int64 -> cos, signed sin, each [T, 1, head_dim], to be used in every layer of a step."""
        rows = self.table.index_select(0, positions)
        return rows[:, 0], rows[:, 1]

    def rotate(self, x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x: [T, heads, head_dim], any strides -> the same shape, contiguous."""
        cos, sin = angles
        return torch.addcmul(x * cos, x.roll(self._half, -1), sin)
