"""Where keys and values lie: what each layout wastes over lengths, what block tables cost attention, what fresh pages cost.

- *waste*: one request of each length in the real pool and cache of every layout, all of its keys and values written. The share of the memory
  it holds that holds no token, and for pages mapped on demand what the operating system says is resident. Then how many requests
  of each length have a place in the same memory.
- *kernel*: the native attention kernel over the same keys: through a block table whose blocks lie scattered, through one whose blocks lie in
  order, and without one, contiguous. A chunk of a prompt, and decodes of several requests, by their context. One thread, its
  processor time, so that others' work on the machine counts for less.
- *pages*: writing a request's keys and values to pages that are fresh, and to pages kept from the one before (deferred reclaim).
- *far*: decodes over the same keys, all in the KV pool or part of them in a far pool, whose partial results are merged. Both parts are
  computed by one thread, one after the other; no link is emulated.

``python -m benchmarks.layout [--repeats N] [--model MODEL] [--parts waste,kernel,pages,far] [--json FILE] [--check]``
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.harness import Report, arguments, as_a_worker, interleave, number, paired_ratio, some_of
from engine.backends import make_attention
from engine.batch import AttentionBatch, build_batch
from engine.block_table import blocks_for
from engine.config import EngineConfig, KVLayout, RequestSpec, RunSpec, Sampling
from engine.kv.cache import KVCache
from engine.kv.far import FarStore
from engine.kv.occupancy import occupancy
from engine.kv.pool import BlockPool
from engine.model.load import LoadedModel
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.build import make_cache
from engine.start.prepare import prepare
from engine.start.prepared import Prepared

PARTS = ("waste", "kernel", "pages", "far")
BLOCK = 16
LONGEST = 2048  # tokens of a range
LENGTHS = (16, 100, 500, 2000)
MEMORY_TOKENS = 16_384  # of the pool that requests are placed in
ROOM_TOKENS = 8192 + LONGEST  # of the pool that one request is written to, whose largest pages hold 8192 tokens
LAYOUTS: dict[str, KVLayout] = {
    "paged, blocks of 16": KVLayout(kind="paged"),
    "mapped, pages of 4 KiB": KVLayout(page_kib=4),
    "mapped, pages of 64 KiB": KVLayout(page_kib=64),
    "mapped, pages of 2 MiB": KVLayout(page_kib=2048),
    f"reserved, {LONGEST} tokens": KVLayout(kind="reserve-max", max_tokens=LONGEST),
}
CPU = torch.device("cpu")
LEAST_RESERVED, LEAST_COARSE = 5.0, 2.0  # goals: waste at 100 tokens over paged's
MOST_TAX, NO_SLOWER = 1.0, 1.02  # goals: contiguous over scattered
FAR_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a request's keys in the far pool; the last block stays in the KV pool
MOST_FAR = 1.25  # goal: attention with half of the keys far over that with one pool


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each measurement of time")
    parser.add_argument("--model", default="random:smollm2-135m", help="whose keys and values lie there")
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}, with commas"
    )
    options = parser.parse_args(words)
    report = Report("layout")
    report.note_load()
    prepared = prepared_for(options.model)
    if "waste" in options.parts:
        waste(report, prepared)
    if "kernel" in options.parts:
        kernel(report, prepared.model, options.repeats)
    if "pages" in options.parts:
        pages(report, prepared, options.repeats)
    if "far" in options.parts:
        far(report, prepared.model, options.repeats)
    report.note_load()
    return report.finish(options)


def prepared_for(model: str) -> Prepared:
    """One request of the longest length, one thread."""
    config = EngineConfig(
        model=model, device="cpu", dtype="float32", threads=1, block_size=BLOCK, max_num_seqs=8, kv_blocks=ROOM_TOKENS // BLOCK,
        kv_layout=KVLayout(kind="paged"), sampling=Sampling(ignore_eos=True), keep_text=False,
    )  # fmt: skip
    asked = (RequestSpec(request_id="0", prompt_token_ids=(9,) * (LONGEST - 1), max_tokens=2),)
    return prepare(RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=asked))


def with_layout(prepared: Prepared, asked: KVLayout, tokens: int) -> tuple[Prepared, BlockPool, KVCache]:
    """The same model with another layout, and its pool and cache with memory for so many tokens."""
    engine = prepared.spec.engine.model_copy(update={"kv_layout": asked, "kv_blocks": tokens // BLOCK})
    laid = prepare(prepared.spec.model_copy(update={"engine": engine}))
    laid = replace(laid, model=prepared.model)
    layout = laid.layout
    cache = make_cache(laid, layout.addresses(laid.num_blocks), None, layout.make_space())
    return laid, layout.make_pool(laid.num_blocks, None, None, cache), cache


def waste(report: Report, prepared: Prepared) -> None:
    share: dict[tuple[str, int], float] = {}
    rows, resident, places = [], [], []
    for name, asked in LAYOUTS.items():
        _, pool, cache = with_layout(prepared, asked, ROOM_TOKENS)
        of_pages = [name]
        for tokens in LENGTHS:
            table = pool.allocate(blocks_for(tokens, BLOCK), 0, 0)
            fill(cache, table, tokens)
            parts = occupancy(pool, tokens, [tokens])
            held = parts.used + parts.internal + parts.reserved
            share[name, tokens] = 1 - parts.used / held
            there = pool.resident_bytes()
            if there is not None:
                of_pages.append(f"{there / 1e6:,.1f} of {held / 1e6:,.1f}")
                assert there == held, f"{there} bytes are resident and {held} on the books"
            pool.free(table, 0)
            if cache.space is not None:
                pool = prepared_again(prepared, asked, cache)
        rows.append([name, *(f"{100 * share[name, tokens]:.1f}" for tokens in LENGTHS)])
        if len(of_pages) > 1:
            resident.append(of_pages)
        del pool, cache
        places.append([name, *(placed(prepared, asked, tokens) for tokens in LENGTHS)])
    heads = [f"{tokens} tokens" for tokens in LENGTHS]
    report.table("Memory that one request holds and does not use, %", ["", *heads], rows)
    report.table("Resident memory behind one request, of what is on the books, MB", ["", *heads], resident)
    report.table(f"Requests that have a place in the memory of {MEMORY_TOKENS:,} tokens", ["", *heads], places)
    paged, fine, _, coarse, reserved = LAYOUTS
    report.figure(
        "waste at 100 tokens, reserved / paged", share[reserved, 100] / share[paged, 100], "x", goal=LEAST_RESERVED
    )
    report.figure(
        "waste at 100 tokens, pages of 2 MiB / blocks of 16",
        share[coarse, 100] / share[paged, 100],
        "x",
        goal=LEAST_COARSE,
    )
    report.figure("waste at 100 tokens, pages of 4 KiB / blocks of 16", share[fine, 100] / share[paged, 100], "x")


def prepared_again(prepared: Prepared, asked: KVLayout, cache: KVCache) -> BlockPool:
    """A fresh pool over a cache whose pages are given back."""
    engine = prepared.spec.engine.model_copy(update={"kv_layout": asked})
    laid = prepare(prepared.spec.model_copy(update={"engine": engine}))
    return laid.layout.make_pool(ROOM_TOKENS // BLOCK, None, None, cache)


def fill(cache: KVCache, table: Sequence[int], tokens: int) -> None:
    """Write keys and values of a request's tokens, as storing them would."""
    slots = torch.tensor([table[p // BLOCK] * BLOCK + p % BLOCK for p in range(tokens)])
    ones = torch.ones(tokens, cache.data.shape[2], cache.data.shape[5], dtype=cache.dtype)
    for layer in range(len(cache.key_slots)):
        cache.store(layer, slots, ones, ones)


def placed(prepared: Prepared, asked: KVLayout, tokens: int) -> int:
    """Requests of this length that the books of one pool admit."""
    engine = prepared.spec.engine.model_copy(
        update={"kv_layout": asked, "kv_blocks": MEMORY_TOKENS // BLOCK, "max_num_seqs": MEMORY_TOKENS // BLOCK}
    )
    laid = prepare(prepared.spec.model_copy(update={"engine": engine}))
    layout = laid.layout
    memory = MEMORY_TOKENS // BLOCK
    return memory // layout.blocks_of(tokens)


# ---------------------------------------------------------------------- attention


def kernel(report: Report, model: LoadedModel, repeats: int) -> None:
    torch.set_num_threads(1)
    shape = model.shape
    heads = (shape.heads, shape.kv_heads, shape.head_dim)
    cases = {
        "prefill": [(1, 256, context) for context in (256, 1024, 2048)],
        "decode": [(8, 1, context) for context in (256, 1024, 2048)],
    }
    for what, sizes in cases.items():
        rows, ratios = [], []
        for requests, new, context in sizes:
            ways = attention_ways(heads, requests, new, context)
            taken = interleave(ways, repeats)
            against = paired_ratio(taken["contiguous"], taken["scattered"])
            ratios.append(against)
            low, high = against.spread
            rows.append(
                [
                    f"{requests} x {new} new, context {context}",
                    *(f"{1e3 * statistics.median(times):.3f}" for times in taken.values()),
                    f"{number(against.median)} ({number(low)} to {number(high)})",
                ]
            )
        columns = ["", "scattered, ms", "in order, ms", "contiguous, ms", "contiguous / scattered"]
        report.table(f"One layer's attention, {what}", columns, rows)
        last = ratios[-1]
        report.figure(
            f"{what}, contiguous / scattered blocks, context {sizes[-1][2]}", last.median, "x", better="lower", goal=NO_SLOWER,
            spread=last.spread,
        )  # fmt: skip


def attention_ways(
    heads: tuple[int, int, int], requests: int, new: int, context: int
) -> dict[str, Callable[[], float]]:
    """Ways to attend to the same keys: each returns the processor time of one layer, in seconds."""
    blocks = blocks_for(context, BLOCK)
    order = list(range(requests * blocks))
    scattered = order[:]
    random.Random(0).shuffle(scattered)
    ways = {}
    for name, table, contiguous in (
        ("scattered", scattered, False),
        ("in order", order, False),
        ("contiguous", order, True),
    ):
        cache = KVCache(1, heads[1], heads[2], requests * blocks, BLOCK, torch.float32, CPU)
        cache.data.normal_(generator=torch.Generator().manual_seed(0))
        cache.contiguous = contiguous
        attention = make_attention("native", cache, *heads)
        attention.begin(batch_of([table[n * blocks : (n + 1) * blocks] for n in range(requests)], new, context))
        q = torch.randn(requests * new, heads[0], heads[2])
        ways[name] = timed(partial(attention.attend, 0, q))  # type: ignore[attr-defined]
    return ways


def batch_of(tables: Sequence[list[int]], new: int, context: int) -> AttentionBatch:
    """The last ``new`` tokens of a request for each block table, all of one context."""
    slices = []
    for index, table in enumerate(tables):
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * context, Sampling(), 1)
        request.block_table = table
        slices.append(Slice(request, new, context - new, new > 1))
    return build_batch(Plan(slices), BLOCK, CPU).attention


def timed(attend: Callable[[], object], least_s: float = 0.05) -> Callable[[], float]:
    """Seconds of one call, of as many as fill ``least_s``, the shortest of five such stretches."""
    began = time.thread_time()
    attend()
    calls = max(1, int(least_s / 5 / max(1e-6, time.thread_time() - began)))

    def once() -> float:
        stretches = []
        for _ in range(5):
            begin = time.thread_time()
            for _ in range(calls):
                attend()
            stretches.append((time.thread_time() - begin) / calls)
        return min(stretches)

    return once


# ---------------------------------------------------------------------- a far pool


def far(report: Report, model: LoadedModel, repeats: int) -> None:
    """One layer's attention of decodes by the share of their keys that lies in the far pool."""
    torch.set_num_threads(1)
    shape = model.shape
    heads = (shape.heads, shape.kv_heads, shape.head_dim)
    rows = []
    for requests, context in ((1, 2048), (8, 512), (8, 2048)):
        taken = interleave(far_ways(heads, requests, context), repeats)
        none, *others = taken.values()
        ratios = [paired_ratio(times, none) for times in others]
        cells = [f"{ratio.median:.2f}" for ratio in ratios]
        rows.append([f"{requests} x context {context}", f"{1e3 * statistics.median(none):.3f}", *cells])
    heads_of = ["", "all in the KV pool, ms", *(f"{share:.0%} far, x" for share in FAR_SHARES[1:])]
    report.table("One layer's attention of decodes, over that with one pool", heads_of, rows)
    report.figure(
        f"decodes with half of their keys far / with one pool, {requests} x context {context}", ratios[1].median, "x",
        better="lower", goal=MOST_FAR, spread=ratios[1].spread,
    )  # fmt: skip


def far_ways(heads: tuple[int, int, int], requests: int, context: int) -> dict[str, Callable[[], float]]:
    """Decodes with shares of their first blocks in the far pool: each returns the processor time of one layer, in
    seconds. The outputs are the same."""
    blocks = blocks_for(context, BLOCK)
    q, k, v = (torch.randn(requests, n, heads[2]) for n in (heads[0], heads[1], heads[1]))
    content = torch.randn(1, 2, heads[1], requests * blocks, BLOCK, heads[2])
    ways, outputs = {}, []
    for share in FAR_SHARES:
        lent = min(blocks - 1, round(share * blocks))
        near, away = (
            KVCache(1, *heads[1:], requests * n, BLOCK, torch.float32, CPU) for n in (blocks - lent, lent or 1)
        )
        if lent:
            near.far = FarStore(near, away)
        tables = []
        for n in range(requests):
            first, last = range(n * lent, (n + 1) * lent), range(n * (blocks - lent), (n + 1) * (blocks - lent))
            tables.append([*(near.num_blocks + block for block in first), *last])
            away.data[:, :, :, first] = content[:, :, :, n * blocks : n * blocks + lent]
            near.data[:, :, :, last] = content[:, :, :, n * blocks + lent : (n + 1) * blocks]
        attention = make_attention("gathered", near, *heads)
        attention.begin(batch_of(tables, 1, context))
        forward = partial(attention.forward, 0, q, k, v)
        outputs.append(forward())
        ways[f"{share:.0%}"] = timed(forward)
    assert all(torch.allclose(outputs[0], other, rtol=1e-4, atol=1e-5) for other in outputs), "the merge is not exact"
    return ways


# ---------------------------------------------------------------------- pages


def pages(report: Report, prepared: Prepared, repeats: int) -> None:
    tokens = 512
    rows = []
    for name in ("mapped, pages of 4 KiB", "mapped, pages of 64 KiB"):
        asked = LAYOUTS[name]
        _, pool, cache = with_layout(prepared, asked, ROOM_TOKENS)
        blocks = blocks_for(tokens, BLOCK)

        def write(fresh: bool, pool: BlockPool = pool, cache: KVCache = cache, blocks: int = blocks) -> float:
            table = pool.allocate(blocks, 0, 0)  # whoever comes takes the range that the last one left mapped
            if fresh:
                pool.free(table, 0)
                assert cache.space is not None
                cache.space.unmap(table[0] // pool.length, blocks)  # type: ignore[attr-defined]
                table = pool.allocate(blocks, 0, 0)
            begin = time.thread_time()
            if fresh:
                assert cache.space is not None
                cache.space.map(table[0] // pool.length, 0, blocks)  # type: ignore[attr-defined]
            fill(cache, table, tokens)
            took = time.thread_time() - begin
            pool.free(table, 0)
            return took

        write(False)
        taken = interleave({"fresh": lambda w=write: w(True), "kept": lambda w=write: w(False)}, repeats)
        ratio = paired_ratio(taken["kept"], taken["fresh"])
        rows.append(
            [name, *(f"{1e3 * statistics.median(times):.2f}" for times in taken.values()), number(ratio.median)]
        )
        report.figure(
            f"writing {tokens} tokens, kept / fresh ({name})",
            ratio.median,
            "x",
            better="lower",
            goal=MOST_TAX,
            spread=ratio.spread,
        )
    report.table(f"Writing {tokens} tokens' keys and values, all layers", ["", "fresh, ms", "kept, ms", "ratio"], rows)


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
