"""Prefix sharing on a CPU: its three effects one by one, and what looking for prefixes costs where there are none.

- *on / off*: requests behind one long system text, served by the engine (one thread) with prefix sharing off and on: time to first
  token, prefill tokens computed, prompt tokens found.
- *lookup*: finding and taking over a known prefix, and publishing a new one, per request, beside the prefill it is part of.
- *no overlap*: the same engine on prompts that have nothing in common, off and on.
- *decode*: one layer's attention for g requests behind one prefix of P tokens, each reading its blocks itself (memory is shared, reads
  are not) and with shared-prefix attention. Caches of several layers take turns, so that nothing is read from the processor's cache
  that an engine would not find there. Both copy keys together before they multiply, the first once per request: its copies outgrow the
  caches, so the time ratio may exceed the modelled ratio of bytes.
- *order*: a batch known in advance, documents x questions shuffled, in a pool that holds half of the documents: its makespan with groups
  run together over that in order of arrival with the least recently used evicted, and the prompt tokens each found.
- *in flight*: how many such requests the same pool holds, counted on the scheduler's books.

``python -m benchmarks.prefix [--repeats N] [--model NAME] [--parts lookup,decode,...] [--json FILE] [--check]``
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, arguments, as_a_worker, interleave, paired_ratio, some_of, summarise
from benchmarks.prefix_decode import decode
from engine.config import EngineConfig, PrefixSharing, RequestSpec, RunSpec, Sampling
from engine.kv.pool import BlockPool
from engine.kv.prefix import PrefixCache
from engine.kv.prefixes import Prefixes
from engine.request import Request
from engine.scheduling.policies import POLICIES
from engine.scheduling.policies.base import Limits
from engine.scheduling.scheduler import Scheduler
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

PARTS = ("serving", "lookup", "no-overlap", "order", "decode", "in-flight")
BLOCK = 16
DOCUMENTS, QUESTIONS, DOCUMENT = 8, 4, 160  # documents, questions about each, tokens of a document
SHARED, OWN, OUTPUT = 384, 32, 8  # tokens of the serving workload
LOOKUP_SHARE, OVERHEAD_SHARE = 0.01, 0.01  # goals


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument("--model", default="random:smollm2-135m", help="what is served")
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}, with commas"
    )
    options = parser.parse_args(words)
    parts = set(options.parts)
    report = Report("prefix")
    report.note_load()
    if parts & {"serving", "lookup", "no-overlap"}:
        shared = prepare(workload(options.model, requests=8, common=SHARED))
        if "serving" in parts:
            serving(report, shared, options.repeats)
        if "lookup" in parts:
            lookup(report, shared, options.repeats)
        if "no-overlap" in parts:
            no_overlap(report, shared, options.model, options.repeats)
    if "order" in parts:
        order(report, options.model, options.repeats)
    if "decode" in parts:
        decode(report, options.repeats)
    if "in-flight" in parts:
        in_flight(report)
    report.note_load()
    return report.finish(options)


# ---------------------------------------------------------------------- the engine


def workload(model: str, *, requests: int, common: int) -> RunSpec:
    """Requests at once; their first ``common`` tokens are equal, the rest of ``SHARED + OWN`` is not."""
    rng = random.Random(0)
    stem = tuple(rng.randrange(10, 48_000) for _ in range(common))
    asked = tuple(
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=stem + tuple(rng.randrange(10, 48_000) for _ in range(SHARED + OWN - common)),
            max_tokens=OUTPUT,
        )
        for i in range(requests)
    )
    config = EngineConfig(
        model=model,
        device="cpu",
        threads=1,
        kv_blocks=requests * 40,
        sampling=Sampling(ignore_eos=True),
        keep_text=False,
    )
    return RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=asked)


def serve(prepared: Prepared, spec: RunSpec, sharing: PrefixSharing | None) -> dict[str, float]:
    """Serve ``spec`` with the model at hand; seconds, mean TTFT, prefill tokens computed and found."""
    config = spec.engine.model_copy(update={"prefix_sharing": sharing})
    spec = spec.model_copy(update={"engine": config})
    requests = make_requests(spec, prepared.model, prepared.device, prepared.max_model_len)
    folder = tempfile.TemporaryDirectory(prefix="servescope-bench-")
    with folder, Recorder(Path(folder.name), "off", clock := RunClock()) as recorder:
        engine = build_engine(replace(prepared, spec=spec, requests=requests), recorder, clock)
        host = Stopwatch()
        for name in ("plan", "commit", "remove"):
            setattr(engine.scheduler, name, host.around(getattr(engine.scheduler, name)))
        start = time.perf_counter()
        engine.run(requests)
        seconds = time.perf_counter() - start
    hits = engine.totals.prefix_hit_tokens
    ttft = statistics.mean((r.first_token_ns or 0) - r.arrival_ns for r in requests) / 1e6
    prompt = sum(r.num_prompt_tokens for r in requests)
    computed = float(prompt - hits)
    return {"seconds": seconds, "host_s": host.seconds, "ttft_ms": ttft, "computed": computed, "found": float(hits)}


class Stopwatch:
    """Adds up the time spent in the functions put ``around``."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = work(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return timed


