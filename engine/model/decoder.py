"""The decoder: one forward pass over a ragged batch, flat in tokens, for every covered family.

A batch is ``T`` tokens of any requests, in any order; only attention knows who belongs to whom. Hence a decode token, a
chunk of a prompt and a draft being verified all look the same here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from engine.model.linear import Linear
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

    input_norm: torch.Tensor  # [hidden]
    qkv: Linear  # hidden -> (heads + 2 kv_heads) * head_dim
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim]
    output: Linear  # heads * head_dim -> hidden
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: Linear  # hidden -> 2 * intermediate
    down: Linear  # intermediate -> hidden


GetTensor = Callable[[str, tuple[int, ...]], torch.Tensor]


class Decoder:
    """A decoder-only transformer for inference.

    Meant to be called under ``torch.inference_mode()``; no parameter asks for gradients, so it also works without.
    """

    def __init__(
        self, shape: ModelShape, embedding: torch.Tensor, layers: Sequence[Layer], norm: torch.Tensor, head: Linear
    ) -> None:
        self.shape = shape
        self.device = embedding.device
        self.dtype = embedding.dtype
        self.layers = tuple(layers)
        self._embedding = embedding  # [vocab, hidden]
        self._norm = norm  # [hidden]
        self._head = head
        self._rope = Rope(shape, shape.max_position, self.device, self.dtype)
        self._rotated_heads = shape.heads + shape.kv_heads

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
        x = F.embedding(token_ids, self._embedding)
        angles = self._rope.at(positions)
        for number in range(len(self.layers)) if layers is None else layers:
            layer = self.layers[number]
            q, k, v = self._qkv(layer, self._normed(x, layer.input_norm), angles)
            x.add_(layer.output(attention.forward(number, q, k, v)))
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, -1)
            x.add_(layer.down(F.silu(gate).mul_(up)))
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [R, hidden] rows of what ``forward`` returned -> [R, vocab] float32."""
        return self._head(self._normed(hidden, self._norm)).float()

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm as checkpoints expect it: float32 inside, rounded to the model's dtype, then times the weight."""
        return F.rms_norm(x, x.shape[-1:], None, self.shape.norm_eps).mul_(weight)

    def _qkv(
        self, layer: Layer, x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = layer.qkv(x).view(x.shape[0], -1, self.shape.head_dim)  # q heads, then k heads, then v heads
        qk, v = heads[:, : self._rotated_heads], heads[:, self._rotated_heads :]
        if layer.qk_norm is not None:
            qk = self._normed(qk, layer.qk_norm)
        qk = self._rope.rotate(qk, angles)
        return qk[:, : self.shape.heads], qk[:, self.shape.heads :], v


def build(shape: ModelShape, get: GetTensor, progress: Callable[[float], None] = lambda share: None) -> Decoder:
    """Put a decoder together from tensors named as in Hugging Face checkpoints.

    Args:
        shape: what to build.
        get: ``get(name, expected_shape)`` returns that tensor on the device and in the dtype to run in.
        progress: told the share of layers done, 0 to 1.
    """
    hidden, width = shape.hidden, shape.intermediate
    embedding = get("model.embed_tokens.weight", (shape.vocab, hidden))

    def linear(prefix: str, parts: dict[str, int], inputs: int, bias: bool) -> Linear:
        """Several projections of the same input as one matrix, their outputs side by side."""
        weights = [get(f"{prefix}{name}.weight", (outputs, inputs)) for name, outputs in parts.items()]
        biases = [get(f"{prefix}{name}.bias", (outputs,)) for name, outputs in parts.items()] if bias else []
        if len(parts) == 1:
            return Linear(weights[0], biases[0] if biases else None)
        return Linear(torch.cat(weights), torch.cat(biases) if biases else None)

    layers = []
    for number in range(shape.layers):
        at = f"model.layers.{number}."
        attn, mlp = at + "self_attn.", at + "mlp."
        qk_norm = None
        if shape.qk_norm:
            q_norm = get(attn + "q_norm.weight", (shape.head_dim,)).expand(shape.heads, -1)
            k_norm = get(attn + "k_norm.weight", (shape.head_dim,)).expand(shape.kv_heads, -1)
            qk_norm = torch.cat((q_norm, k_norm))
        qkv = {"q_proj": shape.q_width, "k_proj": shape.kv_width, "v_proj": shape.kv_width}
        layers.append(
            Layer(
                input_norm=get(at + "input_layernorm.weight", (hidden,)),
                qkv=linear(attn, qkv, hidden, shape.qkv_bias),
                qk_norm=qk_norm,
                output=linear(attn, {"o_proj": hidden}, shape.q_width, shape.output_bias),
                mlp_norm=get(at + "post_attention_layernorm.weight", (hidden,)),
                gate_up=linear(mlp, {"gate_proj": width, "up_proj": width}, hidden, shape.mlp_bias),
                down=linear(mlp, {"down_proj": hidden}, width, shape.mlp_bias),
            )
        )
        progress((number + 1) / (shape.layers + 1))
    norm = get("model.norm.weight", (hidden,))
    head = Linear(embedding if shape.tied else get("lm_head.weight", (shape.vocab, hidden)))
    progress(1.0)
    return Decoder(shape, embedding, layers, norm, head)
