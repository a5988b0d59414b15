"""Models are found, checked and loaded, or refused with what to do about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import RANDOM_SHAPES
from engine.config.errors import EngineError
from engine.model import device as devices
from engine.model.device import resolve_device, resolve_dtype
from engine.model.load import load, resolve
from engine.model.shape import RANDOM, ModelShape
from engine.model.tokenizer import ByteTokenizer
from tests.engine.full_attention import FullAttention

CPU = torch.device("cpu")
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small model's directory: config.json, tokenizer.json, model.safetensors."""
    import tokenizers

    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, [])).save(str(directory / "tokenizer.json"))
    save_file(tensors(), directory / "model.safetensors")
    return directory


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = {"model.embed_tokens.weight": torch.randn(64, 32), "model.norm.weight": torch.ones(32)}
    for number in range(2):
        at = f"model.layers.{number}."
        dims = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32)}
        dims |= {"self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32)}
        dims |= {"mlp.down_proj": (32, 48)}
        weights |= {f"{at}{name}.weight": torch.randn(shape) for name, shape in dims.items()}
        weights |= {f"{at}{n}.weight": torch.ones(32) for n in ("input_layernorm", "post_attention_layernorm")}
    return weights


def refusal(directory: Path | str, dtype: torch.dtype = torch.float32) -> EngineError:
    with pytest.raises(EngineError) as caught:
        load(resolve(str(directory)), CPU, dtype)
    error = caught.value
    assert error.message
    assert error.mend
    assert str(error.value) in str(error) or repr(error.value) in str(error)
    return error


def logits(directory: Path) -> torch.Tensor:
    decoder = load(resolve(str(directory)), CPU, torch.float32).decoder
    ids = torch.arange(12)
    with torch.inference_mode():
        return decoder.logits(decoder.forward(ids, ids, FullAttention()))


def test_shards_are_the_same_model_as_one_file(saved: Path):
    whole = logits(saved)
    everything = load_file(saved / "model.safetensors")
    names = sorted(everything)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: everything[name] for name in part}, saved / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    (saved / "model.safetensors").unlink()
    assert torch.equal(logits(saved), whole)
    (saved / "model-2.safetensors").unlink()
    error = refusal(saved)
    assert "model-2.safetensors" in error.message
    assert error.kind == "missing-weights"


@pytest.mark.parametrize(
    "name", ["no-such-model", "./nowhere/at/all", "random:huge", "model.bin.gguf", "../x", "smollm2", ""]
)
def test_an_unknown_model_is_refused_with_the_choices(name: str):
    error = refusal(name)
    assert error.kind == "unknown-model"
    assert error.field == "model"


def test_a_misspelt_random_shape_is_told_the_ones_there_are():
    for shape in RANDOM_SHAPES:
        assert f"random:{shape}" in refusal("random:tinny").mend


def test_a_hub_name_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = (
        "from engine.model.load import resolve\nfrom engine.config.errors import EngineError\n"
        "try: resolve('nobody-at-all/no-such-model')\nexcept EngineError as e: print(e.kind, e)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=Path.cwd(), capture_output=True, text=True
    )
    assert done.stdout.startswith("unknown-model"), done.stderr
    assert "nobody-at-all/no-such-model" in done.stdout


def test_no_weights_are_told_apart_from_no_config(saved: Path):
    (saved / "model.safetensors").unlink()
    assert refusal(saved).kind == "missing-weights"
    (saved / "config.json").unlink()
    assert "config.json" in refusal(saved).message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_never_read(saved: Path, name: str):
    (saved / "model.safetensors").rename(saved / name)
    for error in (refusal(saved), refusal(saved / name)):
        assert error.kind == "pickle"
        assert name in str(error.value)
        assert "safetensors" in error.mend


