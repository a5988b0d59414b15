"""KV quantization on a CPU: what each codec gives in the same memory, and what it costs.

- *room*: blocks that the bytes of ``POOL`` full-precision blocks give, against ``bits of the model's format / effective bits``. Of a codec
  with a window the last tokens of each request stay exact, and the windows lie in the same bytes: its effective bits are those of a request
  of the workload's length with its window (papers 4.8), and a table has them for other lengths.
- *serving*: the same requests at once in the same bytes, per codec in turns: most requests in flight, output tokens/s, preemptions. Where
  the pool was the limit more requests run together; on a CPU unpacking costs more than reading less spares, so throughput is no goal here.
- *store*: one layer's keys and values of a batch, packed and stored, against stored as they are.
- *decode*: one layer's attention of a batch of single tokens over contexts of growing length, per codec.

``python -m benchmarks.kv_quantization [--repeats N] [--model NAME] [--parts room,serving,...] [--json FILE] [--check]``
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Report, arguments, as_a_worker, interleave, paired_ratio, some_of, summarise
from engine.attention.packed import make_attention
from engine.batch import build_batch
from engine.config import EngineConfig, KVQuantization, RequestSpec, RunSpec, Sampling
from engine.kv.cache import KVCache
from engine.kv.codecs import make_codec
from engine.kv.quantized import QuantizedCache
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

PARTS = ("room", "serving", "store", "decode")
CODECS: dict[str, KVQuantization | None] = {
    "none": None,
    "int8": KVQuantization(codec="int8"),
    "fp8": KVQuantization(codec="fp8"),
    "int4": KVQuantization(codec="int4"),
    "kivi 2-bit": KVQuantization(codec="kivi", residual=32),
}
BLOCK, POOL = 16, 48  # tokens, full-precision blocks
REQUESTS, PROMPT, OUTPUT = 12, 160, 24  # of the serving workload: each ends with 12 blocks
HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64  # of the embedded model
LENGTHS = (64, 256, 1024, 4096)  # tokens of a request, whose window weighs less the longer it is
ROOM_SHARE, STORE_RATIO = 0.9, 1.3  # goals


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument("--model", default="random:smollm2-135m", help="what is served")
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}, with commas"
    )
    options = parser.parse_args(words)
    parts = set(options.parts)
    report = Report("kv_quantization")
    report.note_load()
    if parts & {"room", "serving"}:
        prepared = {name: prepare(workload(options.model, asked)) for name, asked in CODECS.items()}
        if "room" in parts:
            room(report, prepared)
        if "serving" in parts:
            serving(report, prepared, options.repeats)
    if "store" in parts:
        store(report, options.repeats)
    if "decode" in parts:
        decode(report, options.repeats)
    report.note_load()
    return report.finish(options)


def workload(model: str, asked: KVQuantization | None) -> RunSpec:
    """Requests at once that do not fit the pool together at full precision."""
    rng = random.Random(0)
    requests = tuple(
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=tuple(rng.randrange(10, 256) for _ in range(PROMPT)),
            max_tokens=OUTPUT,
        )
        for i in range(REQUESTS)
    )
    config = EngineConfig(
        model=model,
        device="cpu",
        dtype="bfloat16",
        threads=1,
        kv_blocks=POOL,
        block_size=BLOCK,
        kv_quantization=asked,
        sampling=Sampling(ignore_eos=True),
        keep_text=False,
    )
    return RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=requests)


def room(report: Report, prepared: dict[str, Prepared]) -> None:
    full = prepared["none"]
    rows: list[list[Any]] = []
    windows: list[list[Any]] = []
    for name, side in prepared.items():
        codec = side.codec
        gain = side.num_blocks / full.num_blocks
        if codec is None:
            rows.append([name, 8 * full.model.dtype.itemsize, side.num_blocks, "", gain])
            continue
        head_dim, exact = side.model.shape.head_dim, 8 * full.model.dtype.itemsize
        packed, bits = codec.bits(head_dim, BLOCK), codec.bits_served(head_dim, BLOCK, PROMPT + OUTPUT, exact)
        rows.append([name, bits, side.num_blocks, "" if side.tails is None else side.tails, gain])
        note = None
        if codec.window:
            windows.append([name, *(codec.bits_served(head_dim, BLOCK, length, exact) for length in LENGTHS)])
            note = (
                f"{bits:.2f} bits: packed {packed:.2f}, the last {codec.window} of {PROMPT + OUTPUT} tokens exact; "
                f"{gain * packed / exact:.2f} of what the packed bits alone promise"
            )
        share = gain * bits / exact
        report.figure(f"room of {name} against its bits", share, "of 16 / bits", goal=ROOM_SHARE, note=note)
    title = f"blocks in the bytes of {POOL} full-precision blocks"
    report.table(title, ["codec", "effective bits", "blocks", "windows", "times"], rows)
    if windows:
        report.table("effective bits by tokens of a request", ["codec", *(str(length) for length in LENGTHS)], windows)


def serve(prepared: Prepared) -> dict[str, float]:
    """Serve the workload with the model at hand; seconds, most requests in flight, preemptions."""
    requests = make_requests(prepared.spec, prepared.model, prepared.device, prepared.max_model_len)
    folder = tempfile.TemporaryDirectory(prefix="servescope-bench-")
    with folder, Recorder(Path(folder.name), "off", clock := RunClock()) as recorder:
        engine = build_engine(replace(prepared, requests=requests), recorder, clock)
        most, commit = 0, engine.scheduler.commit

        def counted(plan: Plan) -> None:
            nonlocal most
            most = max(most, len(engine.scheduler.running))
            commit(plan)

        engine.scheduler.commit = counted  # type: ignore[method-assign]
        start = time.perf_counter()
        engine.run(requests)
        seconds = time.perf_counter() - start
    return {
        "tokens_per_s": engine.totals.output_tokens / seconds,
        "in_flight": float(most),
        "preemptions": float(engine.totals.preemptions),
    }


def serving(report: Report, prepared: dict[str, Prepared], repeats: int) -> None:
    sides: dict[str, Callable[[], dict[str, float]]] = {
        name: lambda side=side: serve(side)  # type: ignore[misc]
        for name, side in prepared.items()
    }
    by_codec = interleave(sides, repeats)
    keys = ("in_flight", "tokens_per_s", "preemptions")
    rows = [[name, *(summarise([run[key] for run in runs]).median for key in keys)] for name, runs in by_codec.items()]
    title = f"{REQUESTS} requests of {PROMPT} + {OUTPUT} tokens in the same bytes"
    report.table(title, ["codec", "most in flight", "output tokens/s", "preemptions"], rows)
    before = by_codec["none"]
    for name, runs in by_codec.items():
        if name == "none":
            continue
        more = runs[0]["in_flight"] / before[0]["in_flight"]
        report.figure(f"requests in flight, {name} / none", more, "x")
        pairs = ([run["tokens_per_s"] for run in side] for side in (runs, before))
        ratio = paired_ratio(*pairs)
        report.figure(f"output tokens/s, {name} / none", ratio.median, "x", spread=ratio.spread)


def make_cache(asked: KVQuantization | None, blocks: int, tails: int) -> KVCache:
    """One layer of the embedded model's cache."""
    dimensions = (1, KV_HEADS, HEAD_DIM, blocks, BLOCK)
    if asked is None:
        return KVCache(*dimensions, torch.float32, torch.device("cpu"))
    codec = make_codec(asked, HEAD_DIM, BLOCK)
    cache = QuantizedCache(codec, *dimensions, torch.float32, torch.device("cpu"), tails=tails)
    if codec.fixed_scales:
        cache.set_scales(torch.full((1, 2, KV_HEADS), 0.05))
    return cache


