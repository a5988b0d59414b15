"""The decoder: one forward pass over a ragged batch, flat in tokens, for every covered family.

A batch is ``T`` tokens of any requests, in any order; only attention knows who belongs to whom. Hence a decode token, a
chunk of a prompt and a draft being verified all look the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from engine.model.linear import Linear
from engine.model.norm import RMSNorm
from engine.model.rope import Rope
from engine.model.shape import ModelShape


class Attention(Protocol):
    """What the decoder asks of an attention backend."""

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Store this step's keys and values, attend, and return the heads side by side.

        Args:
            layer: number of the decoder layer.
            q: [T, heads, head_dim], after RoPE; a strided view.
            k: [T, kv_heads, head_dim], after RoPE; a strided view.
            v: [T, kv_heads, head_dim]; a strided view.

        Returns:
            [T, heads * head_dim], contiguous, in q's dtype.
        """
        ...


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer."""

    input_norm: RMSNorm
    qkv: Linear  # hidden -> (heads + 2 kv_heads) * head_dim
    qk_norm: RMSNorm | None  # per head, q heads first
    output: Linear  # heads * head_dim -> hidden
    mlp_norm: RMSNorm
    gate_up: Linear  # hidden -> 2 * intermediate
    down: Linear  # intermediate -> hidden


class Decoder:
    """A decoder-only transformer for inference.

    Meant to be called under ``torch.inference_mode()``; no parameter asks for gradients, so it also works without.
    """

    def __init__(
        self, shape: ModelShape, embedding: torch.Tensor, layers: Sequence[Layer], norm: RMSNorm, head: Linear
    ) -> None:
        self.shape = shape
        self.device = embedding.device
        self.dtype = embedding.dtype
        self.layers = tuple(layers)
        self.embedding = embedding  # [vocab, hidden]
        self.norm = norm
        self.head = head
        self.rope = Rope(shape, shape.max_position, self.device, self.dtype)
        self._rotated_and_not = (shape.heads + shape.kv_heads, shape.kv_heads)
        self._q_and_k = (shape.heads, shape.kv_heads)

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        layers: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Run the batch through the layers.

        Args:
            token_ids: [T] int64.
            positions: [T] int64, each token's place in its own sequence.
            attention: called once per layer.
            layers: run only these, in this order; None runs all.

        Returns:
            [T, hidden]: the residual stream after the last layer, before the final norm; rows go to ``logits``.
        """
        return self.through(F.embedding(token_ids, self.embedding), positions, attention, layers)

    def through(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        layers: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The residual stream ``x`` [T, hidden] after these layers, as ``forward``; what was given may be
        overwritten."""
        angles = self.rope.at(positions)
        for number in range(len(self.layers)) if layers is None else layers:
            layer = self.layers[number]
            q, k, v = self._qkv(layer, layer.input_norm(x), angles)
            x = layer.output.add_to(x, attention.forward(number, q, k, v))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
            x = layer.down.add_to(x, F.silu(gate).mul_(up))
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [R, hidden] rows of what ``forward`` returned -> [R, vocab] float32."""
        return self.head(self.norm(hidden)).float()

    def touch(self, rows: int) -> None:
        """Multiply once by every form of weight matrix with so many rows: a library may prepare itself when it first
        sees that number."""
        shape, layer = self.shape, self.layers[0]
        x = torch.zeros(rows, shape.hidden, dtype=self.dtype, device=self.device)
        layer.qkv(x)
        layer.output.add_to(x.clone(), x.new_zeros(rows, shape.q_width))
        layer.gate_up(x)
        layer.down.add_to(x.clone(), x.new_zeros(rows, shape.intermediate))
        self.head(x)

    def _qkv(
        self, layer: Layer, x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = layer.qkv(x).view(x.shape[0], -1, self.shape.head_dim)  # q heads, then k heads, then v heads
        qk, v = heads.split_with_sizes(self._rotated_and_not, 1)
        if layer.qk_norm is not None:
            qk = layer.qk_norm(qk)
        q, k = self.rope.rotate(qk, angles).split_with_sizes(self._q_and_k, 1)
        return q, k, v
