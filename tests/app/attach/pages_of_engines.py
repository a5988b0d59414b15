"""Pages of metrics as vLLM, SGLang and llama.cpp's server lay them out, written here from the formats, and a server that
gives them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]
TEXT = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}


def family(name: str, kind: str, *samples: tuple[str, float]) -> str:
    """``samples``: what follows the name (suffix and labels), and the value."""
    lines = [f"# HELP {name} As told.", f"# TYPE {name} {kind}"]
    return "\n".join([*lines, *(f"{name}{suffix} {value}" for suffix, value in samples)]) + "\n"


def histogram(name: str, labels: str, bounds: dict[str, float], total: float) -> str:
    """``bounds``: bound as text -> values up to it."""
    samples = [(f'_bucket{{le="{bound}",{labels}}}', count) for bound, count in bounds.items()]
    return family(name, "histogram", *samples, (f"_sum{{{labels}}}", total), (f"_count{{{labels}}}", bounds["+Inf"]))


def vllm(scale: float = 1.0, ranks: int = 2, started: float = 1.7e9) -> str:
    """Two data-parallel ranks; ``scale``: of the counters."""
    of = [f'engine="{rank}",model_name="a\\"b\\\\c"' for rank in range(ranks)]
    return "".join(
        [
            family("python_gc_objects_collected_total", "counter", ('{generation="0"}', 12)),
            family("process_start_time_seconds", "gauge", ("", started)),
            family("vllm:num_requests_running", "gauge", *((f"{{{each}}}", 3.0) for each in of)),
            family("vllm:num_requests_waiting", "gauge", *((f"{{{each}}}", 1.0) for each in of)),
            family("vllm:kv_cache_usage_perc", "gauge", *((f"{{{each}}}", 0.2 + 0.2 * k) for k, each in enumerate(of))),
            family("vllm:prompt_tokens_total", "counter", *((f"{{{each}}}", 100 * scale) for each in of)),
            family("vllm:generation_tokens_total", "counter", *((f"{{{each}}}", 50 * scale) for each in of)),
            family("vllm:num_preemptions_total", "counter", *((f"{{{each}}}", 2 * scale) for each in of)),
            family(
                "vllm:request_success_total", "counter", *((f'{{{each},finished_reason="stop"}}', 5) for each in of)
            ),
            "".join(
                histogram(
                    "vllm:time_to_first_token_seconds",
                    each,
                    {"0.1": 4 * scale, "0.5": 8 * scale, "+Inf": 10 * scale},
                    5.5 * scale,
                )
                for each in of
            ),
        ]
    )


def sglang(scale: float = 1.0) -> str:
    labels = '{engine_type="unified",model_name="m",pid="7"}'
    return "".join(
        [
            family("sglang:num_running_reqs", "gauge", (labels, 7.0)),
            family("sglang:num_queue_reqs", "gauge", (labels, 2.0)),
            family("sglang:token_usage", "gauge", (labels, 0.31)),
            family("sglang:cache_hit_rate", "gauge", (labels, 0.5)),
            family("sglang:spec_accept_length", "gauge", (labels, 2.5)),
            family("sglang:prompt_tokens_total", "counter", (labels, 4000 * scale)),
            family("sglang:generation_tokens_total", "counter", (labels, 900 * scale)),
            family(
                "sglang:cached_tokens_total",
                "counter",
                ('{cache_source="device",model_name="m"}', 10 * scale),
                ('{cache_source="host",model_name="m"}', 5 * scale),
            ),
            family("sglang:num_requests_total", "counter", (labels, 20 * scale)),
            histogram(
                "sglang:inter_token_latency_seconds", 'model_name="m"', {"0.02": 9 * scale, "+Inf": 9 * scale}, 0.09
            ),
        ]
    )


def llama_cpp(scale: float = 1.0) -> str:
    return "".join(
        [
            family("llamacpp:prompt_tokens_total", "counter", ("", 33065 * scale)),
            family("llamacpp:prompt_seconds_total", "counter", ("", 235.743 * scale)),
            family("llamacpp:tokens_predicted_total", "counter", ("", 7801 * scale)),
            family("llamacpp:tokens_predicted_seconds_total", "counter", ("", 412.5 * scale)),
            family("llamacpp:n_decode_total", "counter", ("", 7000 * scale)),
            family("llamacpp:n_busy_slots_per_decode", "counter", ("", 1.25)),
            family("llamacpp:prompt_tokens_seconds", "gauge", ("", 140.2)),
            family("llamacpp:predicted_tokens_seconds", "gauge", ("", 18.9)),
            family("llamacpp:requests_processing", "gauge", ("", 2)),
            family("llamacpp:requests_deferred", "gauge", ("", 4)),
        ]
    )


@contextmanager
def serving(answer: Callable[[str, int], Answer]) -> Iterator[tuple[str, list[str]]]:
    """A server; ``answer(path, how often it was asked before)``. Its address, and the paths as they were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            before = asked.count(self.path)
            asked.append(self.path)
            status, headers, body = answer(self.path, before)
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def engine_with(page: Callable[[int], str], others: dict[str, object] | None = None) -> Callable[[str, int], Answer]:
    """``page(n)``: the n-th page of metrics; ``others``: JSON by path."""

    def answer(path: str, before: int) -> Answer:
        if path == "/metrics":
            return 200, TEXT, page(before).encode()
        if path in (others or {}):
            return 200, {"content-type": "application/json"}, json.dumps((others or {})[path]).encode()
        return 404, {}, b"{}"

    return answer
