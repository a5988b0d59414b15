"""Output tokens/s on a CPU: this engine, ``transformers`` (static and continuous batching), OpenVINO GenAI, vLLM's CPU build, llama.cpp's
server, and the linear-layer bound.

Same weights, number format, threads, KV tokens, tokens in a batch and requests at once on all sides; greedy; end of sequence
ignored; loading and one warm batch not counted; each measurement in a process of its own, repeats interleaved. ``transformers``
packs a batch into one row with a block-diagonal mask for sdpa, so its attention grows with the square of the batch; static
batches are the second baseline for that reason. The engines of ``make peers`` are left out, by name, where they are not there.
A measurement during which other processes took more than 5 % of the machine is made again, up to four times.

``python -m benchmarks.cpu_peers [--repeats N] [--dtypes float32,bfloat16] [--requests N] [--json FILE] [--check]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import psutil

from benchmarks.harness import (
    ChildFailed,
    Report,
    arguments,
    hand_back,
    in_child,
    interleave,
    paired_ratio,
    some_of,
    summarise,
    undisturbed,
)
from benchmarks.peers.elsewhere import ELSEWHERE, missing
from benchmarks.peers.work import AT_ONCE, ragged

SIDES = {
    "ours": "this engine",
    "static": "transformers generate(), batches of 16",
    "continuous": "transformers ContinuousBatchingManager",
    "openvino": "OpenVINO GenAI ContinuousBatchingPipeline",
    "vllm": "vLLM's CPU build",
    "llama.cpp": "llama.cpp's server, 16 slots",
}
THEIRS = (("ours", "ours"), ("static", "transformers'"))  # whose outputs the others' are held against
LEAST_RATIO = {
    "float32": {"static": 1.6, "continuous": 1.6, "openvino": 1.15, "vllm": 1.15, "llama.cpp": 1.15},
    "bfloat16": {"static": 2.2, "continuous": 2.5, "openvino": 1.15, "vllm": 1.15, "llama.cpp": 1.15},
}
MOST_OTHERS = 5.0  # percent of the machine
TRIES = 4
LEAST_SHARE_OF_BOUND = 0.70


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument(
        "--dtypes", type=some_of(LEAST_RATIO), default=list(LEAST_RATIO), help="number formats, with commas"
    )
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--requests", type=int, help="fewer requests, to try things out; goals are for all of them")
    parser.add_argument("--sides", type=some_of(SIDES), default=list(SIDES), help="which sides, with commas")
    parser.add_argument(
        "--same-memory", action="store_true", help="give the other sides the memory settings that ours starts with"
    )
    parser.add_argument("--child", choices=[*SIDES, "bound"], help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        hand_back(measure(options.child, options.dtype, options.threads, options.requests))
        return 0
    report = Report("cpu_peers")
    absent = [side for side in options.sides if side in ELSEWHERE and missing(side)]
    if absent:
        options.sides = [side for side in options.sides if side not in absent]
        report.table("left out", ["side", "why"], [(SIDES[side], "not installed: make peers") for side in absent])
    for dtype in options.dtypes:
        compare(report, dtype, options)
    return report.finish(options)


def measure(side: str, dtype: str, threads: int, requests: int | None) -> dict[str, Any]:
    """One measurement, in this process. Only the side's own packages are imported."""
    if side == "ours":
        from benchmarks.peers.ours import measure as ours

        return ours(dtype, threads, requests)
    if side == "bound":
        from benchmarks.peers.linear_bound import measure as bound

        return bound(dtype, threads)
    from benchmarks.peers import huggingface

    return {"static": huggingface.measure_static, "continuous": huggingface.measure_continuous}[side](
        dtype, threads, requests
    )


