"""The two baselines from ``transformers``: static batches with ``generate`` and its continuous batching, both with sdpa."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.peers.work import AT_ONCE, KV_TOKENS, MAX_BATCH_TOKENS, Work, digest, ragged
from engine.config import EMBEDDED_MODEL
from engine.model.load import model_directory, resolve

NEVER = -1  # an end-of-sequence id that no model emits
BLOCK = 256  # tokens per block of its KV cache, its default


def load(dtype: str, threads: int) -> Any:
    """The embedded model's weights, as ``transformers`` runs them."""
    torch.set_num_threads(threads)
    directory = model_directory(resolve(EMBEDDED_MODEL))
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
    )
    return model.eval()


def measure_static(dtype: str, threads: int, requests: int | None) -> dict[str, Any]:
    """``generate`` on batches of 16 in order, each padded to its longest prompt and run to its longest output."""
    model, work = load(dtype, threads), ragged(requests)
    _generate_static(model, work.warm)
    attention = model.config._attn_implementation
    start = time.perf_counter()
    outputs = _generate_static(model, work)
    return _result(time.perf_counter() - start, outputs, model, attention, {"at_once": AT_ONCE})


def measure_continuous(dtype: str, threads: int, requests: int | None) -> dict[str, Any]:
    """``ContinuousBatchingManager``, no prefix sharing, the same number of KV tokens and tokens in a batch as ours."""
    model, work = load(dtype, threads), ragged(requests)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=NEVER, pad_token_id=0, max_new_tokens=128),
        continuous_batching_config=ContinuousBatchingConfig(
            block_size=BLOCK,
            num_blocks=KV_TOKENS // BLOCK,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_requests_per_batch=AT_ONCE,
            allow_block_sharing=False,
        ),
    )
    manager.warmup()
    manager.start()
    try:
        _serve_continuous(manager, work.warm, "warm")
        attention, resolved = model.config._attn_implementation, manager.continuous_batching_config
        start = time.perf_counter()
        outputs = _serve_continuous(manager, work, "work")
        duration = time.perf_counter() - start
    finally:
        manager.stop(block=True, timeout=30)
    settings = {
        "kv_tokens": resolved.num_blocks * resolved.block_size,
        "token_budget": resolved.max_batch_tokens,
        "at_once": resolved.max_requests_per_batch,
        "prefix_sharing": resolved.allow_block_sharing,
        "cuda_graphs": list(resolved.cuda_graph_booleans),
        "async": resolved.use_async_batching,
        "compiled": resolved.varlen_compile_config is not None,
    }
    return _result(duration, outputs, model, attention, settings)


def _generate_static(model: Any, work: Work) -> list[list[int]]:
    outputs: list[list[int]] = []
    for at in range(0, len(work.requests), AT_ONCE):
        batch = work.requests[at : at + AT_ONCE]
        longest, most = max(len(ids) for ids, _ in batch), max(count for _, count in batch)
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in batch])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in batch])
        config = GenerationConfig(
            do_sample=False, eos_token_id=NEVER, pad_token_id=0, max_new_tokens=most, min_new_tokens=None
        )
        with torch.inference_mode():
            ids = model.generate(padded, attention_mask=mask, generation_config=config)
        outputs += [row[longest : longest + count].tolist() for row, (_, count) in zip(ids, batch, strict=True)]
    return outputs


def _serve_continuous(manager: Any, work: Work, name: str) -> list[list[int]]:
    for index, (ids, count) in enumerate(work.requests):
        manager.add_request(ids, request_id=f"{name}-{index}", max_new_tokens=count, eos_token_id=NEVER)
    token_ids: dict[str, list[int]] = {}
    while len(token_ids) < len(work.requests):
        result = manager.get_result(timeout=120)
        if result is None or result.error:
            raise RuntimeError(f"continuous batching gave no result: {result and result.error}")
        if result.is_finished():
            token_ids[result.request_id] = list(result.generated_tokens)
    return [token_ids[f"{name}-{index}"] for index in range(len(work.requests))]


def _result(
    duration: float, outputs: list[list[int]], model: Any, attention: str, settings: dict[str, Any]
) -> dict[str, Any]:
    return {
        "seconds": duration,
        "output_tokens": sum(map(len, outputs)),
        "digests": digest(outputs),
        "resolved": {
            "attention": attention,
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            **settings,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }
