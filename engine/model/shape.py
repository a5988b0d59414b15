"""What a decoder looks like: every dimension, read from a ``config.json`` as transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import EngineError

COVERED = {
    "LlamaForCausalLM": "Llama 2, Llama 3.x and SmolLM2",
    "MistralForCausalLM": "Mistral without sliding window",
    "Qwen2ForCausalLM": "Qwen2 and Qwen2.5",
    "Qwen3ForCausalLM": "Qwen3",
}


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
    def parameters(self) -> int:
        """All parameters, shared ones counted once."""
        vectors = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        vectors += (self.q_width + 2 * self.kv_width) if self.qkv_bias else 0
        vectors += self.hidden if self.output_bias else 0
        vectors += (2 * self.intermediate + self.hidden) if self.mlp_bias else 0
        embedding = 0 if self.tied else self.vocab * self.hidden
        return self.matmul_parameters + self.layers * vectors + self.hidden + embedding

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
            EngineError: the architecture or something it switches on is not covered, or a dimension is missing.
        """
        architecture = _architecture(config)
        _refuse_uncovered(config, architecture)
        heads = _size(config, "num_attention_heads")
        hidden = _size(config, "hidden_size")
        kv_heads = _size(config, "num_key_value_heads", heads)
        head_dim = _size(config, "head_dim", hidden // heads)
        if heads % kv_heads:
            raise _bad("num_key_value_heads", kv_heads, f"It does not divide num_attention_heads = {heads}.")
        if head_dim % 2:
            raise _bad("head_dim", head_dim, "Rotary embeddings need an even head size.")
        max_position = _size(config, "max_position_embeddings", 2048)
        _refuse_sliding_window(config, architecture, max_position)
        theta, scaling = _rope(config, max_position)
        attention_bias = bool(config.get("attention_bias", False))
        eos = (generation or {}).get("eos_token_id", None)
        return cls(
            architecture=architecture,
            layers=_size(config, "num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=_size(config, "intermediate_size"),
            vocab=_size(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            max_position=max_position,
            qkv_bias=architecture == "Qwen2ForCausalLM" or attention_bias,
            output_bias=attention_bias and architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"),
            mlp_bias=bool(config.get("mlp_bias", False)) and architecture == "LlamaForCausalLM",
            qk_norm=architecture == "Qwen3ForCausalLM",
            eos_token_ids=_token_ids(config.get("eos_token_id") if eos is None else eos),
            bos_token_id=config.get("bos_token_id"),
        )


def _bad(field: str, value: Any, message: str, mend: str = "Check the model's config.json.") -> EngineError:
    return EngineError("bad-model-config", f"config.json: {field}", value, message, mend)


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _bad(key, value, "A positive whole number is needed here.")
    return value


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    name = names[0] if isinstance(names, list) and names else str(config.get("model_type", "unknown"))
    if name not in COVERED:
        covered = "; ".join(f"{key} ({families})" for key, families in COVERED.items())
        raise EngineError(
            "unknown-architecture",
            "model",
            name,
            "This architecture is not covered.",
            f"Choose a model of one of these: {covered}.",
        )
    return name


def _refuse_uncovered(config: Mapping[str, Any], architecture: str) -> None:
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise _bad(
            "quantization_config",
            method,
            "Quantised checkpoints are not covered.",
            "Use the full-precision checkpoint or a GGUF file.",
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise _bad(
            "hidden_act",
            activation,
            f"{architecture} is covered with silu only.",
            "Choose a model whose activation is silu.",
        )
    partial = config.get("partial_rotary_factor", (config.get("rope_parameters") or {}).get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise _bad(
            "partial_rotary_factor",
            partial,
            "Rotating part of a head is not covered.",
            "Choose a model that rotates whole heads.",
        )


def _refuse_sliding_window(config: Mapping[str, Any], architecture: str, max_position: int) -> None:
    """Full attention is all there is here; a window as long as the model's context is the same thing."""
    window = config.get("sliding_window")
    if window is None or architecture == "LlamaForCausalLM" or window >= max_position:
        return
    if architecture.startswith("Qwen") and not config.get("use_sliding_window", False):
        return
    kinds = config.get("layer_types")
    if kinds is not None and "sliding_attention" not in kinds:
        return
    raise _bad(
        "sliding_window",
        window,
        f"Attention over a sliding window shorter than the context ({max_position} tokens) is not covered.",
        "Choose a model without it (for Mistral: version 0.2 or later).",
    )


def _rope(config: Mapping[str, Any], max_position: int) -> tuple[float, RopeScaling | None]:
    """transformers 5 writes ``rope_parameters``; version 4 wrote ``rope_theta`` and ``rope_scaling``."""
    rope = dict(config.get("rope_scaling") or {})
    rope.update(config.get("rope_parameters") or {})
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise _bad(
            "rope_scaling",
            kind,
            "This way of scaling rotary embeddings is not covered.",
            "Covered are default, linear and llama3.",
        )
    factor = float(rope.get("factor", 0.0))
    if factor < 1.0:
        raise _bad("rope_scaling.factor", factor, "It must be at least 1.")
    if kind == "linear":
        return theta, RopeScaling("linear", factor)
    missing = [k for k in ("low_freq_factor", "high_freq_factor") if k not in rope]
    if missing:
        raise _bad("rope_scaling", missing, "llama3 scaling needs these, too.")
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    if not 0 < low < high:
        raise _bad(
            "rope_scaling.high_freq_factor", high, f"It must be larger than low_freq_factor = {low}, and both above 0."
        )
    original = int(rope.get("original_max_position_embeddings") or max_position)
    return theta, RopeScaling("llama3", factor, low, high, original)


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
