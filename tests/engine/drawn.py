"""What the engine's property tests draw from: a small random model, and requests of any shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from hypothesis import strategies as st

from engine.config import ChunkedPrefill, RequestSpec, Speculation

TINY = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.5,
    "tie_word_embeddings": False,
    "eos_token_id": 7,
    "bos_token_id": None,
}


def random_llama(
    directory: Path, seed: int, letters: Mapping[str, int] | None = None, **changes: Any
) -> torch.nn.Module:
    """A random Llama with grouped heads, saved in ``directory`` as any model is; returned as transformers computes it.

    Its tokens are words ``w0``, ``w1``, ...; ``letters`` gives the ids of single letters, into which text is split then.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    config = LlamaConfig(**(TINY | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(directory)
    named = {number: letter for letter, number in (letters or {}).items()}
    words = {named.get(i, f"w{i}"): i for i in range(config.vocab_size)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=next(iter(words))))
    if letters:
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.save(str(directory / "tokenizer.json"))
    return model


def drawn_prompts(token: st.SearchStrategy[int], longest: int, most: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """One to ``most`` prompts that have nothing to do with each other."""
    return st.lists(st.lists(token, min_size=1, max_size=longest).map(tuple), min_size=1, max_size=most)


@st.composite
def drawn_requests(
    draw: st.DrawFn,
    prompts: st.SearchStrategy[list[tuple[int, ...]]],
    *,
    max_tokens: int = 20,
    follow: bool = False,
    **fields: st.SearchStrategy[Any],
) -> list[RequestSpec]:
    """A request for each of the prompts drawn. ``fields``: what further fields are drawn from; ``follow``: some wait for an earlier one."""
    requests = []
    for index, prompt in enumerate(draw(prompts)):
        drawn = {name: draw(values) for name, values in fields.items()}
        if follow and index:
            drawn["after"] = draw(st.none() | st.integers(0, index - 1).map(str))
        asked = RequestSpec(
            request_id=str(index), prompt_token_ids=prompt, max_tokens=draw(st.integers(1, max_tokens)), **drawn
        )
        requests.append(asked)
    return requests


def most_blocks(requests: Sequence[RequestSpec], block_size: int) -> int:
    """Blocks that the longest of the requests takes: a pool can be no smaller."""
    return max(-(-(len(r.prompt_token_ids or ()) + r.max_tokens) // block_size) for r in requests)


def drawn_guessing(most: int) -> st.SearchStrategy[Speculation]:
    """Guesses of a fixed length up to ``most``, looked up or made by some of the model's layers."""
    return st.builds(
        Speculation,
        proposer=st.sampled_from(["prompt-lookup", "layer-skip"]),
        control=st.just("fixed"),
        k=st.integers(1, most),
        ngram_min=st.just(1),
        target_speedup=st.just(1.5),
    )


def drawn_chunking(least: int) -> st.SearchStrategy[ChunkedPrefill]:
    """Chunks of any size in steps of at least so many tokens: a verification has to fit."""
    return st.builds(ChunkedPrefill, token_budget=st.integers(least, 48), chunk_size=st.none() | st.integers(1, 24))