def serving(report: Report, prepared: Prepared, repeats: int) -> None:
    sides: dict[str, Callable[[], dict[str, float]]] = {
        "off": lambda: serve(prepared, prepared.spec, None),
        "on": lambda: serve(prepared, prepared.spec, PrefixSharing()),
    }
    by_side = interleave(sides, repeats)
    rows = [
        [side, *(summarise([run[key] for run in runs]).median for key in ("ttft_ms", "computed", "found", "seconds"))]
        for side, runs in by_side.items()
    ]
    title = f"{len(prepared.requests)} requests behind {SHARED} common tokens, {OWN} of their own"
    report.table(title, ["prefix sharing", "TTFT mean, ms", "prefill computed", "prefix found", "seconds"], rows)
    ratio = paired_ratio([r["ttft_ms"] for r in by_side["on"]], [r["ttft_ms"] for r in by_side["off"]])
    report.figure("TTFT on / off", ratio.median, "x", better="lower", spread=ratio.spread)
    computed = by_side["on"][0]["computed"] / by_side["off"][0]["computed"]
    report.figure("prefill tokens on / off", computed, "x", better="lower")


def lookup(report: Report, prepared: Prepared, repeats: int) -> None:
    """The index's whole work for a request, found or new, beside the prefill of that request."""
    length = SHARED + OWN
    rng = random.Random(1)
    times: dict[str, list[float]] = {"found": [], "new": []}
    pool = BlockPool(4000, BLOCK)
    prefixes = PrefixCache(pool, PrefixSharing(), lambda source, destination: None)
    stem = [rng.randrange(48_000) for _ in range(SHARED)]
    for index in range(200 * repeats):
        own = [rng.randrange(48_000) for _ in range(length)]
        for kind, ids in (("found", stem + own[SHARED:]), ("new", own)):
            request = Request(index, RequestSpec(request_id=str(index), prompt="-"), ids, Sampling(), 1)
            start = time.perf_counter()
            match = prefixes.match(request, pool.num_free)
            prefixes.blocks_needed(request, match)
            prefixes.attach(request, match)
            before, request.num_computed_tokens = request.num_computed_tokens, length
            prefixes.computed(request, before, length)
            prefixes.release(request)
            times[kind].append(time.perf_counter() - start)
    one = prepared.spec.model_copy(
        update={"requests": (prepared.spec.requests[0].model_copy(update={"max_tokens": 1}),)}
    )
    prefill = statistics.median(serve(prepared, one, None)["seconds"] for _ in range(max(2, repeats)))
    for kind, values in times.items():
        cost = statistics.median(values)
        note = f"{cost * 1e6:.0f} us of {prefill * 1e3:.0f} ms, a prompt of {length} tokens"
        report.figure(
            f"index work, prefix {kind}", cost / prefill, "of prefill", better="lower", goal=LOOKUP_SHARE, note=note
        )


