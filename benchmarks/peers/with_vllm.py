"""vLLM's CPU build on the ragged workload. Runs in an environment of its own (``make peers``) and imports nothing of ours.

``python -m benchmarks.peers.with_vllm MODEL WORK MARK``: the folder of the weights, a JSON file that says what to do, and what the line
with the result begins with.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams, __version__

BLOCK_TOKENS = 128  # of its KV cache on a CPU, its default
LONGEST = 1024  # tokens of a request and its answer


def measure(model: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Load, compile, warm, serve once; seconds are from the first request to the last token.

    ``asked``: dtype, threads, at_once, token_budget, kv_tokens, and the requests of the ``warm`` and the measured ``work``, each as
    prompt token ids and the number of output tokens.
    """
    engine = LLM(
        model=str(model),
        dtype=asked["dtype"],
        max_model_len=LONGEST,
        max_num_seqs=asked["at_once"],
        max_num_batched_tokens=asked["token_budget"],
        block_size=BLOCK_TOKENS,
        num_gpu_blocks_override=asked["kv_tokens"] // BLOCK_TOKENS,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    _serve(engine, asked["warm"])
    start = time.perf_counter()
    outputs = _serve(engine, asked["work"])
    duration = time.perf_counter() - start
    config = engine.llm_engine.vllm_config
    import torch  # vLLM has it by now, with the threads that it chose

    return {
        "seconds": duration,
        "outputs": outputs,
        "resolved": {
            "attention": _attention(engine),
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "kv_tokens": config.cache_config.num_gpu_blocks * config.cache_config.block_size,
            "token_budget": config.scheduler_config.max_num_batched_tokens,
            "at_once": config.scheduler_config.max_num_seqs,
            "prefix_sharing": config.cache_config.enable_prefix_caching,
            "async": bool(config.scheduler_config.async_scheduling),
            "compiled": getattr(config.compilation_config.mode, "name", "no"),
            "torch": torch.__version__,
            "vllm": __version__,
        },
    }


def _serve(engine: LLM, requests: list[list[Any]]) -> list[list[int]]:
    prompts = [{"prompt_token_ids": ids} for ids, _ in requests]
    choices = [
        SamplingParams(temperature=0.0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False)
        for _, count in requests
    ]
    return [list(answer.outputs[0].token_ids) for answer in engine.generate(prompts, choices, use_tqdm=False)]


def _attention(engine: LLM) -> str:
    """The attention layers' backend; they are in this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``)."""
    layers = engine.llm_engine.vllm_config.compilation_config.static_forward_context.values()
    return ", ".join(sorted({layer.attn_backend.get_name() for layer in layers if hasattr(layer, "attn_backend")}))


if __name__ == "__main__":
    try:
        measured = measure(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
    except (
        RuntimeError,
        ValueError,
    ) as error:  # a number format that this processor lacks, say: its last line names it
        sys.exit(str(error).strip())
    print(sys.argv[3] + json.dumps(measured), flush=True)
