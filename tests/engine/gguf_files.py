"""Small GGUF files, written the way llama.cpp's converter writes them: of random weights, or of a model of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from engine.model.rope import inverse_frequencies
from engine.model.shape import ModelShape

HIDDEN, HEADS, KV_HEADS, MLP, LAYERS, CONTEXT = 64, 4, 2, 96, 2, 256
HEAD_DIM = HIDDEN // HEADS
Q8 = gguf.GGMLQuantizationType.Q8_0


def byte_tokens() -> list[str]:
    """The 256 characters byte-level BPE writes bytes with."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_tokens(), "Ġt", "he", "Ġthe", "in", "12"]
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "1 2"]


def model_keys(kind: str = "llama") -> dict[str, Any]:
    """Keys that say what the model looks like."""
    return {
        f"{kind}.block_count": LAYERS,
        f"{kind}.context_length": CONTEXT,
        f"{kind}.embedding_length": HIDDEN,
        f"{kind}.feed_forward_length": MLP,
        f"{kind}.attention.head_count": HEADS,
        f"{kind}.attention.head_count_kv": KV_HEADS,
        f"{kind}.attention.key_length": HEAD_DIM,
        f"{kind}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{kind}.rope.freq_base": 10_000.0,
        f"{kind}.vocab_size": len(TOKENS),
    }


def tokenizer_keys(splitting: str = "smollm") -> dict[str, Any]:
    """Keys of a byte-level tokenizer; ``splitting``: llama.cpp's name for how text is split before byte-pair encoding."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": splitting,
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(TOKENS) - 3),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def write_gguf(
    path: Path,
    kind: str = "llama",
    rope_factors: ModelShape | None = None,
    splitting: str = "smollm",
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> None:
    """A two-layer model of architecture ``kind``.

    Args:
        rope_factors: write the frequency divisors of this shape.
        splitting: as for ``tokenizer_keys``.
        keys: put in place of those there are, or beside them; None leaves one out.
        tensors: the same for tensors.
    """
    random = np.random.default_rng(7)

    def tensor(*dims: int) -> np.ndarray:
        scale = 1.0 if len(dims) == 1 else 0.3
        return (random.standard_normal(dims) * scale).astype(np.float32)

    arrays: dict[str, np.ndarray] = {"token_embd.weight": tensor(len(TOKENS), HIDDEN)}
    for number in range(LAYERS):
        at = f"blk.{number}."
        for norm in ("attn_norm", "ffn_norm"):
            arrays[f"{at}{norm}.weight"] = tensor(HIDDEN)
        for name, width in (("attn_q", HIDDEN), ("attn_k", KV_HEADS * HEAD_DIM), ("attn_v", KV_HEADS * HEAD_DIM)):
            arrays[f"{at}{name}.weight"] = gguf.quants.quantize(tensor(width, HIDDEN), Q8)
            if kind == "qwen2":
                arrays[f"{at}{name}.bias"] = tensor(width)
        if kind == "qwen3":
            arrays[f"{at}attn_q_norm.weight"] = tensor(HEAD_DIM)
            arrays[f"{at}attn_k_norm.weight"] = tensor(HEAD_DIM)
        for name, rows, width in (
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", MLP, HIDDEN),
            ("ffn_up", MLP, HIDDEN),
            ("ffn_down", HIDDEN, MLP),
        ):
            arrays[f"{at}{name}.weight"] = gguf.quants.quantize(tensor(rows, width), Q8)
    arrays["output_norm.weight"] = tensor(HIDDEN)
    if rope_factors is not None:
        plain = ModelShape(**{**vars(rope_factors), "rope_scaling": None})
        factors: torch.Tensor = inverse_frequencies(plain) / inverse_frequencies(rope_factors)
        arrays["rope_freqs.weight"] = factors.numpy()
    write_file(
        path, kind, model_keys(kind) | tokenizer_keys(splitting) | dict(keys or {}), arrays | dict(tensors or {})
    )


def write_file(path: Path, kind: str, keys: Mapping[str, Any], tensors: Mapping[str, np.ndarray | None]) -> None:
    """Any keys and tensors; rows of bytes are Q8_0 blocks, None leaves one out."""
    writer = gguf.GGUFWriter(str(path), kind)
    for key, value in keys.items():
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, array in tensors.items():
        if array is not None:
            writer.add_tensor(name, array, raw_dtype=Q8 if array.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    **{f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
}


def tensors_of(model: Any, kind: str) -> dict[str, np.ndarray]:
    """The weights of a model of transformers, named and ordered as in a GGUF file: of Llama's q and k, the two halves of a
    head take turns."""
    arrays = {}
    for name, parameter in model.named_parameters():
        stem, _, what = name.rpartition(".")
        block = ""
        if stem.startswith("model.layers."):
            _, _, number, stem = stem.split(".", 3)
            block = f"blk.{number}."
        array = parameter.detach().float().numpy()
        if kind == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = array.reshape(-1, 2, model.config.head_dim // 2, *array.shape[1:])
            array = np.ascontiguousarray(np.swapaxes(halves, 1, 2)).reshape(array.shape)
        arrays[f"{block}{_NAMES[stem]}.{what}"] = array
    return arrays