def no_overlap(report: Report, prepared: Prepared, model: str, repeats: int) -> None:
    """End to end, and the scheduler's part alone: all that the toggle adds is done there, so noise cannot hide it."""
    apart = workload(model, requests=8, common=0)
    sides: dict[str, Callable[[], dict[str, float]]] = {
        "off": lambda: serve(prepared, apart, None),
        "on": lambda: serve(prepared, apart, PrefixSharing()),
    }
    by_side = interleave(sides, repeats)
    ratio = paired_ratio([r["seconds"] for r in by_side["on"]], [r["seconds"] for r in by_side["off"]])
    best = {side: min(r["seconds"] for r in runs) for side, runs in by_side.items()}
    note = "best of the repeats; the spread is that of neighbouring runs"
    report.figure(
        "time without overlap, on / off",
        best["on"] / best["off"],
        "x",
        better="lower",
        goal=1 + OVERHEAD_SHARE,
        spread=ratio.spread,
        note=note,
    )
    added = statistics.median(a["host_s"] - b["host_s"] for a, b in zip(by_side["on"], by_side["off"], strict=True))
    share = added / best["off"]
    report.figure("scheduling added without overlap", share, "of the run", better="lower", goal=OVERHEAD_SHARE)


def documents(model: str) -> RunSpec:
    """Every question about every document, shuffled; the pool holds half of the documents."""
    rng = random.Random(0)
    texts = [tuple(rng.randrange(10, 48_000) for _ in range(DOCUMENT)) for _ in range(DOCUMENTS)]
    pairs = [text for text in texts for _ in range(QUESTIONS)]
    rng.shuffle(pairs)
    asked = tuple(
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=text + tuple(rng.randrange(10, 48_000) for _ in range(BLOCK)),
            max_tokens=OUTPUT,
        )
        for i, text in enumerate(pairs)
    )
    each = -(-(DOCUMENT + BLOCK + OUTPUT) // BLOCK)
    config = EngineConfig(
        model=model,
        device="cpu",
        threads=1,
        kv_blocks=DOCUMENTS // 2 * each,
        max_num_seqs=2,
        sampling=Sampling(ignore_eos=True),
        keep_text=False,
    )
    return RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=asked)


def order(report: Report, model: str, repeats: int) -> None:
    prepared = prepare(documents(model))
    by_order = interleave(
        {
            "arrival": lambda: serve(prepared, prepared.spec, PrefixSharing()),
            "grouped": lambda: serve(prepared, prepared.spec, PrefixSharing(order="grouped")),
        },
        repeats,
    )
    rows = [
        [side, *(summarise([run[key] for run in runs]).median for key in ("seconds", "computed", "found"))]
        for side, runs in by_order.items()
    ]
    title = f"{DOCUMENTS} documents of {DOCUMENT} tokens x {QUESTIONS} questions, a pool for half of the documents"
    report.table(title, ["order", "makespan, s", "prefill computed", "prefix found"], rows)
    ratio = paired_ratio([r["seconds"] for r in by_order["grouped"]], [r["seconds"] for r in by_order["arrival"]])
    report.figure("makespan, grouped / arrival order", ratio.median, "x", better="lower", spread=ratio.spread)


# ---------------------------------------------------------------------- memory


def in_flight(report: Report) -> None:
    """Most requests at once in a pool of 512 blocks: 512 common tokens, 64 of their own, 32 of answer."""
    most: dict[str, Any] = {}
    for name, sharing in (("off", None), ("on", PrefixSharing())):
        pool = BlockPool(512, BLOCK)
        prefixes = Prefixes(pool) if sharing is None else PrefixCache(pool, sharing, lambda a, b: None)
        scheduler = Scheduler(pool, POLICIES["stall-free"](Limits(4096, None, 4096)), 1000, prefixes)
        for index in range(200):
            ids = [*range(512), *range(1000 + 64 * index, 1064 + 64 * index)]
            scheduler.add(Request(index, RequestSpec(request_id=str(index), prompt="-"), ids, Sampling(), 32))
        most[name] = 0
        while scheduler.has_work:
            plan = scheduler.plan()
            sampled = [s.request for s in plan.slices if s.samples]
            scheduler.commit(plan)
            most[name] = max(most[name], len(scheduler.running))
            for request in sampled:
                request.token_ids.append(0)
                if request.num_output_tokens >= request.max_tokens:
                    scheduler.remove(request)
    report.figure("requests in flight, off", most["off"], "requests")
    report.figure("requests in flight, on", most["on"], "requests")


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