def test_a_tensor_of_the_wrong_shape_is_named(saved: Path):
    everything = tensors()
    everything["model.layers.1.mlp.up_proj.weight"] = torch.zeros(48, 31)
    save_file(everything, saved / "model.safetensors")
    error = refusal(saved)
    assert "model.layers.1.mlp.up_proj.weight" in error.message
    assert "[48, 31]" in error.message
    assert "[48, 32]" in error.message


def test_a_missing_tensor_is_named(saved: Path):
    everything = tensors()
    del everything["model.layers.0.self_attn.o_proj.weight"]
    save_file(everything, saved / "model.safetensors")
    assert "model.layers.0.self_attn.o_proj.weight" in refusal(saved).message


@pytest.mark.parametrize("keep", [0, 5, 3000, -100], ids=["empty", "header cut", "data cut", "end cut"])
def test_a_damaged_weights_file_is_refused(saved: Path, keep: int):
    path = saved / "model.safetensors"
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    error = refusal(saved)
    assert error.kind == "bad-weights"
    assert str(path) in str(error)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00\x01"])
def test_a_damaged_description_is_refused(saved: Path, file: str, content: str):
    (saved / file).write_text(content)
    assert file in str(refusal(saved))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, "sliding_window"),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "use_sliding_window": True}, "sliding_window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"head_dim": 7}, "head_dim"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_covered_is_refused_by_name(saved: Path, changes: dict[str, Any], words: str):
    (saved / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    assert words in str(refusal(saved))


def test_an_architecture_not_covered_is_told_the_ones_that_are():
    with pytest.raises(EngineError) as caught:
        ModelShape.from_config({**CONFIG, "architectures": ["PhiForCausalLM"]})
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        assert name in caught.value.mend


def test_a_window_that_is_off_or_covers_the_context_is_accepted():
    for changes in (
        {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "use_sliding_window": False},
        {"architectures": ["MistralForCausalLM"], "sliding_window": None},
        {"architectures": ["MistralForCausalLM"], "sliding_window": 128},
    ):
        assert ModelShape.from_config({**CONFIG, **changes}).layers == 2


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(EngineError, match="device = 'cuda") as caught:
            resolve_device(name)
        assert "cpu" in caught.value.mend


def test_a_gpu_number_too_high_is_told_the_ones_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert current == [0, 1]  # launches, events and graphs go to the current device
    with pytest.raises(EngineError, match="GPU 2 does not exist") as caught:
        resolve_device("cuda:2")
    assert "cuda:0, cuda:1" in caught.value.mend


def test_auto_takes_bfloat16_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: True)
    assert resolve_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: False)
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("float16", CPU) == torch.float16


def test_every_random_shape_of_the_settings_exists():
    assert tuple(RANDOM) == RANDOM_SHAPES
    millions = {name: round(shape.parameters / 1e6) for name, shape in RANDOM.items()}
    assert millions == {"tiny": 0, "smollm2-135m": 135, "qwen3-0.6b": 596, "llama-3.1-8b": 8030}
    assert RANDOM["smollm2-135m"].kv_bytes_per_token(2) == 2 * 30 * 3 * 64 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_random_weights_follow_from_the_seed_and_are_labelled(dtype: torch.dtype):
    def run(seed: int) -> torch.Tensor:
        model = load(resolve("random:tiny"), CPU, dtype, seed)
        assert model.labels == ("random weights",)
        assert isinstance(model.tokenizer, ByteTokenizer)
        assert model.weight_bytes == model.shape.matmul_parameters * dtype.itemsize
        ids = torch.arange(9)
        with torch.inference_mode():
            return model.decoder.logits(model.decoder.forward(ids, ids, FullAttention()))

    first = run(1)
    assert bool(first.isfinite().all())
    assert torch.equal(first, run(1))
    assert not torch.equal(first, run(2))


def test_starting_a_run_does_not_import_transformers(saved: Path):
    program = (
        "import sys, torch\nfrom engine.model.load import load, resolve\n"
        "load(resolve(sys.argv[1]), torch.device('cpu'), torch.float32)\nprint('transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved)], cwd=Path.cwd(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
