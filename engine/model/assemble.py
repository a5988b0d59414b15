"""From named tensors to a decoder: projections of the same input become one matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.model.decoder import Decoder, Layer
from engine.model.linear import Linear
from engine.model.norm import RMSNorm
from engine.model.shape import ModelShape

GetTensor = Callable[[str, tuple[int, ...]], torch.Tensor]


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

    def norm(name: str) -> RMSNorm:
        return RMSNorm(get(name, (hidden,)), shape.norm_eps)

    layers = []
    for number in range(shape.layers):
        at = f"model.layers.{number}."
        attn, mlp = at + "self_attn.", at + "mlp."
        qk_norm = None
        if shape.qk_norm:
            q_norm = get(attn + "q_norm.weight", (shape.head_dim,)).expand(shape.heads, -1)
            k_norm = get(attn + "k_norm.weight", (shape.head_dim,)).expand(shape.kv_heads, -1)
            qk_norm = RMSNorm(torch.cat((q_norm, k_norm)), shape.norm_eps)
        qkv = {"q_proj": shape.q_width, "k_proj": shape.kv_width, "v_proj": shape.kv_width}
        layers.append(
            Layer(
                input_norm=norm(at + "input_layernorm.weight"),
                qkv=linear(attn, qkv, hidden, shape.qkv_bias),
                qk_norm=qk_norm,
                output=linear(attn, {"o_proj": hidden}, shape.q_width, shape.output_bias),
                mlp_norm=norm(at + "post_attention_layernorm.weight"),
                gate_up=linear(mlp, {"gate_proj": width, "up_proj": width}, hidden, shape.mlp_bias),
                down=linear(mlp, {"down_proj": hidden}, width, shape.mlp_bias),
            )
        )
        progress((number + 1) / (shape.layers + 1))
    head = Linear(embedding if shape.tied else get("lm_head.weight", (shape.vocab, hidden)))
    progress(1.0)
    return Decoder(shape, embedding, layers, norm("model.norm.weight"), head)
