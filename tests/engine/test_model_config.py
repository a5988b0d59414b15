"""Every key of config.json is used as transformers uses it, or refused by name."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.config.errors import EngineError
from engine.model.assemble import build
from engine.model.config_file import ConfigKeys, RopeKeys
from engine.model.load import load, resolve
from engine.model.shape import RANDOM, ModelShape
from tests.engine.full_attention import FullAttention
from tests.engine.test_model_families import SMALL, write_tokenizer
from tests.examples import examples

CPU = torch.device("cpu")
IDS = torch.arange(96) * 7 % SMALL["vocab_size"]
CONFIG = {**SMALL, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 4.0}
THETA = {"rope_type": "default", "rope_theta": 500_000.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Tensors for ``CONFIG``, the lm head of its own."""
    import transformers

    torch.manual_seed(3)
    directory = tmp_path_factory.mktemp("weights")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).float().save_pretrained(directory)
    return load_file(directory / "model.safetensors")


def write(directory: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    write_tokenizer(directory)


@torch.inference_mode()
def both(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Our logits of the model in a directory, and those of transformers."""
    from transformers import AutoModelForCausalLM

    decoder = load(resolve(str(directory)), CPU, torch.float32).decoder
    ours = decoder.logits(decoder.forward(IDS, torch.arange(len(IDS)), FullAttention()))
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return ours, theirs(IDS[None]).logits[0]


LOADED: dict[str, dict[str, Any]] = {
    "rope_scaling before rope_parameters": {"rope_scaling": LINEAR, "rope_parameters": THETA},
    "rope_theta inside rope_scaling": {"rope_scaling": {**LINEAR, "rope_theta": 1000.0}, "rope_theta": 50.0},
    "an empty rope_scaling": {"rope_scaling": {}, "rope_parameters": THETA},
    "rope_theta beside rope_parameters": {"rope_parameters": LINEAR, "rope_theta": 300.0},
    "llama3 with its context at the top": {
        "rope_scaling": LLAMA3,
        "original_max_position_embeddings": 64,
        "rope_theta": 5e5,
    },
    "llama3 with its context in both places": {
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32},
        "original_max_position_embeddings": 128,
    },
    "llama3 with its context nowhere": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    "tied, with a head of its own in the file": {"tie_word_embeddings": True},
    "no architectures": {"architectures": None},
    "no model_type": {"head_dim": 16},
    "a window that Llama does not have": {"sliding_window": 8},
    "swish is silu": {"hidden_act": "swish"},
    "mistral, key and value heads named": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
    },
    "mistral, window left out but as long as the context": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
    },
}


@pytest.mark.parametrize("case", LOADED)
def test_a_config_means_what_it_means_to_transformers(case: str, tmp_path: Path, weights: dict[str, torch.Tensor]):
    config = {
        key: value for key, value in {**CONFIG, **LOADED[case]}.items() if value is not None or key == "sliding_window"
    }
    write(tmp_path, config, weights)
    ours, theirs = both(tmp_path)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_a_tied_model_that_stores_only_its_head_uses_it_twice(tmp_path: Path, weights: dict[str, torch.Tensor]):
    tensors = {name: tensor for name, tensor in weights.items() if name != "model.embed_tokens.weight"}
    write(tmp_path, {**CONFIG, "tie_word_embeddings": True}, tensors)
    ours, theirs = both(tmp_path)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_one_file_goes_before_an_index_as_in_transformers(tmp_path: Path, weights: dict[str, torch.Tensor]):
    write(tmp_path, CONFIG, weights)
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, tmp_path / "model-1.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model-1.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    ours, theirs = both(tmp_path)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_qwen3_without_head_dim_has_heads_of_128(tmp_path: Path):
    import transformers

    settings = {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings)).float()
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("head_dim") == 128
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, theirs = both(tmp_path)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_qwen3_without_head_dim_whose_heads_are_narrower_says_so(tmp_path: Path):
    import transformers

    transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL, head_dim=16)).float().save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="The heads of the weights are 16 wide") as caught:
        load(resolve(str(tmp_path)), CPU, torch.float32)
    assert caught.value.field == "config.json: head_dim"
    assert caught.value.mend == "Set it to 16."


def refusal(changes: dict[str, Any], generation: dict[str, Any] | None = None) -> EngineError:
    with pytest.raises(EngineError) as caught:
        ModelShape.from_config({**CONFIG, **changes}, generation)
    assert caught.value.message
    assert caught.value.mend
    return caught.value


NAN, INFINITE = float("nan"), float("inf")
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "max_position_embeddings": 8192}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
REFUSED: list[tuple[dict[str, Any], str, Any]] = [
    ({"rope_scaling": YARN, "rope_parameters": THETA}, "rope_scaling.rope_type", "yarn"),
    ({"rope_parameters": YARN}, "rope_parameters.rope_type", "yarn"),
    ({"rope_parameters": {**LINEAR, "factor": INFINITE}}, "rope_parameters.factor", INFINITE),
    ({"rope_parameters": {**LINEAR, "factor": "4"}}, "rope_parameters.factor", "4"),
    ({"rope_parameters": {**LINEAR, "factor": None}}, "rope_parameters.factor", None),
    ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor", None),
    ({"rope_parameters": {"factor": 8.0}}, "rope_parameters.factor", 8.0),
    ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "rope_parameters.high_freq_factor", 1.0),
    ({"rope_parameters": {**LINEAR, "beta_fast": 32}}, "rope_parameters.beta_fast", 32),
    ({"rope_parameters": {"full_attention": THETA}}, "rope_parameters.full_attention", THETA),
    ({"rope_parameters": [1]}, "rope_parameters", [1]),
    ({"rope_scaling": "linear"}, "rope_scaling", "linear"),
    ({"rope_theta": None}, "rope_theta", None),
    ({"rope_theta": "10000"}, "rope_theta", "10000"),
    ({"rope_theta": 0}, "rope_theta", 0),
    ({"rope_theta": -1.0}, "rope_theta", -1.0),
    ({"rope_theta": INFINITE}, "rope_theta", INFINITE),
    ({"rms_norm_eps": None}, "rms_norm_eps", None),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps", "1e-5"),
    ({"rms_norm_eps": NAN}, "rms_norm_eps", NAN),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps", -1e-5),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings", "false"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings", None),
    ({"attention_bias": "no"}, "attention_bias", "no"),
    ({"attention_bias": True, **MISTRAL, "sliding_window": None}, "attention_bias", True),
    ({"mlp_bias": True, **QWEN2}, "mlp_bias", True),
    ({**MISTRAL}, "sliding_window", None),
    ({**MISTRAL, "sliding_window": 4096, "layer_types": ["full_attention"] * 3}, "sliding_window", 4096),
    ({**MISTRAL, "sliding_window": "none"}, "sliding_window", "none"),
    ({**QWEN2, "layer_types": ["full_attention"] * 2}, "layer_types", ["full_attention"] * 2),
    ({**QWEN2, "layer_types": ["full_attention", "mamba", "full_attention"]}, "layer_types.1", "mamba"),
    (
        {**QWEN2, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        "layer_types",
        "sliding_attention",
    ),
    ({**QWEN2, "layer_types": 3}, "layer_types", 3),
    ({**QWEN3, "head_dim": None}, "head_dim", None),
    ({**QWEN3, "num_key_value_heads": 3}, "num_key_value_heads", 3),
    ({"hidden_size": 66}, "hidden_size", 66),
    ({"hidden_size": 64.0}, "hidden_size", 64.0),
    ({"vocab_size": True}, "vocab_size", True),
    ({"max_position_embeddings": 10**9}, "max_position_embeddings", 10**9),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers", 10**9),
    ({"num_attention_heads": 1000, "num_key_value_heads": None}, "hidden_size", 64),
    ({"eos_token_id": "2"}, "eos_token_id.0", "2"),
    ({"eos_token_id": [[2]]}, "eos_token_id.0", [2]),
    ({"eos_token_id": 2.5}, "eos_token_id.0", 2.5),
    ({"eos_token_id": -1}, "eos_token_id.0", -1),
    ({"eos_token_id": 320}, "eos_token_id", 320),
    ({"bos_token_id": "<s>"}, "bos_token_id", "<s>"),
    ({"architectures": "LlamaForCausalLM"}, "architectures", "LlamaForCausalLM"),
    ({"architectures": [5]}, "architectures", [5]),
    ({"architectures": {}}, "architectures", {}),
    ({"architectures": [], "model_type": None}, "architectures", None),
    ({"model_type": "mistral"}, "model_type", "mistral"),
    ({"model_type": 7}, "model_type", 7),
    ({"quantization_config": 4}, "quantization_config", 4),
    ({"rope_interleaved": True}, "rope_interleaved", True),
    ({"is_encoder_decoder": True}, "is_encoder_decoder", True),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads", {"0": [1]}),
    ({"logit_scale": 0.5}, "logit_scale", 0.5),
    ({"per_layer_config": {"0": {}}}, "per_layer_config", {"0": {}}),
]


@pytest.mark.parametrize(("changes", "key", "value"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_what_would_be_left_out_or_makes_no_sense_is_refused_by_name(changes: dict[str, Any], key: str, value: Any):
    error = refusal(changes)
    assert error.field == f"config.json: {key}"
    assert repr(error.value) == repr(value)


@pytest.mark.parametrize("value", ["2", [None], {"a": 1}, True], ids=str)
def test_odd_stop_tokens_in_the_generation_config_are_refused(value: Any):
    assert refusal({}, {"eos_token_id": value}).field.startswith("generation_config.json: eos_token_id")


def test_a_model_without_architectures_is_named_by_its_type():
    shape = ModelShape.from_config({key: value for key, value in CONFIG.items() if key != "architectures"})
    assert shape.architecture == "LlamaForCausalLM"
    error = refusal({"architectures": None, "model_type": "phi3"})
    assert (error.kind, error.value) == ("unknown-architecture", "phi3")


def test_a_window_that_no_layer_uses_is_accepted():
    window = {**QWEN2, "sliding_window": 64, "use_sliding_window": True}
    for changes in ({"max_window_layers": 3}, {"layer_types": ["full_attention"] * 3}):
        assert ModelShape.from_config({**CONFIG, **window, **changes}).layers == 3
    assert refusal({**window, "max_window_layers": 2}).value == 64


def test_every_key_transformers_writes_is_known():
    import transformers

    for name, changes in (("Llama", {}), ("Mistral", {"sliding_window": None}), ("Qwen2", {}), ("Qwen3", {})):
        config = getattr(transformers, f"{name}Config")(**{**SMALL, **changes}).to_dict()
        config |= {"architectures": [f"{name}ForCausalLM"], "eos_token_id": None}
        written = json.loads(json.dumps(config, default=str))
        assert ModelShape.from_config(written).layers == SMALL["num_hidden_layers"]


KNOWN: dict[
    str, tuple[str, int, dict[str, Any]]
] = {  # class, parameters in millions, what stands in the model's config.json
    "Llama-2-7b": (
        "Llama",
        6738,
        {
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32_000,
        }
        | {"num_key_value_heads": 32, "rope_scaling": None, "pretraining_tp": 1, "torch_dtype": "float16"},
    ),
    "Llama-3.2-1B": (
        "Llama",
        1236,
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "vocab_size": 128_256,
        }
        | {
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
            "eos_token_id": [128_001, 128_008, 128_009],
        }
        | {
            "rope_scaling": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
            "rope_theta": 500_000.0,
        },
    ),
    "SmolLM2-135M": (
        "Llama",
        135,
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "vocab_size": 49_152,
        }
        | {"num_key_value_heads": 3, "tie_word_embeddings": True, "is_llama_config": True, "rope_interleaved": False}
        | {"rope_theta": 100_000, "transformers.js_config": {}, "pad_token_id": 2},
    ),
    "Mistral-7B-v0.3": (
        "Mistral",
        7248,
        {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32_768,
        }
        | {"num_key_value_heads": 8, "sliding_window": None, "rope_theta": 1e6, "max_position_embeddings": 32_768},
    ),
    "DeepSeek-R1-Distill-Qwen-1.5B": (
        "Qwen2",
        1777,
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "vocab_size": 151_936,
        }
        | {
            "num_key_value_heads": 2,
            "use_mrope": False,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "max_window_layers": 21,
        },
    ),
    "Qwen3-0.6B": (
        "Qwen3",
        596,
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "vocab_size": 151_936,
        }
        | {
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
            "sliding_window": None,
            "max_window_layers": 28,
        },
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_configs_of_well_known_models_are_accepted(name: str):
    family, millions, config = KNOWN[name]
    everywhere = {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "attention_dropout": 0.0,
        "use_cache": True,
    }
    shape = ModelShape.from_config(
        {**everywhere, "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-5, **config}
    )
    assert round(shape.parameters / 1e6) == millions


def test_every_key_says_what_would_be_right():
    for name, field in ConfigKeys.model_fields.items():
        assert field.description, name


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["linear", "llama3", 1, 4.0, 64]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*RopeKeys.model_fields, "x"]), inner, max_size=5)
    ),
    max_leaves=6,
)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*ConfigKeys.model_fields, "architectures", "model_type", "x"]), ANYTHING, max_size=4
    ),
    ANYTHING,
)
def test_whatever_a_config_holds_is_a_shape_or_a_refusal(changes: dict[str, Any], stop: Any):
    with contextlib.suppress(EngineError):
        shape = ModelShape.from_config({**CONFIG, **changes}, {"eos_token_id": stop})
        assert shape.rope_theta > 0
        assert all(number > 0 for dims in shape.tensors.values() for number in dims)


def test_a_number_json_does_not_have_is_written_as_text():
    value = refusal({"rms_norm_eps": NAN}).as_dict()["value"]
    assert (value, json.loads(json.dumps(value, allow_nan=False))) == ("nan", "nan")


def test_tensors_that_would_be_left_out_are_named(tmp_path: Path, weights: dict[str, torch.Tensor]):
    extra = "model.layers.1.self_attn.q_proj.bias"
    for name in (extra, "model.layers.3.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight_scale"):
        write(tmp_path, CONFIG, {**weights, name: torch.ones(64)})
        with pytest.raises(EngineError, match="would be another") as caught:
            load(resolve(str(tmp_path)), CPU, torch.float32)
        assert name in caught.value.message
    known = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    write(tmp_path, CONFIG, {**weights, **known})
    assert load(resolve(str(tmp_path)), CPU, torch.float32).shape.layers == 3


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path, weights: dict[str, torch.Tensor]):
    write(tmp_path, CONFIG, weights)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(EngineError, match="an adapter belongs"):
        load(resolve(str(tmp_path)), CPU, torch.float32)


def test_a_description_nested_too_deep_is_refused(tmp_path: Path, weights: dict[str, torch.Tensor]):
    write(tmp_path, CONFIG, weights)
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(EngineError, match=r"config\.json"):
        load(resolve(str(tmp_path)), CPU, torch.float32)


@pytest.mark.parametrize("name", ["tiny", "qwen3-0.6b", "biased"])
def test_the_tensors_a_shape_names_are_those_a_decoder_is_built_from(name: str):
    biased = {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "tied": False}
    shape = replace(RANDOM["tiny"], **biased) if name == "biased" else replace(RANDOM[name], layers=2, vocab=100)
    asked: dict[str, tuple[int, ...]] = {}

    def get(tensor: str, expected: tuple[int, ...]) -> torch.Tensor:
        asked[tensor] = expected
        return torch.zeros(expected)

    build(replace(shape, max_position=8), get)
    assert asked == shape.tensors