def timed(work: Callable[[], Any], times: int) -> float:
    """Seconds per call."""
    work()
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


@torch.inference_mode()
def store(report: Report, repeats: int, tokens: int = 512) -> None:
    k, v = torch.randn(2, tokens, KV_HEADS, HEAD_DIM)
    slots = torch.arange(tokens)
    sides: dict[str, Callable[[], float]] = {}
    for name, asked in CODECS.items():
        cache = make_cache(asked, tokens // BLOCK, 1)
        sides[name] = lambda cache=cache: timed(lambda: cache.store(0, slots, k, v), 30)  # type: ignore[misc]
    by_codec = interleave(sides, repeats)
    rows = [[name, 1e6 * summarise(times).median] for name, times in by_codec.items()]
    report.table(f"store {tokens} tokens, one layer", ["codec", "us"], rows)
    for name, times in by_codec.items():
        if name != "none":
            ratio = paired_ratio(times, by_codec["none"])
            report.figure(
                f"store, {name} / none", ratio.median, "x", better="lower", goal=STORE_RATIO, spread=ratio.spread,
                note="plain PyTorch, several passes over the numbers; the goal is that of one fused kernel",
            )  # fmt: skip


@torch.inference_mode()
def decode(report: Report, repeats: int, requests: int = 4, contexts: Sequence[int] = (256, 1024, 4096)) -> None:
    q = torch.randn(requests, HEADS, HEAD_DIM)
    k, v = torch.randn(2, requests, KV_HEADS, HEAD_DIM)
    rows = []
    for context in contexts:
        blocks = context // BLOCK
        asked = []
        for i in range(requests):
            request = Request(i, RequestSpec(request_id=str(i), prompt="-"), [0] * context, Sampling(), 1, tail=i)
            request.block_table = list(range(i * blocks, (i + 1) * blocks))
            asked.append(Slice(request, 1, context - 2, False))
        batch = build_batch(Plan(asked), BLOCK, torch.device("cpu")).attention
        sides: dict[str, Callable[[], float]] = {}
        for name, codec in CODECS.items():
            cache = make_cache(codec, requests * blocks, requests)
            attention = make_attention("gathered", cache, HEADS, KV_HEADS, HEAD_DIM)
            attention.begin(batch)
            sides[name] = lambda attention=attention: timed(lambda: attention.forward(0, q, k, v), 10)  # type: ignore[misc]
        by_codec = interleave(sides, repeats)
        rows.append([context, *(1e3 * summarise(times).median for times in by_codec.values())])
        for name, times in by_codec.items():
            if name != "none":
                ratio = paired_ratio(times, by_codec["none"])
                report.figure(
                    f"decode at {context}, {name} / none", ratio.median, "x", better="lower", spread=ratio.spread
                )
    report.table(f"one layer's attention of {requests} single tokens, ms", ["context", *CODECS], rows)


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
