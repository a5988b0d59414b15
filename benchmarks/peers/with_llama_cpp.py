"""llama.cpp's server on the ragged workload, asked over HTTP for token ids and giving token ids (``make peers`` builds it).

``python -m benchmarks.peers.with_llama_cpp WEIGHTS WORK MARK``: a GGUF file beside the folder ``bin`` with ``llama-server``, a JSON file
that says what to do, and what the line with the result begins with.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CACHE_TYPES = {"float32": "f32", "bfloat16": "bf16"}
START_S = 300.0


def measure(weights: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Load, warm, serve once; seconds are from the first request to the last token, HTTP on this machine among them.

    ``asked``: dtype, threads, at_once, token_budget, kv_tokens, and the requests of the ``warm`` and the measured ``work``, each as
    prompt token ids and the number of output tokens.
    """
    with server(weights, options(asked)) as client:
        told = client.get("/props").raise_for_status().json()
        _serve(client, asked["warm"])
        start = time.perf_counter()
        outputs = _serve(client, asked["work"])
        duration = time.perf_counter() - start
    return {
        "seconds": duration,
        "outputs": outputs,
        "resolved": {
            "attention": "flash attention",
            "dtype": asked["dtype"],
            "threads": asked["threads"],
            "kv_tokens": asked["kv_tokens"],
            "token_budget": asked["token_budget"],
            "at_once": told["total_slots"],
            "prefix_sharing": False,
            "llama.cpp": told["build_info"],
        },
    }


def options(asked: dict[str, Any]) -> list[str]:
    """Of ``llama-server``: one KV cache for all slots, in the number format of the weights."""
    threads, cache = str(asked["threads"]), CACHE_TYPES[asked["dtype"]]
    return [
        *("--parallel", str(asked["at_once"]), "--ctx-size", str(asked["kv_tokens"]), "--kv-unified"),
        *("--batch-size", str(asked["token_budget"]), "--ubatch-size", str(asked["token_budget"])),
        *("--threads", threads, "--threads-batch", threads, "--threads-http", str(asked["at_once"] + 4)),
        *("--flash-attn", "on", "--cache-type-k", cache, "--cache-type-v", cache, "--cache-ram", "0"),
    ]


@contextmanager
def server(weights: Path, words: list[str]) -> Iterator[httpx.Client]:
    """A server of these weights on this machine, and a client of it.

    Raises ``RuntimeError`` with what the server said last where it does not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = weights.parent / "bin" / "llama-server"
    log = weights.with_suffix(".log")
    with log.open("w") as said:
        process = subprocess.Popen(
            [program, "--model", weights, "--host", "127.0.0.1", "--port", str(port), *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False) as client:
            _wait(client, process, log)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("llama-server did not come up: " + " ".join(log.read_text(errors="replace").split("\n")[-4:]))


def _serve(client: httpx.Client, requests: list[list[Any]]) -> list[list[int]]:
    """All are sent at once, in order; what has no slot waits in the server's queue."""

    def ask(request: list[Any]) -> list[int]:
        ids, count = request
        body = {
            "prompt": ids,
            "n_predict": count,
            "ignore_eos": True,
            "temperature": 0.0,
            "cache_prompt": False,
            "return_tokens": True,
        }
        told = client.post("/completion", json=body).raise_for_status().json()
        return list(told["tokens"])

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


if __name__ == "__main__":
    try:
        measured = measure(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
    except (RuntimeError, httpx.HTTPError) as error:
        sys.exit(str(error).strip())
    print(sys.argv[3] + json.dumps(measured), flush=True)
