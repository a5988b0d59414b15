"""A GGUF file is read whole or refused by name: every tensor, every key, and no more bytes than there are."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.errors import EngineError
from engine.model.gguf import _dequantised, read_model
from engine.model.gguf_header import Stored
from engine.model.load import load, model_directory, resolve
from engine.model.shape import RopeScaling
from tests.engine.full_attention import FullAttention
from tests.engine.gguf_files import (
    CONTEXT,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MLP,
    TOKENS,
    model_keys,
    tensors_of,
    tokenizer_keys,
    write_file,
    write_gguf,
)
from tests.examples import examples

CPU = torch.device("cpu")
IDS = torch.arange(60) * 5 % len(TOKENS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def model_of_transformers(family: str, **changes: Any):
    """A model of the size of these files, its biases and norms not all 0 or 1."""
    import transformers

    torch.manual_seed(11)
    config = {
        "vocab_size": len(TOKENS),
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        **changes,
    }
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**config)).float()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.eval()


@torch.inference_mode()
def logits(path: Path) -> torch.Tensor:
    decoder = load(resolve(str(path)), CPU, torch.float32).decoder
    return decoder.logits(decoder.forward(IDS, torch.arange(len(IDS)), FullAttention()))


@torch.inference_mode()
def check_same(path: Path, model: Any) -> None:
    expected = model(IDS[None]).logits[0]
    assert float((logits(path) - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("kind", "family", "changes"),
    [
        ("llama", "Llama", {"attention_bias": True}),
        ("llama", "Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("llama", "Llama", {"mlp_bias": True}),
        ("qwen2", "Qwen2", {}),
        ("qwen3", "Qwen3", {"attention_bias": True}),
    ],
)
def test_biases_are_part_of_the_model(kind: str, family: str, changes: dict[str, Any], tmp_path: Path):
    """Against the model whose tensors were written; the GGUF reader of transformers leaves biases out."""
    model = model_of_transformers(family, **changes)
    write_file(tmp_path / "m.gguf", kind, model_keys(kind) | tokenizer_keys(), tensors_of(model, kind))
    check_same(tmp_path / "m.gguf", model)


def test_biases_that_a_file_leaves_out_are_zero(tmp_path: Path):
    model = model_of_transformers("Llama", attention_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "q_proj" not in name:
            torch.nn.init.zeros_(parameter)
    tensors = {n: t for n, t in tensors_of(model, "llama").items() if not n.endswith(".bias") or "attn_q" in n}
    write_file(tmp_path / "m.gguf", "llama", model_keys() | tokenizer_keys(), tensors)
    check_same(tmp_path / "m.gguf", model)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
        {"rope.scaling.type": "linear", "rope.scale_linear": 4.0, "rope.scaling.factor": 4.0},
    ],
    ids=lambda keys: " ".join(keys),
)
def test_linear_rope_scaling_is_found_wherever_it_stands(keys: dict[str, Any], tmp_path: Path):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    model = model_of_transformers("Llama", rope_parameters=rope)
    more = {f"llama.{key}": value for key, value in keys.items()}
    write_file(tmp_path / "m.gguf", "llama", model_keys() | tokenizer_keys() | more, tensors_of(model, "llama"))
    check_same(tmp_path / "m.gguf", model)


@pytest.mark.parametrize(
    "keys", [{"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {"rope.scaling.factor": 1.0}]
)
def test_rope_is_not_scaled_where_the_file_says_so(keys: dict[str, Any], tmp_path: Path):
    write_gguf(tmp_path / "m.gguf", keys={f"llama.{key}": value for key, value in keys.items()})
    assert read_model(tmp_path / "m.gguf").shape.rope_scaling is None
    write_gguf(tmp_path / "m.gguf", tensors={"rope_freqs.weight": np.ones(HEAD_DIM // 2, np.float32)})
    assert read_model(tmp_path / "m.gguf").shape.rope_scaling is None


def refusal(path: Path) -> EngineError:
    with pytest.raises(EngineError) as caught:
        model_directory(resolve(str(path)))
    assert caught.value.message
    assert caught.value.mend
    return caught.value


ONES = np.ones(HIDDEN, np.float32)
SQUARE = np.ones((HIDDEN, HIDDEN), np.float32)


@pytest.mark.parametrize(
    ("kind", "name", "array"),
    [
        ("qwen2", "output.bias", np.ones(len(TOKENS), np.float32)),
        ("qwen2", "blk.0.attn_output.bias", ONES),
        ("qwen2", "blk.1.ffn_up.bias", np.ones(MLP, np.float32)),
        ("qwen3", "blk.1.ffn_down.bias", ONES),
        ("llama", "output.bias", np.ones(len(TOKENS), np.float32)),
        ("llama", "output_norm.bias", ONES),
        ("llama", "blk.0.attn_norm.bias", ONES),
        ("llama", "blk.0.attn_q.scale", np.ones(1, np.float32)),
        ("llama", "blk.0.ffn_up.input_scale", np.ones(1, np.float32)),
        ("llama", "blk.0.attn_q_norm.weight", np.ones(HEAD_DIM, np.float32)),
        ("qwen2", "blk.0.attn_k_norm.weight", np.ones(HEAD_DIM, np.float32)),
        ("llama", "blk.2.attn_q.weight", SQUARE),
        ("llama", "blk.-1.attn_q.weight", SQUARE),
        ("llama", "blk.0.ffn_gate_inp.weight", SQUARE),
        ("llama", "blk.0.attn_qkv.weight", SQUARE),
        ("llama", "token_embd_norm.weight", ONES),
        ("llama", "rope_factors_long.weight", np.ones(HEAD_DIM // 2, np.float32)),
        ("llama", "cls.weight", SQUARE),
        ("llama", "token_embd.bias", ONES),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused_by_name(
    kind: str, name: str, array: np.ndarray, tmp_path: Path, own_cache: Path
):
    write_gguf(tmp_path / "m.gguf", kind, tensors={name: array})
    assert name in refusal(tmp_path / "m.gguf").message
    assert not own_cache.exists()


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight", "blk.0.attn_k.bias"]
)
def test_a_tensor_that_is_missing_is_named(name: str, tmp_path: Path, own_cache: Path):
    write_gguf(tmp_path / "m.gguf", "qwen2", tensors={name: None})  # type: ignore[dict-item]
    assert name in refusal(tmp_path / "m.gguf").message
    assert not own_cache.exists()


def test_a_tensor_of_other_dimensions_is_named(tmp_path: Path):
    write_gguf(tmp_path / "m.gguf", tensors={"blk.1.ffn_up.weight": np.ones((MLP, HIDDEN + 32), np.float32)})
    message = refusal(tmp_path / "m.gguf").message
    assert "blk.1.ffn_up.weight" in message
    assert f"[{MLP}, {HIDDEN}]" in message


NAN, INFINITE = float("nan"), float("inf")
KEYS: list[tuple[Mapping[str, Any], str, Any]] = [
    ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type", "yarn"),
    ({"llama.rope.scaling.attn_factor": 1.25}, "llama.rope.scaling.attn_factor", 1.25),
    ({"llama.rope.scaling.yarn_log_multiplier": 0.5}, "llama.rope.scaling.yarn_log_multiplier", 0.5),
    ({"llama.rope.scaling.factor": 0.5}, "llama.rope.scaling.factor", 0.5),
    ({"llama.rope.scaling.factor": INFINITE}, "llama.rope.scaling.factor", INFINITE),
    ({"llama.rope.scaling.factor": 2.0, "llama.rope.scale_linear": 4.0}, "llama.rope.scale_linear", 4.0),
    ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.factor", None),
    ({"llama.rope.freq_base": 0.0}, "llama.rope.freq_base", 0.0),
    ({"llama.rope.freq_base": NAN}, "llama.rope.freq_base", NAN),
    ({"llama.rope.freq_base": "10000"}, "llama.rope.freq_base", "10000"),
    ({"llama.rope.dimension_count": HEAD_DIM // 2}, "llama.rope.dimension_count", HEAD_DIM // 2),
    ({"llama.rope.dimension_sections": [4, 4]}, "llama.rope.dimension_sections", [4, 4]),
    ({"llama.attention.layer_norm_rms_epsilon": NAN}, "llama.attention.layer_norm_rms_epsilon", NAN),
    ({"llama.attention.layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon", None),
    ({"llama.attention.head_count": 0}, "llama.attention.head_count", 0),
    ({"llama.attention.head_count_kv": 3}, "llama.attention.head_count_kv", 3),
    ({"llama.attention.head_count_kv": [2, 2]}, "llama.attention.head_count_kv", [2, 2]),
    ({"llama.attention.value_length": 32}, "llama.attention.value_length", 32),
    ({"llama.attention.scale": 0.5}, "llama.attention.scale", 0.5),
    ({"llama.attention.sliding_window": 64}, "llama.attention.sliding_window", 64),
    ({"llama.attention.causal": False}, "llama.attention.causal", False),
    ({"llama.expert_count": 8}, "llama.expert_count", 8),
    ({"llama.logit_scale": 0.5}, "llama.logit_scale", 0.5),
    ({"llama.block_count": 2**27}, "llama.block_count", 2**27),
    ({"llama.context_length": 2**30}, "llama.context_length", 2**30),
    ({"llama.block_count": None}, "llama.block_count", None),
    ({"llama.vocab_size": 7}, "llama.vocab_size", 7),
    ({"llama.context_length": "long"}, "llama.context_length", "long"),
    ({"general.type": "adapter"}, "general.type", "adapter"),
    ({"clip.has_vision_encoder": True}, "clip.has_vision_encoder", True),
    ({"split.count": 3, "split.no": 0}, "split.count", 3),
]


@pytest.mark.parametrize(("keys", "key", "value"), KEYS, ids=lambda value: str(value)[:60])
def test_a_key_that_would_be_left_out_or_makes_no_sense_is_refused_by_name(
    keys: Mapping[str, Any], key: str, value: Any, tmp_path: Path, own_cache: Path
):
    write_gguf(tmp_path / "m.gguf", keys=keys)
    error = refusal(tmp_path / "m.gguf")
    assert error.field == f"m.gguf: {key}"
    assert repr(error.value) == repr(value)
    assert not own_cache.exists()


def test_one_part_of_a_model_says_which(tmp_path: Path):
    write_gguf(tmp_path / "m.gguf", keys={"split.count": 3, "split.no": 0}, tensors={"output_norm.weight": None})  # type: ignore[dict-item]
    error = refusal(tmp_path / "m.gguf")
    assert "part 1 of 3" in error.message
    assert "Merge" in error.mend
    write_gguf(
        tmp_path / "m.gguf", keys={"split.count": 1, "split.no": 0, "general.name": "One", "quantize.imatrix.file": "x"}
    )
    assert read_model(tmp_path / "m.gguf").shape.layers == LAYERS


def test_keys_that_files_in_the_wild_have_are_accepted(tmp_path: Path):
    model = {
        "rope.dimension_count": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.causal": True,
        "expert_count": 0,
    }
    model |= {
        "tensor_data_layout": "Meta AI original pth",
        "rope.scaling.finetuned": False,
        "attention.sliding_window": CONTEXT,
    }
    tokenizer = {
        "ggml.padding_token_id": 0,
        "ggml.fim_pre_token_id": 1,
        "ggml.add_eos_token": False,
        "ggml.add_space_prefix": False,
    }
    tokenizer |= {
        "ggml.seperator_token_id": 2,
        "chat_template": "x",
        "chat_template.tool_use": "y",
        "chat_templates": ["tool_use"],
    }
    other = {
        "general.file_type": 7,
        "general.quantization_version": 2,
        "general.type": "model",
        "general.tags": ["chat"],
    }
    other |= {"general.sampling.temp": 0.6, "quantize.imatrix.entries_count": 224, "mradermacher.quantize_version": "2"}
    keys = {f"llama.{key}": value for key, value in model.items()}
    keys |= {f"tokenizer.{key}": value for key, value in tokenizer.items()}
    write_gguf(tmp_path / "m.gguf", keys=keys | other)
    assert read_model(tmp_path / "m.gguf").shape.layers == LAYERS


def test_frequency_divisors_beside_a_factor_are_refused(tmp_path: Path):
    factors = np.full(HEAD_DIM // 2, 2.0, np.float32)
    write_gguf(tmp_path / "m.gguf", keys={"llama.rope.scaling.factor": 2.0}, tensors={"rope_freqs.weight": factors})
    assert "rope_freqs.weight" in refusal(tmp_path / "m.gguf").message


def test_what_a_file_does_not_say_is_what_llama_cpp_takes(tmp_path: Path):
    keys = {"attention.head_count_kv": HEADS, "attention.key_length": None, "vocab_size": None, "rope.freq_base": None}
    width = np.ones((HIDDEN, HIDDEN), np.float32)
    tensors = {f"blk.{n}.attn_{part}.weight": width for n in range(LAYERS) for part in "kv"}
    write_gguf(tmp_path / "m.gguf", keys={f"llama.{key}": value for key, value in keys.items()}, tensors=tensors)
    shape = read_model(tmp_path / "m.gguf").shape
    assert (shape.kv_heads, shape.head_dim, shape.rope_theta) == (HEADS, HEAD_DIM, 10_000.0)
    assert shape.rope_scaling is None or isinstance(shape.rope_scaling, RopeScaling)


def test_a_number_format_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path: Path, own_cache: Path):
    write_gguf(tmp_path / "m.gguf", tensors={"output_norm.weight": np.ones(HIDDEN, np.int32)})
    error = refusal(tmp_path / "m.gguf")
    assert "output_norm.weight is stored as I32" in error.message
    assert not own_cache.exists()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_K", "Q5_1", "Q6_K", "Q8_0", "IQ4_XS"])
def test_number_formats_are_read_as_the_library_reads_them(name: str, tmp_path: Path, own_cache: Path):
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    width = max(block, HIDDEN)
    stored = np.random.default_rng(5).integers(
        0, 60, (3, 5, width // block * size), np.uint8
    )  # finite whatever they mean
    path = tmp_path / "stored"
    path.write_bytes(b"abc" + stored.tobytes())
    ours = _dequantised(np.memmap(path, np.uint8, "r"), Stored((3, 5, width), int(kind), 3))
    expected = gguf.quants.dequantize(stored, kind).astype(np.float32)
    assert ours.shape == (3, 5, width)
    np.testing.assert_array_equal(ours, expected)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


HEADER = struct.pack("<II", 0x46554747, 3)
ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")
CLAIMS = {
    "keys": HEADER + struct.pack("<QQ", 0, 2**60),
    "tensors": HEADER + struct.pack("<QQ", 2**60, 1) + ARCHITECTURE,
    "entries of an array": HEADER + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, 2**60),
    "texts of an array": HEADER + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**60),
    "characters of a key": HEADER + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**60),
    "characters of a value": HEADER + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IQ", 8, 2**60),
    "dimensions": HEADER + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<I", 2**31),
    "elements": HEADER
    + struct.pack("<QQ", 1, 1)
    + ARCHITECTURE
    + text("a")
    + struct.pack("<IQQIQ", 2, 2**60, 2**60, 0, 0),
    "another version": struct.pack("<IIQQ", 0x46554747, 1, 0, 0),
    "another byte order": struct.pack("<IIQQ", 0x46554747, 3 << 24, 0, 0),
    "arrays of arrays": HEADER + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1),
    "no UTF-8": HEADER + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2) + b"\xff\xfe",
    "a key twice": HEADER + struct.pack("<QQ", 0, 2) + 2 * ARCHITECTURE,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_file_claims_is_held_against_its_bytes(claim: str, tmp_path: Path):
    path = tmp_path / "m.gguf"
    path.write_bytes(CLAIMS[claim].ljust(94, b"\0"))
    tracemalloc.start()
    error = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.kind in ("bad-gguf", "unknown-architecture")
    assert peak < 20 << 20


@pytest.mark.parametrize("key", ["tokens", "token_type", "merges"])
def test_a_long_table_of_wrong_values_is_one_error(key: str, tmp_path: Path):
    content = struct.pack("<IIQ", 9, 4, 200_000) + struct.pack("<I", 77) * 200_000
    keys = [ARCHITECTURE]
    for name, value in model_keys().items():
        form, code = ("f", 6) if isinstance(value, float) else ("I", 4)
        keys.append(text(name) + struct.pack(f"<I{form}", code, value))
    keys.append(text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("gpt2"))
    if key != "tokens":
        keys.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 1) + text("a"))
    keys.append(text(f"tokenizer.ggml.{key}") + content)
    path = tmp_path / "m.gguf"
    path.write_bytes(HEADER + struct.pack("<QQ", 0, len(keys)) + b"".join(keys))
    tracemalloc.start()
    error = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.field == f"m.gguf: tokenizer.ggml.{key}.0"
    assert error.value == 77
    assert peak < 20 << 20


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_a_damaged_header_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """Whatever a few bytes become, the file is a model or an error that says what is wrong, never a crash."""
    path = tmp_path_factory.getbasetemp() / "whole.gguf"
    if not path.exists():
        write_gguf(path)
    content = bytearray(path.read_bytes())
    header = content.index(b"output_norm.weight") + 60
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, header))] = data.draw(st.integers(0, 255))
    damaged = path.with_name("damaged.gguf")
    damaged.write_bytes(content[: data.draw(st.sampled_from([len(content), header, header // 2]))])
    with contextlib.suppress(EngineError):
        read_model(damaged)
