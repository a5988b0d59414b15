"""``transformers`` continuous batching on the common workload, in a process of its own: ``python -m benchmarks.gpu_parts.peer N``."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.gpu_parts.bench import common_workload
from benchmarks.harness import hand_back
from engine.model.shape import RANDOM

NEVER = -1  # an end-of-sequence id that no model emits
BLOCK = 256


def load() -> Any:
    """Random weights of the Qwen3-0.6B shape, as ``transformers`` runs them."""
    shape = RANDOM["qwen3-0.6b"]
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_position,
        tie_word_embeddings=True,
    )
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def main(count: int) -> None:
    model = load()
    requests = common_workload(model.config.vocab_size, dry=False)[:count]
    tokens = sum(len(r.prompt_token_ids or ()) + r.max_tokens + BLOCK for r in requests)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(
            do_sample=True, temperature=0.6, top_k=0, eos_token_id=NEVER, pad_token_id=0, max_new_tokens=1024
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            block_size=BLOCK,
            num_blocks=-(-tokens // BLOCK),
            max_batch_tokens=4096,
            max_requests_per_batch=count,
            allow_block_sharing=False,
        ),
    )
    manager.start()
    try:
        _serve(manager, [(list(r.prompt_token_ids or ()), 4) for r in requests[:8]], "warm")
        start = time.perf_counter()
        produced = _serve(manager, [(list(r.prompt_token_ids or ()), r.max_tokens) for r in requests], "work")
        seconds = time.perf_counter() - start
    finally:
        manager.stop(block=True, timeout=30)
    resolved = manager.continuous_batching_config
    hand_back(
        {
            "tokens_per_s": produced / seconds,
            "output_tokens": produced,
            "seconds": seconds,
            "resolved": {
                "transformers": transformers.__version__,
                "attention": model.config._attn_implementation,
                "cuda_graphs": str(getattr(resolved, "cuda_graph_booleans", None)),
                "async": getattr(resolved, "use_async_batching", None),
            },
        }
    )


def _serve(manager: Any, work: list[tuple[list[int], int]], name: str) -> int:
    for index, (ids, count) in enumerate(work):
        manager.add_request(ids, request_id=f"{name}-{index}", max_new_tokens=count, eos_token_id=NEVER)
    done = produced = 0
    while done < len(work):
        result = manager.get_result(timeout=120)
        if result is None or result.error:
            raise RuntimeError(f"continuous batching gave no result: {result and result.error}")
        if result.is_finished():
            done += 1
            produced += len(result.generated_tokens)
    return produced


if __name__ == "__main__":
    main(int(sys.argv[1]))
