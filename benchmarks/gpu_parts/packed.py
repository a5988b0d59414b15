"""KV quantization on a GPU: a decode step against the context for each codec, and packing and storing against storing.

A codec with a window packs once per window: its steps are timed in the middle of one and where all requests complete theirs, and what
is told of it is the mean over a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_parts.bench import Bench, decode_plan, step_seconds
from engine.config.techniques import KVQuantization
from engine.executor import Executor
from engine.gpu.attention import TritonAttention
from engine.gpu.executor import GpuExecutor
from engine.gpu.kernels.forms import KernelForm, Side
from engine.gpu.kernels.pack import keep
from engine.gpu.kernels.rope_pack import rope_pack
from engine.gpu.kernels.rope_store import rope_store
from engine.gpu.ragged import RaggedBuilder
from engine.kv.cache import KVCache
from engine.kv.codecs import make_codec
from engine.kv.codecs.rotation import hadamard
from engine.kv.quantized import QuantizedCache
from engine.model.device import resolve_dtype
from engine.model.load import load, resolve
from engine.model.rope import Rope
from engine.model.shape import RANDOM, ModelShape

CODECS = ("none", "int8", "fp8", "int4", "kivi")
SHAPE = "llama-3.1-8b"
BATCH = 4  # requests that decode; their context is as long as memory allows at full precision
CONTEXTS = (1024, 4096, 16_384, 65_536)
STORED = (64, 2048)  # tokens of a decode batch and of a prefill
BLOCK_SIZE = 16
GOAL_STORE = 1.3


def packed(bench: Bench) -> None:
    """Step time beside context per codec, the first context at which a codec is faster, and the cost of packing."""
    decode_steps(bench)
    bench.free()
    stores(bench)


def decode_steps(bench: Bench) -> None:
    source = resolve(bench.shape(SHAPE))
    dtype = resolve_dtype("float32" if bench.dry else "bfloat16", bench.device)
    model = load(source, bench.device, dtype)
    batch, contexts = (2, (20, 40)) if bench.dry else (BATCH, CONTEXTS)
    steps: dict[str, list[float]] = {}
    packing: list[float] = []  # what a step takes longer in which all requests complete a window
    for name in CODECS:
        window = window_of(bench, name)
        blocks = batch * ((contexts[-1] + window) // BLOCK_SIZE + 1)
        cache = filled_cache(bench, name, model.shape, model.shape.layers, blocks, dtype, tails=batch)
        attention = TritonAttention(cache, model.shape.heads, model.shape.kv_heads, model.shape.head_dim)
        executor = GpuExecutor(model.decoder, attention)
        executor.capture_graphs(batch, contexts[-1] + window + BLOCK_SIZE, sizes=(batch,))

        def step(context: int, executor: Executor = executor) -> float:
            return step_seconds(bench, executor, decode_plan(batch, context - 1, BLOCK_SIZE), repeats=10)

        if window:
            complete = [step(context // window * window) for context in contexts]
            within = [step(context // window * window + window // 2) for context in contexts]
            packing = [most - least for most, least in zip(complete, within, strict=True)]
            steps[name] = [least + max(0.0, more) / window for least, more in zip(within, packing, strict=True)]
        else:
            steps[name] = [step(context) for context in contexts]
        del executor, attention, cache
        bench.free()
    rows = [(f"{c:,}", *(1e3 * steps[name][i] for name in CODECS)) for i, c in enumerate(contexts)]
    title = f"decode step of {batch} requests, {SHAPE}, ms"
    bench.report.table(title, ["context", *CODECS], rows)
    bench.report.figure(
        f"packing the windows of {batch} requests in one step, {contexts[-1]:,} tokens",
        1e3 * packing[-1],
        "ms",
        better="lower",
    )
    for name in CODECS[1:]:
        ratios = [with_codec / plain for with_codec, plain in zip(steps[name], steps["none"], strict=True)]
        slower = [i for i, ratio in enumerate(ratios) if ratio >= 1]
        first = slower[-1] + 1 if slower else 0  # of the contexts from which on the codec is faster
        note = (
            f"faster from a context of {contexts[first]:,} on" if first < len(contexts) else "not faster at the longest"
        )
        bench.report.figure(
            f"decode step at {contexts[-1]:,} tokens, {name} / none", ratios[-1], "x", better="lower", note=note
        )


def stores(bench: Bench) -> None:
    """Norm, rotation and store of one layer, packed beside as it is."""
    shape = RANDOM["tiny" if bench.dry else SHAPE]
    dtype = torch.float32 if bench.dry else torch.bfloat16
    table = Rope(shape, 4096, bench.device, dtype).table
    matrix = hadamard(shape.head_dim).to(bench.device, dtype)
    centre = torch.zeros(shape.kv_heads, shape.head_dim, dtype=dtype, device=bench.device)
    rows: list[tuple[object, ...]] = []
    for tokens in (5, STORED[0] + 1) if bench.dry else STORED:
        seconds: dict[str, float] = {}
        qkv = torch.randn(tokens, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, device=bench.device, dtype=dtype)
        slots = torch.arange(tokens, dtype=torch.int32, device=bench.device)
        where = (qkv, slots, slots, table)
        for name in CODECS:
            if window := window_of(bench, name):
                seconds[name] = window_seconds(bench, name, window, shape, where)
                continue
            cache = filled_cache(bench, name, shape, 1, tokens // BLOCK_SIZE + 1, dtype)
            if not isinstance(cache, QuantizedCache):
                plain = (cache.key_blocks[0], cache.value_blocks[0])
                seconds[name] = device_seconds(
                    bench, lambda where=where, plain=plain: rope_store(*where, *plain, shape.heads)
                )
                continue
            sides = (Side.of(cache.packed_keys[0]), Side.of(cache.packed_values[0]))
            form, mixes = KernelForm.of(cache.codec, shape.head_dim), cache.codec.rotates
            before = (centre, matrix) if mixes else (None, None)
            seconds[name] = device_seconds(
                bench,
                lambda where=where, sides=sides, form=form, before=before: rope_pack(
                    *where, *sides, form, shape.heads, None, 0.0, *before
                ),
            )
        rows.append((tokens, *(1e6 * seconds[name] for name in CODECS)))
        for name in CODECS[1:]:
            bench.report.figure(
                f"rotate, pack and store {tokens:,} tokens, {name} / none",
                seconds[name] / seconds["none"],
                "x",
                better="lower",
                goal=None if bench.dry else GOAL_STORE,
            )
    bench.report.table("rotate and store, one layer, us", ["tokens", *CODECS], rows)


def window_seconds(bench: Bench, name: str, window: int, shape: ModelShape, where: tuple[torch.Tensor, ...]) -> float:
    """Rotating, keeping and packing one layer's new tokens for a codec with a window: decodes of as many requests, or one prompt."""
    qkv, positions, _, table = where
    tokens, dtype = len(qkv), qkv.dtype
    prefill = tokens > STORED[0]
    requests = 1 if prefill else tokens
    times = []
    for context in (0,) if prefill else (window // 2, window - 1):
        blocks = requests * (context + tokens // requests) // BLOCK_SIZE + requests
        cache = filled_cache(bench, name, shape, 1, blocks, dtype, tails=requests)
        attention = TritonAttention(cache, shape.heads, shape.kv_heads, shape.head_dim)
        builder = RaggedBuilder(BLOCK_SIZE, bench.device, tail_tokens=attention.tail_tokens)
        plan = decode_plan(requests, context, BLOCK_SIZE, tokens if prefill else 0)
        attention.begin(builder.build(plan).attention)
        keys, values = attention.tails(0) or (None, None)

        def work(attention: TritonAttention = attention, keys=keys, values=values) -> None:  # type: ignore[no-untyped-def]
            own, singles = attention.own, attention.num_singles
            rope_store(
                qkv, positions, attention.slots, table, keys, values, shape.heads, own=own, stored=singles
            )  # fmt: skip
            attention.pack(0)
            if own is not None:
                keep(own, (keys, values), attention.slots, singles, tokens)

        times.append(device_seconds(bench, work))
    return times[0] + max(0.0, times[-1] - times[0]) / window


def device_seconds(bench: Bench, work: Callable[[], Any]) -> float:
    """Device time of one small kernel: many of them in one graph, so that launching is not what is timed."""
    if bench.device.type != "cuda":
        return bench.seconds(work)
    times = 50
    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            work()
    return bench.seconds(graph.replay, repeats=10) / times


def asked_for(bench: Bench, name: str) -> KVQuantization:
    """A codec's default settings; in a dry run the shortest window."""
    settings: dict[str, Any] = {"codec": name}
    if bench.dry:
        settings["residual"] = BLOCK_SIZE
    return KVQuantization.model_validate(settings)


def window_of(bench: Bench, name: str) -> int:
    """Tokens that a codec packs together; 0: each by itself."""
    return asked_for(bench, name).residual if name == "kivi" else 0


def filled_cache(
    bench: Bench, name: str, shape: ModelShape, layers: int, blocks: int, dtype: torch.dtype, tails: int = 0
) -> KVCache:
    """A cache with something in it, as a codec would make it."""
    device = bench.device
    dimensions = (layers, shape.kv_heads, shape.head_dim, blocks, BLOCK_SIZE, dtype, device)
    if name == "none":
        cache = KVCache(*dimensions)
        cache.data.normal_()
        return cache
    codec = make_codec(asked_for(bench, name), shape.head_dim, BLOCK_SIZE)
    packed_cache = QuantizedCache(codec, *dimensions, tails=tails)
    for tail in (*packed_cache.tail_keys, *packed_cache.tail_values):
        tail.normal_()
    for rows in (*packed_cache.packed_keys, *packed_cache.packed_values):
        rows.codes.view(torch.uint8).random_(0, 120)  # below 127: a number in e4m3, too
        if rows.meta is not None:
            rows.meta.uniform_(0.01, 0.02)
    if codec.fixed_scales:
        packed_cache.set_scales(torch.full((layers, 2, shape.kv_heads), 0.01))
    elif codec.rotates:
        packed_cache.centre = torch.zeros(layers, shape.kv_heads, shape.head_dim, dtype=dtype, device=device)
    return packed_cache
