"""Small GGUF files with random weights, written the way llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch

from engine.model.rope import inverse_frequencies
from engine.model.shape import ModelShape

HIDDEN, HEADS, KV_HEADS, MLP, LAYERS, CONTEXT = 64, 4, 2, 96, 2, 256
HEAD_DIM = HIDDEN // HEADS


def byte_tokens() -> list[str]:
    """The 256 characters byte-level BPE writes bytes with."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_tokens(), "Ġt", "he", "Ġthe", "in", "12"]
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "1 2"]


def write_gguf(
    path: Path, kind: str = "llama", rope_factors: ModelShape | None = None, splitting: str = "smollm"
) -> None:
    """A two-layer model of architecture ``kind``.

    Args:
        rope_factors: write the frequency divisors of this shape.
        splitting: llama.cpp's name for how text is split before byte-pair encoding.
    """
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(7)

    def tensor(name: str, *dims: int) -> None:
        scale = 1.0 if len(dims) == 1 else 0.3
        writer.add_tensor(name, (random.standard_normal(dims) * scale).astype(np.float32))

    def quantised(name: str, *dims: int) -> None:
        blocks = gguf.quants.quantize(
            (random.standard_normal(dims) * 0.3).astype(np.float32), gguf.GGMLQuantizationType.Q8_0
        )
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    tensor("token_embd.weight", len(TOKENS), HIDDEN)
    for number in range(LAYERS):
        at = f"blk.{number}."
        for norm in ("attn_norm", "ffn_norm"):
            tensor(f"{at}{norm}.weight", HIDDEN)
        for name, width in (("attn_q", HIDDEN), ("attn_k", KV_HEADS * HEAD_DIM), ("attn_v", KV_HEADS * HEAD_DIM)):
            quantised(f"{at}{name}.weight", width, HIDDEN)
            if kind == "qwen2":
                tensor(f"{at}{name}.bias", width)
        if kind == "qwen3":
            tensor(f"{at}attn_q_norm.weight", HEAD_DIM)
            tensor(f"{at}attn_k_norm.weight", HEAD_DIM)
        quantised(f"{at}attn_output.weight", HIDDEN, HIDDEN)
        quantised(f"{at}ffn_gate.weight", MLP, HIDDEN)
        quantised(f"{at}ffn_up.weight", MLP, HIDDEN)
        quantised(f"{at}ffn_down.weight", HIDDEN, MLP)
    tensor("output_norm.weight", HIDDEN)
    if rope_factors is not None:
        plain = ModelShape(**{**vars(rope_factors), "rope_scaling": None})
        factors: torch.Tensor = inverse_frequencies(plain) / inverse_frequencies(rope_factors)
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
