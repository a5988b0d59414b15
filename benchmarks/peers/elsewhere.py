"""Engines that have an environment of their own under ``.peers`` (``make peers``): where each is, and one measurement of it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import MARK, ROOT, in_child
from benchmarks.peers.work import AT_ONCE, KV_TOKENS, MAX_BATCH_TOKENS, Work, digest, model_folder, ragged

PEERS = ROOT / ".peers"
DONE = ".done"  # written last by an installation
COMPILED = "compiled"  # what vLLM compiled, kept between its processes


@dataclass(frozen=True)
class Elsewhere:
    """An engine in an environment of its own: the module that measures it, by which Python, and the weights that it is given."""

    module: str
    python: Callable[[Path], str]
    weights: Callable[[Path, str], Path]  # its folder, number format -> where they are
    environment: Callable[[Path, int], Mapping[str, str]] = lambda folder, threads: {}

    def measure(self, name: str, dtype: str, threads: int, requests: int | None) -> dict[str, Any]:
        """One measurement, in its own environment. Raises ``ChildFailed`` with what it said last."""
        folder = PEERS / name
        with tempfile.TemporaryDirectory(prefix="servescope-bench-") as place:
            file = Path(place, "work.json")
            file.write_text(json.dumps(asked(ragged(requests), dtype, threads)), encoding="utf-8")
            measured = in_child(
                self.module,
                str(self.weights(folder, dtype)),
                str(file),
                MARK,
                python=self.python(folder),
                environment=self.environment(folder, threads),
            )
        outputs = measured.pop("outputs")
        return {**measured, "output_tokens": sum(map(len, outputs)), "digests": digest(outputs)}


def asked(work: Work, dtype: str, threads: int) -> dict[str, Any]:
    """What a side is to do, as JSON."""
    return {
        "dtype": dtype,
        "threads": threads,
        "at_once": AT_ONCE,
        "token_budget": MAX_BATCH_TOKENS,
        "kv_tokens": KV_TOKENS,
        "warm": work.warm.requests,
        "work": work.requests,
    }


def vllm_environment(folder: Path, threads: int) -> dict[str, str]:
    """One process, its threads free to move like those of the other sides, nothing asked of a network, and the OpenMP library that its
    build is for.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "LD_PRELOAD": os.pathsep.join(map(str, sorted((folder / "lib").glob("libiomp5.so")))),
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CACHE_ROOT": str(folder / COMPILED),
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }


ELSEWHERE = {
    "openvino": Elsewhere(
        "benchmarks.peers.with_openvino",
        lambda folder: str(folder / "run" / "bin" / "python"),
        lambda folder, dtype: folder / "graph",
    ),
    "vllm": Elsewhere(
        "benchmarks.peers.with_vllm",
        lambda folder: str(folder / "bin" / "python"),
        lambda folder, dtype: model_folder(),
        vllm_environment,
    ),
    "llama.cpp": Elsewhere(
        "benchmarks.peers.with_llama_cpp",
        lambda folder: sys.executable,
        lambda folder, dtype: folder / f"{dtype}.gguf",
    ),
}


def missing(name: str) -> bool:
    """Whether the engine is not installed."""
    return not (PEERS / name / DONE).exists()
