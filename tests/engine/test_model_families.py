"""Every covered family gives the logits of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.model.decoder import Decoder
from engine.model.load import load, resolve
from tests.engine.full_attention import FullAttention

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide, so that a wrong detail shows
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False}),
    "llama 3.2": ("Llama", {"rope_parameters": {**LLAMA3_ROPE, "factor": 32.0}, "tie_word_embeddings": True}),
    "llama, linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm2": (
        "Llama",
        {
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "hidden_size": 72,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "rms_norm_eps": 1e-5,
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "mistral, window as long as the context": ("Mistral", {"sliding_window": 512}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2.5, large": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3 with biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(decoder of ours, model of transformers), the same random weights in both."""
    import transformers

    name, changes = FAMILIES[request.param]
    torch.manual_seed(5)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**{**SMALL, **changes}))
    for key, parameter in model.named_parameters():  # biases and norms of a fresh model are all 0 or 1
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in key), std=0.3)
    model = model.float().eval()
    directory = tmp_path_factory.mktemp("family")
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return load(resolve(str(directory)), CPU, torch.float32).decoder, model


def write_tokenizer(directory: Path) -> None:
    """Any tokenizer; these tests give token ids."""
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, [])).save(str(directory / "tokenizer.json"))


@torch.inference_mode()
def run(decoder: Decoder, ids: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    attention, rows, start = FullAttention(), [], 0
    for size in chunks:
        part = slice(start, start + size)
        rows.append(decoder.forward(ids[part], torch.arange(start, start + size), attention))
        start += size
    return decoder.logits(torch.cat(rows))


@pytest.mark.parametrize("chunks", [[150], [1] * 150, [7, 64, 1, 1, 77]], ids=["whole", "token by token", "chunks"])
def test_logits_are_those_of_transformers(family, chunks: list[int]):
    decoder, model = family
    ids = torch.randint(0, SMALL["vocab_size"], (150,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
    ours = run(decoder, ids, chunks)
    assert ours.dtype == torch.float32
    assert float((ours - expected).norm() / expected.norm()) < 1e-5
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-4


def test_requests_in_one_batch_do_not_touch_each_other(family):
    """Tokens of two sequences, mixed in one flat batch, give what each gives alone."""
    decoder, _ = family
    ids = torch.randint(0, SMALL["vocab_size"], (40,), generator=torch.Generator().manual_seed(2))
    alone = torch.cat([run(decoder, ids[:16], [16]), run(decoder, ids[16:], [24])])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))

    class Two:
        """Puts the batch in order, attends per sequence, and puts the result back."""

        def __init__(self) -> None:
            self.parts = (FullAttention(), FullAttention())

        def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            back = order.argsort()
            q, k, v = q[back], k[back], v[back]
            first = self.parts[0].forward(layer, q[:16], k[:16], v[:16])
            second = self.parts[1].forward(layer, q[16:], k[16:], v[16:])
            return torch.cat((first, second))[order]

    positions = torch.cat((torch.arange(16), torch.arange(24)))
    with torch.inference_mode():
        mixed = decoder.logits(decoder.forward(ids[order], positions[order], Two()))[order.argsort()]
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-4)


def test_a_choice_of_layers_is_the_model_without_the_others(family):
    decoder, model = family
    ids = torch.arange(20)
    chosen = torch.nn.ModuleList([model.model.layers[0], model.model.layers[2]])
    kept = model.model.layers
    model.model.layers = chosen
    try:
        with torch.inference_mode():
            expected = model(ids[None], use_cache=False).logits[0]
    finally:
        model.model.layers = kept
    with torch.inference_mode():
        hidden = decoder.forward(ids, torch.arange(20), FullAttention(), layers=(0, 2))
        torch.testing.assert_close(decoder.logits(hidden), expected, rtol=1e-4, atol=1e-3)


def test_configs_of_transformers_4_mean_the_same(tmp_path: Path):
    """``rope_theta`` and ``rope_scaling`` at the top, as older checkpoints have them, against ``rope_parameters``."""
    from engine.model.shape import ModelShape

    base = {**SMALL, "architectures": ["LlamaForCausalLM"]}
    scaling = {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"}
    old = ModelShape.from_config({**base, "rope_theta": 500_000.0, "rope_scaling": scaling})
    assert old == ModelShape.from_config({**base, "rope_parameters": LLAMA3_ROPE})
    assert old.rope_scaling is not None
    oldest = {"type": "linear", "factor": 2.0}
    assert ModelShape.from_config({**base, "rope_scaling": oldest}).rope_scaling.kind == "linear"  # type: ignore[union-attr]


def test_parameters_are_counted_as_transformers_counts(family, tmp_path: Path):
    decoder, model = family
    assert decoder.shape.parameters == sum(p.numel() for p in model.parameters())
    embedding = decoder.shape.vocab * decoder.shape.hidden
    multiplied = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert decoder.shape.matmul_parameters == multiplied >= embedding


def test_stop_tokens_come_from_the_generation_config(tmp_path: Path):
    from engine.model.shape import ModelShape

    config = {**SMALL, "architectures": ["LlamaForCausalLM"], "eos_token_id": 7}
    assert ModelShape.from_config(config).eos_token_ids == (7,)
    assert ModelShape.from_config(config, {"eos_token_id": [7, 9]}).eos_token_ids == (7, 9)


def test_a_step_that_samples_nothing_has_no_logits(family):
    decoder, _ = family
    with torch.inference_mode():
        hidden = decoder.forward(torch.arange(3), torch.arange(3), FullAttention())
        assert decoder.logits(hidden[:0]).shape == (0, decoder.shape.vocab)
