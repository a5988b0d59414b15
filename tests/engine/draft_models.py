"""Small models for speculation: one to serve, one to guess for it, and a head trained for it."""

from __future__ import annotations

import random
from pathlib import Path

import tokenizers
import torch
from rich.progress import Progress
from safetensors.torch import save_file

from engine.config import Sampling
from engine.model.checkpoint import Checkpoint
from engine.model.load import load, resolve
from engine.speculation.head import FORMAT, weights_sha256
from engine.training.corpus import Writer, shard_path
from engine.training.head_training import HeadTraining
from engine.training.recipe import Recipe
from engine.training.teaching import Teaching
from engine.training.train import vocabulary, write

EOS = 7
READS = [2, 3]


def small_models(folder: Path) -> tuple[torch.nn.Module, Path, Path]:
    """A small random Llama and one without its two middle layers.

    The middle layers say little, so that a model without them often guesses right; attention says less than the last token does,
    so that greedy text soon repeats itself and looking it up often guesses right.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    directories = []
    for layers in (4, 2):
        torch.manual_seed(5)
        config = LlamaConfig(
            vocab_size=200,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            tie_word_embeddings=False,
            eos_token_id=EOS,
            bos_token_id=None,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        if layers == 4:
            whole = model
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.data.mul_(0.003)
            for layer in model.model.layers[1:3]:
                layer.self_attn.o_proj.weight.data.mul_(0.1)
                layer.mlp.down_proj.weight.data.mul_(0.02)
        else:
            ends = {0: 0, 1: 3}
            for to, origin in ends.items():
                model.model.layers[to].load_state_dict(whole.model.layers[origin].state_dict())
            model.model.embed_tokens.load_state_dict(whole.model.embed_tokens.state_dict())
            model.lm_head.load_state_dict(whole.lm_head.state_dict())
        directory = folder / f"layers-{layers}"
        model.save_pretrained(directory)
        words = tokenizers.models.WordLevel({f"w{i}": i for i in range(200)}, unk_token="w0")
        tokenizers.Tokenizer(words).save(str(directory / "tokenizer.json"))
        directories.append(directory)
    return whole, directories[0], directories[1]


def periodic(index: int, length: int = 24) -> tuple[int, ...]:
    """A prompt that repeats itself, so that looking up what came before finds something."""
    period = [20 + index, 90 - index, 40 + 3 * index, 10 + index]
    return tuple(period[i % 4] for i in range(length + index))


def write_texts(model: Path, folder: Path, shards: int) -> None:
    """Texts the model wrote, as training collects them."""
    loaded = load(resolve(str(model)), torch.device("cpu"), torch.float32)
    for number in range(shards):
        rng = random.Random(number)
        writer = Writer(loaded, READS, 24, 60)
        prompts = [periodic(rng.randrange(16), 8) for _ in range(12)]
        prompts += [tuple(rng.randrange(8, 200) for _ in range(12)) for _ in range(12)]
        requests = [writer.request(i, prompt, Sampling(), rng) for i, prompt in enumerate(prompts)]
        with torch.inference_mode():
            writer.run(requests, ends=())
        folder.mkdir(parents=True, exist_ok=True)
        save_file(writer.tensors(), shard_path(folder, number))


def trained_head(model: Path, folder: Path, steps: int = 60, tokens: int = 180) -> tuple[Path, Teaching]:
    """A head for the model, trained for a few seconds."""
    recipe = Recipe(shards=4, steps=steps, batch=8, rate=3e-3, layers=2, vocabulary=tokens, fuse_width=32, seed=0)
    write_texts(model, folder, recipe.shards)
    shape = load(resolve(str(model)), torch.device("cpu"), torch.float32).shape
    head = HeadTraining(shape, Checkpoint(model), READS, vocabulary(folder, recipe, shape), recipe.fuse_width)
    teaching = Teaching(head, folder, recipe)
    with Progress(disable=True) as progress:
        teaching.run(progress)
    record = {
        "model": str(model),
        "weights_sha256": weights_sha256(resolve(str(model))),
        "format": FORMAT,
        "reads_layers": READS,
        "recipe": vars(recipe),
    }
    write(folder / "head.safetensors", head, record)
    return folder / "head.safetensors", teaching
