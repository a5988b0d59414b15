"""What a decoder looks like: every dimension, read from a ``config.json`` as transformers writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.model import config_file

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the length the model was trained on.

    ``linear`` divides every frequency by ``factor``. ``llama3`` divides the slow ones, keeps the fast ones and blends
    in between; wavelengths are compared with ``original_max_position`` (tokens).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_position: int = 0


@dataclass(frozen=True)
class ModelShape:
    """Dimensions and constants of one decoder-only model."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool  # the lm head shares the embedding's weights
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    max_position: int  # tokens
    qkv_bias: bool = False
    output_bias: bool = False  # on the attention's output projection
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head of q and k, before RoPE (Qwen3)
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def matmul_parameters(self) -> int:
        """Parameters multiplied for each token (N of the theoretical peak), lm head included, embedding lookup not."""
        attention = self.hidden * (2 * self.q_width + 2 * self.kv_width)
        mlp = 3 * self.hidden * self.intermediate
        return self.layers * (attention + mlp) + self.vocab * self.hidden

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and dimensions of every weight and bias, as Hugging Face checkpoints call them."""
        hidden, width = self.hidden, self.intermediate
        linear = {
            "self_attn.q_proj": (self.q_width, hidden, self.qkv_bias),
            "self_attn.k_proj": (self.kv_width, hidden, self.qkv_bias),
            "self_attn.v_proj": (self.kv_width, hidden, self.qkv_bias),
            "self_attn.o_proj": (hidden, self.q_width, self.output_bias),
            "mlp.gate_proj": (width, hidden, self.mlp_bias),
            "mlp.up_proj": (width, hidden, self.mlp_bias),
            "mlp.down_proj": (hidden, width, self.mlp_bias),
        }
        layer: dict[str, tuple[int, ...]] = {
            f"{name}.weight": (rows, inner) for name, (rows, inner, _) in linear.items()
        }
        layer |= {f"{name}.bias": (rows,) for name, (rows, _, biased) in linear.items() if biased}
        layer |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        if self.qk_norm:
            layer |= {f"self_attn.{name}_norm.weight": (self.head_dim,) for name in "qk"}
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab, hidden), "model.norm.weight": (hidden,)}
        for number in range(self.layers):
            shapes |= {f"model.layers.{number}.{name}": dims for name, dims in layer.items()}
        return shapes if self.tied else {**shapes, HEAD: (self.vocab, hidden)}

    @property
    def parameters(self) -> int:
        """All parameters, shared ones counted once."""
        return sum(math.prod(dims) for dims in self.tensors.values())

    def kv_bytes_per_token(self, element_bytes: float) -> float:
        """Bytes the keys and values of one token take in all layers, at ``element_bytes`` per element."""
        return 2 * self.layers * self.kv_width * element_bytes

    @classmethod
    def from_config(cls, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelShape:
        """Read ``config.json`` as transformers 4 or 5 writes it.

        Args:
            config: its content.
            generation: content of ``generation_config.json``; where it names stop tokens, they count.

        Raises:
            EngineError: the architecture or a key is not covered, has the wrong type, or contradicts another one.
        """
        architecture, keys = config_file.read_config(config)
        heads, kv_heads, head_dim = config_file.heads(architecture, keys)
        longest = config_file.context(architecture, keys)
        theta, rope, kind, original = config_file.rope(keys, longest)
        scaling = None
        if kind == "linear":
            scaling = RopeScaling("linear", rope.factor)
        elif kind == "llama3":
            scaling = RopeScaling("llama3", rope.factor, rope.low_freq_factor, rope.high_freq_factor, original)
        return cls(
            architecture=architecture,
            layers=keys.num_hidden_layers,
            hidden=keys.hidden_size,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=keys.intermediate_size,
            vocab=keys.vocab_size,
            tied=keys.tie_word_embeddings,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=keys.rms_norm_eps,
            max_position=longest,
            qkv_bias=architecture == config_file.QWEN2 or keys.attention_bias,
            output_bias=keys.attention_bias and architecture != config_file.QWEN2,
            mlp_bias=keys.mlp_bias,
            qk_norm=architecture == config_file.QWEN3,
            eos_token_ids=config_file.read_stop_tokens(keys, generation),
            bos_token_id=keys.bos_token_id,
        )


def _llama_like(name: str, dimensions: tuple[int, ...], *, theta: float, context: int, **more: Any) -> ModelShape:
    layers, hidden, heads, kv_heads, head_dim, intermediate, vocab = dimensions
    defaults: dict[str, Any] = {"tied": True, "rope_scaling": None, "norm_eps": 1e-5}
    return ModelShape(
        name,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        intermediate,
        vocab,
        rope_theta=theta,
        max_position=context,
        **{**defaults, **more},
    )


#: Shapes for ``random:<name>``: (layers, hidden, heads, KV heads, head size, MLP width, vocabulary).
RANDOM: Mapping[str, ModelShape] = {
    "tiny": _llama_like(
        "LlamaForCausalLM", (2, 64, 4, 2, 16, 128, 512), theta=10_000.0, context=2048, eos_token_ids=(2,)
    ),
    "smollm2-135m": _llama_like(
        "LlamaForCausalLM",
        (30, 576, 9, 3, 64, 1536, 49_152),
        theta=100_000.0,
        context=8192,
        eos_token_ids=(2,),
        bos_token_id=1,
    ),
    "qwen3-0.6b": _llama_like(
        "Qwen3ForCausalLM",
        (28, 1024, 16, 8, 128, 3072, 151_936),
        theta=1_000_000.0,
        context=40_960,
        norm_eps=1e-6,
        qk_norm=True,
        eos_token_ids=(151_645,),
    ),
    "llama-3.1-8b": _llama_like(
        "LlamaForCausalLM",
        (32, 4096, 32, 8, 128, 14_336, 128_256),
        theta=500_000.0,
        context=131_072,
        tied=False,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        eos_token_ids=(128_001, 128_008, 128_009),
        bos_token_id=128_000,
    ),
}