def compare(report: Report, dtype: str, options: argparse.Namespace) -> None:
    """Measure every side and the bound in turn; add the figures of one number format."""

    def child(side: str) -> dict[str, Any]:
        if side in ELSEWHERE:
            return ELSEWHERE[side].measure(side, dtype, options.threads, options.requests)
        words = ["--child", side, "--dtype", dtype, "--threads", str(options.threads)]
        words += ["--requests", str(options.requests)] if options.requests else []
        return in_child("benchmarks.cpu_peers", *words, worker=options.same_memory or side == "ours")

    sides = able(
        report,
        dtype,
        [side for side in SIDES if side in options.sides],
        lambda side: ELSEWHERE[side].measure(side, dtype, options.threads, 1),
    )
    measures = {side: partial(undisturbed, partial(child, side), MOST_OTHERS, TRIES) for side in (*sides, "bound")}
    by_side = interleave(measures, options.repeats, before=report.note_load)
    speeds = {side: [one["output_tokens"] / one["seconds"] for one in by_side[side]] for side in sides}
    report.details[dtype] = by_side
    report.table(
        f"{dtype}: taken by other processes meanwhile, percent",
        ["side", "least", "most"],
        [(side, min(shares), max(shares)) for side, shares in others(by_side).items()],
    )
    resolved = {side: by_side[side][0]["resolved"] for side in sides}
    report.table(
        f"{dtype}: what each side resolved to",
        ["setting", *(SIDES[side] for side in sides)],
        [(key, *(resolved[side].get(key, "-") for side in sides)) for key in dict.fromkeys(chain(*resolved.values()))],
    )
    for side in sides:
        speed = summarise(speeds[side])
        equal = [
            (same_outputs(by_side, side, other), whose) for other, whose in THEIRS if other in sides and other != side
        ]
        note = ", ".join(f"{share} outputs equal {whose} token by token" for share, whose in equal) or None
        report.figure(f"{dtype} {side}", speed.median, "tokens/s", spread=speed.spread, note=note)
    if "ours" not in sides:
        return
    for side in sides[1:]:
        ratio = paired_ratio(speeds["ours"], speeds[side])
        goal = LEAST_RATIO[dtype][side] if dtype in LEAST_RATIO else None
        report.figure(f"{dtype} ours / {side}", ratio.median, "x", goal=goal, spread=ratio.spread)
    bounds(report, dtype, by_side["bound"], speeds["ours"], options.requests)


def able(report: Report, dtype: str, sides: Sequence[str], measure: Callable[[str], dict[str, Any]]) -> list[str]:
    """The sides that run in this number format here, tried with one request: OpenVINO reads its KV cache in bfloat16 on some processors
    only.
    """
    refused = {}
    for side in sides:
        if side in ELSEWHERE:
            try:
                measure(side)
            except ChildFailed as error:
                refused[side] = str(error).splitlines()[-1]
    if refused:
        rows = [(SIDES[side], why) for side, why in refused.items()]
        report.table(f"{dtype}: left out", ["side", "why"], rows)
    return [side for side in sides if side not in refused]


def others(by_side: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    return {side: [one["others_percent"] for one in measured] for side, measured in by_side.items()}


def bounds(
    report: Report, dtype: str, measured: Sequence[Mapping[str, Any]], ours: Sequence[float], requests: int | None
) -> None:
    """Add the share of the linear-layer bound: plain weights carry the goal, packed ones are the stricter line."""
    from benchmarks.peers.linear_bound import tokens_per_s

    work = ragged(requests)
    steps = work.output_tokens / AT_ONCE
    for kind, goal in (("plain", LEAST_SHARE_OF_BOUND), ("packed", None)):
        times = [one[kind] for one in measured if kind in one]
        if not times:
            continue
        limits = [tokens_per_s(one, work.prompt_tokens, work.output_tokens) for one in times]
        step, prefill = (
            summarise([one[key] for one in times]).median for key in ("decode_step_s", "prefill_tokens_per_s")
        )
        note = (
            f"{work.output_tokens} / ({steps:.1f} decode steps of {AT_ONCE} x {step * 1e3:.1f} ms "
            f"+ {work.prompt_tokens} prompt tokens / {prefill:.0f} per s)"
        )
        limit, share = summarise(limits), paired_ratio(ours, limits)
        report.figure(f"{dtype} bound, {kind} weights", limit.median, "tokens/s", spread=limit.spread, note=note)
        report.figure(f"{dtype} share of that bound, {kind}", share.median, "", goal=goal, spread=share.spread)


def same_outputs(by_side: Mapping[str, Sequence[Mapping[str, Any]]], side: str, other: str) -> str:
    """How many requests got the same tokens on both sides, in the first repeat."""
    pairs = list(zip(by_side[other][0]["digests"], by_side[side][0]["digests"], strict=True))
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


if __name__ == "__main__":
    sys.exit(main())
