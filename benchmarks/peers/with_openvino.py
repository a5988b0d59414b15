"""OpenVINO GenAI's continuous batching on the ragged workload. Runs in an environment of its own (``make peers``) and imports nothing of ours.

``python -m benchmarks.peers.with_openvino GRAPH WORK MARK``: the exported graph's folder, a JSON file that says what to do, and what the
line with the result begins with.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
BLOCK_TOKENS = 32  # of its KV cache on a CPU


def measure(graph: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Load, warm, serve once; seconds are from the first request to the last token.

    ``asked``: dtype, threads, at_once, token_budget, kv_tokens, and the requests of the ``warm`` and the measured ``work``, each as
    prompt token ids and the number of output tokens.
    """
    precision = PRECISION[asked["dtype"]]
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = asked["kv_tokens"] // BLOCK_TOKENS
    scheduler.max_num_batched_tokens = asked["token_budget"]
    scheduler.max_num_seqs = asked["at_once"]
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "INFERENCE_NUM_THREADS": asked["threads"],
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(graph), scheduler, "CPU", settings)
    _serve(pipeline, asked["warm"])
    start = time.perf_counter()
    outputs = _serve(pipeline, asked["work"])
    duration = time.perf_counter() - start
    return {
        "seconds": duration,
        "outputs": outputs,
        "resolved": {
            "attention": "PagedAttention",
            "dtype": asked["dtype"],
            "threads": asked["threads"],
            "kv_tokens": scheduler.num_kv_blocks * BLOCK_TOKENS,
            "token_budget": scheduler.max_num_batched_tokens,
            "at_once": scheduler.max_num_seqs,
            "prefix_sharing": scheduler.enable_prefix_caching,
            "openvino": openvino.__version__,
            "openvino_genai": openvino_genai.__version__,
        },
    }


def _serve(pipeline: Any, requests: list[list[Any]]) -> list[list[int]]:
    handles = []
    for number, (ids, count) in enumerate(requests):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos = True
        config.do_sample = False
        tokens = openvino.Tensor(np.array([ids], dtype=np.int64))
        handles.append(pipeline.add_request(number, tokens, config))
    while pipeline.has_non_finished_requests():
        pipeline.step()
    return [list(handle.read_all()[0].generated_ids) for handle in handles]


if __name__ == "__main__":
    try:
        measured = measure(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
    except RuntimeError as error:  # a number format that this processor lacks, say: its last line names it
        sys.exit(str(error).strip())
    print(sys.argv[3] + json.dumps(measured), flush=True)
